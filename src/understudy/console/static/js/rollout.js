// The update of an endpoint that is under way: its steps, what both fleets answer, alarms, the way back.

import { h, replace, setText } from "./dom.js";
import { board, windowSince } from "./charts.js";
import { duration, number, time } from "./format.js";
import { alarmLink, card, changing, chip, confirmCalls, labelled, progress } from "./parts.js";
import { chartsOf } from "./metrics.js";
import { every, own, ownPath, server } from "./server.js";

const PHASES = {
  preparing: "New instances come up",
  shifting: "Routers take the step",
  baking: "Baking: alarms are watched",
  waiting: "Everything is on the new fleet; the old one stands by",
  returning: "All requests return to the old fleet",
  restoring: "Old instances come up again",
  draining: "Unused instances end",
};
const TYPES = { ALL_AT_ONCE: "Rollout all at once", CANARY: "Canary rollout", LINEAR: "Linear rollout", ROLLING: "Rolling update" };

/** Read how far an endpoint's update is. */
export const readRollout = (endpoint) => own("GET", ownPath(endpoint, "rollout"));

/**
 * The card of an update.  told: what readRollout answered; variants: names; since: when it began, Unix
 * seconds.  Returns {node, update(told), end}.
 */
export function rolloutCard(endpoint, told, variants, since) {
  const first = told.rollout;
  const phase = h("strong");
  const left = h("div");
  const shares = h("div.shares", { role: "img" });
  const words = h("p.fleets");
  const steps = h("ol.steps", { "aria-label": "Steps" });
  const alarms = h("div");
  const limit = h("span");
  const back = changing("Roll back", () => askBack(endpoint, first), "danger");
  const charts = first.from && first.from !== first.to ? board(endpoint, bothFleets(first, variants), windowSince(since - 60)) : null;
  const node = card(`${TYPES[first.type] ?? `${first.type} rollout`}: ${first.from ?? "nothing"} → ${first.to}`,
    h("div.row", {}, chip(told.status), phase, h("span.grow"), limit, back),
    shares, words, left, steps, alarms,
    charts && h("details", { open: true }, h("summary", {}, "Both fleets side by side"), charts.node));
  node.id = "rollout";
  const stop = charts ? every(Math.max(2, charts.period_s ?? 2), charts.read) : () => {};
  charts?.read();
  let drawn = "";

  function update(now) {
    const { rollout } = now;
    if (!rollout) return;
    setText(phase, PHASES[rollout.phase] ?? rollout.phase);
    back.disabled = server.readonly || !rollout.can_roll_back;
    const share = rollout.share_percent;
    const shape = JSON.stringify([share, rollout.step, rollout.phase, rollout.alarms, rollout.old_instances, rollout.new_instances, rollout.rollback_reason]);
    if (shape !== drawn) {
      drawn = shape;
      shares.setAttribute("aria-label", `${number(share)} % of requests go to ${rollout.to}`);
      replace(shares, h("span", { style: { flex: `${share} 0 0`, background: "var(--c1)" } }), h("span", { style: { flex: `${100 - share} 0 0`, background: "var(--c0)" } }));
      replace(words, h("span", {}, h("i.dot", { style: { background: "var(--c1)" } }), `new ${rollout.to} `, h("strong", {}, `${number(share)} %`), ` · ${instances(rollout.new_instances)}`),
        rollout.from && h("span", {}, h("i.dot", { style: { background: "var(--c0)" } }), `old ${rollout.from} `, h("strong", {}, `${number(100 - share)} %`), ` · ${instances(rollout.old_instances)}`));
      replace(steps, stepsOf(rollout));
      replace(alarms, rollout.rollback_reason && h("p.notice.bad", { role: "alert" }, rollout.rollback_reason),
        rollout.alarms.length ? h("ul.plain", { "aria-label": "Alarms" }, rollout.alarms.map((one) => h("li.row", {}, alarmLink(one.name), one.state ? chip(one.state) : h("span.chip.bad", {}, "▲ missing"), h("span.faint.reason", {}, one.reason ?? ""))))
          : rollout.kind === "update" && h("p.faint", {}, "No alarm guards this update: only failing instances, a time limit or you take it back."));
      replace(limit, rollout.times_out_at_s !== null && h("span.faint", {}, "gives up ", time(rollout.times_out_at_s, { ago: true })));
    }
    if (rollout.left_s === null) replace(left);
    else {
      const whole = rollout.ends_at_s - rollout.phase_at_s;
      replace(left, progress(whole > 0 ? 1 - rollout.left_s / whole : 1, `${PHASES[rollout.phase]}`), h("span.faint", {}, `${duration(rollout.left_s)} left of ${duration(whole)}`));
    }
  }
  update(told);
  return { node, update, end: () => { stop(); charts?.end(); } };
}

const instances = (counts) => Object.entries(counts).map(([name, count]) => `${name}: ${count} ${count === 1 ? "instance" : "instances"}`).join(", ") || "no instances";

/** Each step with its share: done, under way or to come. */
function stepsOf(rollout) {
  const over = ["waiting", "draining"].includes(rollout.phase) && rollout.share_percent >= 100;
  const back = ["returning", "restoring"].includes(rollout.phase) || rollout.rollback_reason;
  return rollout.steps_percent.map((percent, at) => {
    const number_ = at + 1;
    const state = over || number_ < rollout.step ? "done" : number_ === rollout.step ? (back ? "back" : rollout.phase === "preparing" ? "next" : "now") : "next";
    const word = { done: "done", now: "under way", next: "to come", back: "taken back" }[state];
    return h(`li.${state}`, { "aria-current": state === "now" ? "step" : undefined }, h("span.sign", { "aria-hidden": "true" }, { done: "✓", now: "●", next: "○", back: "↩" }[state]),
      h("strong", {}, `${number(percent)} %`), h("span.faint", {}, word));
  });
}

/** Requests, errors and latency of the old and the new fleet: the dimension EndpointConfigName tells them apart. */
function bothFleets(rollout, variants) {
  return chartsOf(["requests", "errors5", "p90"], variants.map((name) => ({ name }))).map((chart) => ({
    ...chart,
    lines: chart.lines.flatMap((line) => [["new", rollout.to, "var(--c1)"], ["old", rollout.from, "var(--c0)"]].map(([fleet, config, colour]) => ({
      ...line, name: variants.length > 1 ? `${fleet} ${line.name}` : `${fleet} ${config}`, colour, dimensions: [{ Name: "EndpointConfigName", Value: config }],
    }))),
  }));
}

/** Ask why, show the call, take it back. */
export function askBack(endpoint, rollout, done = () => {}) {
  const reason = h("input", { maxlength: 500, placeholder: "too slow for the night batch" });
  confirmCalls(`Roll ${endpoint} back?`, `All requests return to ${rollout.from} at once; the instances of ${rollout.to} end. No request is lost.`,
    () => [["understudy", `POST ${ownPath(endpoint, "rollback")}`, reason.value ? { reason: reason.value } : {}]], "Roll back now", done, "danger", [labelled("Reason", reason, "Kept in the audit trail and in FailureReason.")]);
}
