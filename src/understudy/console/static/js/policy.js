// What must be proven of an endpoint's changes: seen as a table, changed as JSON, asked of what was logged.

import { h, replace } from "./dom.js";
import { duration, number, percent } from "./format.js";
import { busy, card, changing, chip, confirmCalls, labelled, refusal, table } from "./parts.js";
import { call, own, ownPath } from "./server.js";
import { snippet } from "./snippets.js";

const RATIOS = ["rate", "latency", "paired"];
const bound = (rule, value) => (value === null ? "–" : RATIOS.includes(rule.measure) ? `× ${number(value)}` : number(value));

/** told: the verdict that is shown; done: what to do when the policy changed. */
export function policyCard(endpoint, told, done) {
  const path = ownPath(endpoint, "policy");
  const body = h("div");
  const node = card("Policy: what must be proven", body);
  node.id = "policy";

  async function read() {
    const held = await own("GET", path);
    const policy = held.default ? held.policies[told.kind === "rollout" ? "deploy" : "experiment"] : held.policy;
    const said = h("div");
    const text = h("textarea", { rows: 14, spellcheck: "false", value: JSON.stringify(policy, null, 2) });
    const wanted = () => JSON.parse(text.value);
    const set = () => [["understudy", `PUT ${path}`, wanted()]];
    const preview = snippet(set());
    const attempt = async (button, work) => {
      button.disabled = true;
      try {
        await work();
      } catch (error) {
        replace(said, refusal(error instanceof SyntaxError ? { code: "No JSON", message: error.message } : error));
      }
      button.disabled = false;
    };
    const ask = h("button", { type: "button", onclick: () => attempt(ask, async () => {
      replace(said, busy("Reading what was logged …"));
      const other = await call("understudy", `POST ${ownPath(endpoint, "verdict")}`, { policy: wanted(), control: told.control.variant === told.treatment.variant ? told.control.config : told.control.variant, treatment: told.control.variant === told.treatment.variant ? told.treatment.config : told.treatment.variant });
      replace(said, h("div.notice", { role: "status" }, h("p", {}, "Under this policy: ", chip(other.verdict)), h("p.reason", {}, other.reason), h("p.faint", {}, "That holds what it promises only if the policy was chosen without looking.")));
    }) }, "Ask what it would say");
    const save = changing("Set", () => attempt(save, async () => {
      for (const one of set()) await call(...one);
      await read();
      done();
    }), "primary");
    const forget = changing("Return to the defaults", () => confirmCalls("Return to the default policies?", "Evidence begins anew.", [["understudy", `DELETE ${path}`, {}]], "Return to the defaults", () => {
      read().catch((error) => replace(said, refusal(error)));
      done();
    }));
    text.addEventListener("input", () => {
      try {
        preview.update(set());
        replace(said);
      } catch {
        replace(said, h("p.faint", {}, "This is no JSON yet."));
      }
    });
    const rules = [...(policy.primary ? [["primary: better", policy.primary]] : []), ...policy.guardrails.map((one) => ["guardrail: no worse", one])];
    replace(body, h("p", {}, h("strong", {}, policy.name), h("span.faint", {}, ` ${held.default ? "the default" : "set for this endpoint"} · ${policy.kind} · a wrong PROMOTE in at most ${percent(policy.alpha_promote)}, a wrong ROLLBACK in ${percent(policy.alpha_rollback)} · at least ${number(policy.minimum_requests)} requests of each · labels and outcomes count after ${duration(policy.label_window_s)}`)),
      table([{ title: "Metric" }, { title: "Must be" }, { title: "Good is" }, { title: "Worth finding", number: true }, { title: "No worse means within", number: true }, { title: "Harm begins at", number: true }],
        rules.map(([what, rule]) => [h("strong", {}, rule.metric), what, rule.better, bound(rule, rule.mde), bound(rule, rule.margin), bound(rule, rule.tolerance)]), { caption: "Policy" }),
      h("details", {}, h("summary", {}, "Another policy"), h("p.faint", {}, "Set it before the test: evidence begins anew."), labelled("Policy as JSON", text), preview.node, said, h("div.row", {}, ask, save, !held.default && forget)));
  }
  read().catch((error) => replace(body, refusal(error)));
  return node;
}
