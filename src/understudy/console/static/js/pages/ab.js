// A/B: /ab lists what is judged; /ab/NAME shows one verdict with its evidence, the quality of each variant,
// other rules' opinions, the policy, and what to do: promote, keep or roll back.
//
// Evidence is told as e-values and confidence sequences, which hold at every look; p-values are not shown.

import { append, h, replace } from "../dom.js";
import { board, windowSince } from "../charts.js";
import { count, latency, number, percent, time } from "../format.js";
import { card, changing, chip, colour, confirmCalls, empty, endpointLink, heading, refusal, segmented, table } from "../parts.js";
import { policyCard } from "../policy.js";
import { qualityCard } from "../quality.js";
import { askBack, readRollout } from "../rollout.js";
import { answerOf, answersOf, every, get, ownPath } from "../server.js";

const NAMESPACE = "Understudy/Verdicts";
const RATIOS = ["rate", "latency", "paired"];
const KIND = { PROMOTE: "good", KEEP: "plain", HOLD: "plain", ROLLBACK: "bad", INVALID: "bad" };
const MEANS = {
  PROMOTE: "No guardrail is worse and, where there is a primary metric, it is better: proven.",
  KEEP: "Keep the control: a gain worth having is ruled out.",
  HOLD: "Nothing is proven yet.",
  ROLLBACK: "Harm is proven.",
  INVALID: "The numbers do not mean what they seem to.",
};

export async function page(place) {
  return place.path[0] ? one(place) : list(place);
}

const MOST_SHOWN = 20;

const verdictPath = (name, { control, treatment } = {}) => {
  const query = new URLSearchParams({ ...(control && { control }), ...(treatment && { treatment }) }).toString();
  return ownPath(name, query ? `verdict?${query}` : "verdict");
};
const readVerdict = (name, query) => answerOf(verdictPath(name, query));
const arm = (one) => `${one.variant} (${one.config})`;

async function list() {
  const body = h("div");
  const node = h("div", {}, heading("A/B verdicts"), body);
  async function draw() {
    const status = await get("status");
    const busy = new Set((status.rollouts ?? []).map((each) => each.endpoint));
    const all = status.endpoints.filter((each) => busy.has(each.name) || each.variants.filter((variant) => !variant.shadow).length > 1);
    const judged = all.slice(0, MOST_SHOWN);
    const told = await answersOf(judged.map((each) => verdictPath(each.name)));
    replace(body, judged.length ? card("What is judged", table([{ title: "Endpoint" }, { title: "Verdict" }, { title: "Control and treatment" }, { title: "Why" }, { title: "Requests", number: true }],
      judged.map((each, at) => {
        const verdict = told[at];
        const link = h("a", { href: `/console/ab/${encodeURIComponent(each.name)}` }, each.name);
        if (!verdict.verdict) return [link, "–", "", h("span.faint", {}, verdict.message), ""];
        return [link, chip(verdict.verdict), [h("div", {}, arm(verdict.control)), h("div", {}, arm(verdict.treatment))], h("span.reason", {}, verdict.reason), count(verdict.requests)];
      }), { caption: "Verdicts", stack: true }),
      all.length > MOST_SHOWN && h("p.faint", {}, `The first ${MOST_SHOWN} of ${count(all.length)}; the page of each endpoint leads to its own.`))
      : empty("Nothing is judged", "An endpoint with two production variants is judged while it serves, and so is every rollout that shifts traffic step by step. A walk through one:", "python examples/ab_walk.py"));
  }
  await draw();
  return { title: "A/B", node, end: every(10, () => draw().catch(() => {})) };
}

async function one({ path: [name], query, go }) {
  const wanted = { control: query.get("control"), treatment: query.get("treatment") };
  const status = await get("status");
  const endpoint = status.endpoints.find((each) => each.name === name);
  const title = `${name}: A/B`;
  const ends = [];
  let told;
  try {
    told = await readVerdict(name, wanted);
  } catch (error) {
    const node = h("div", {}, heading(name, { kind: "A/B verdict" }));
    append(node, endpoint ? [empty("Nothing to judge yet", error.message, `understudy verdict ${name}`)] : [refusal(error)]);
    if (endpoint) append(node, qualityOf());
    return { title, node, end: () => ends.forEach((each) => each()) };
  }

  const state = h("span");
  const verdict = h("section.card.verdict", { "aria-label": "Verdict" });
  const evidence = h("div");
  const opinions = h("div");
  const validity = h("div");
  const actions = h("div.actions");
  const charts = board(name, evidenceCharts(told), windowSince(told.started_at));
  const node = h("div", {},
    heading(name, { kind: "A/B verdict", status: state, actions: [h("a.button", { href: `/console/endpoints/${encodeURIComponent(name)}` }, "Endpoint")] }),
    told.pairs.length > 1 && segmented("Pairs", told.pairs.map((pair) => [key(pair), `${pair.treatment.variant}${pair.kind === "rollout" ? ` of ${pair.treatment.config}` : ""} against ${pair.control.variant}`]), key(told),
      (value) => { const [, control, treatment] = JSON.parse(value); return `/console/ab/${encodeURIComponent(name)}?${new URLSearchParams({ control, treatment })}`; }),
    verdict, card("Evidence", evidence),
    h("section.card", { "aria-label": "Evidence over time" }, h("h2", {}, "Evidence over time"),
      h("p.faint", {}, "The ribbon is a 95 % confidence sequence: it covers the true value at every look, however often you look. Evidence that crosses its line is proof; it is on a logarithmic scale."), charts.node),
    h("div.two", {}, h("div", {}, card("Is it valid?", validity)), h("div", {}, card("What other rules say", h("p.faint", {}, "Of the same counts, and never acted on: they do not hold when somebody looks again and again, or when weights change."), opinions))));
  append(node, qualityOf());
  append(node, [policyCard(name, told, () => refresh())]);
  charts.read();
  ends.push(charts.end, every(Math.max(2, charts.period_s), charts.read), every(3, () => refresh().catch(() => {})));

  function qualityOf() {
    const made = qualityCard(name, endpoint.variants.map((each, at) => ({ name: each.name, colour: colour(at) })));
    ends.push(made.end);
    return [made.node];
  }

  function tell() {
    const kind = KIND[told.verdict] ?? "plain";
    replace(state, chip(told.verdict));
    verdict.className = `card verdict ${kind}`;
    replace(verdict, h("div.row", {}, h("p.decision", {}, told.verdict), h("p", {}, MEANS[told.verdict])),
      h("p.reason", {}, told.reason),
      h("p.faint", {}, `${arm(told.treatment)} against ${arm(told.control)} · ${count(told.requests)} requests since `, time(told.started_at), told.decided_at && [" · decided ", time(Date.parse(told.decided_at) / 1000)], told.ended && " · ended",
        ` · policy ${told.policy}: a wrong PROMOTE in at most ${percent(told.alpha.promote)}, a wrong ROLLBACK in ${percent(told.alpha.rollback)} of tests`),
      Object.keys(told.would_change).length > 0 && h("div", {}, h("h3", {}, "What would change it"), h("ul.plain", {}, Object.entries(told.would_change).map(([what, text]) => h("li", {}, h("strong", {}, what.replaceAll("_", " ")), ` ${text}`)))),
      actions, h("p.faint", {}, "Decide again from what was stored: ", h("code", {}, `understudy ${told.replay}`)));
    replace(actions, offers());
    replace(evidence, evidenceTable(told.evidence));
    replace(opinions, opinionTable(told));
    replace(validity, validityTable(told.validity));
  }

  /** What can be done about it, with the call. */
  function offers() {
    if (told.ended) return [];
    const unproven = (fits) => (fits ? "" : `The verdict is ${told.verdict}, not this. `);
    if (told.kind === "rollout")
      return [changing("Roll back", async () => {
        const { rollout } = await readRollout(name).catch(() => ({ rollout: null }));
        if (rollout?.can_roll_back) askBack(name, rollout, () => go(`/console/endpoints/${encodeURIComponent(name)}`));
        else go(`/console/endpoints/${encodeURIComponent(name)}`);
      }, "danger"), h("span.faint", {}, "To promote, let it go on: its own steps take the traffic. ", endpointLink(name))];
    const sum = endpoint.variants.filter((each) => !each.shadow).reduce((total, each) => total + each.desired_weight, 0) || 1;
    const all = (winner) => [["sagemaker", "UpdateEndpointWeightsAndCapacities", { EndpointName: name,
      DesiredWeightsAndCapacities: endpoint.variants.filter((each) => !each.shadow).map((each) => ({ VariantName: each.name, DesiredWeight: each.name === winner ? sum : 0 })) }]];
    const offer = (text, winner, fits, style) => changing(text, () => confirmCalls(`${text}?`, `${unproven(fits)}All requests go to ${winner}; the other variants keep their instances, so that it can be undone by another weight.`, all(winner), text, () => go(`/console/endpoints/${encodeURIComponent(name)}`), style), fits ? "primary" : "plain");
    return [offer(`Promote ${told.treatment.variant}`, told.treatment.variant, told.verdict === "PROMOTE", "primary"),
      offer(`${told.verdict === "ROLLBACK" ? "Roll back to" : "Keep"} ${told.control.variant}`, told.control.variant, ["ROLLBACK", "KEEP"].includes(told.verdict), "danger")];
  }

  async function refresh() {
    const now = await readVerdict(name, wanted);
    if (JSON.stringify({ ...now, replay: "" }) === JSON.stringify({ ...told, replay: "" })) return;
    const same = key(now) === key(told) && now.evidence.map((each) => each.metric).join() === told.evidence.map((each) => each.metric).join() && now.started_at === told.started_at;
    told = now;
    if (same) tell();
    else go(location.pathname + location.search, { instead: true }); // another judgement, or another policy
  }
  tell();
  return { title, node, end: () => ends.forEach((each) => each()) };
}

/** Which judgement it is, as it is named in the address. */
function key(judged) {
  const part = judged.kind === "rollout" ? "config" : "variant";
  return JSON.stringify([judged.kind, judged.control[part], judged.treatment[part]]);
}

const ratio = (value) => (value === null || value === undefined ? "–" : `× ${number(value)}`);
const signed = (value) => (value === null || value === undefined ? "–" : `${value > 0 ? "+" : ""}${number(value)}`);
const shownBy = (row) => (RATIOS.includes(row.measure) ? ratio : signed);
const weight = (value) => (value === null || value === undefined ? "–" : value >= 1e6 ? value.toExponential(0) : number(value));

const QUESTIONS = [["harm", "harm"], ["noninf", "no harm"], ["superior", "a gain"], ["no_gain", "no gain"]];

function evidenceTable(rows) {
  return table([{ title: "Metric" }, { title: "Control", number: true }, { title: "Treatment", number: true }, { title: "Effect", number: true }, { title: "95 % confidence sequence", number: true }, { title: "Evidence of" }],
    rows.map((row) => {
      const counted = row.events ?? row.values ?? row.units ?? {};
      const show = row.values ? number : count;
      const format = shownBy(row);
      return [[h("strong", {}, row.metric), h("div.faint", {}, row.threshold_us ? `answers above ${latency(row.threshold_us)}` : row.events ? "events" : row.units ? "units" : row.examples !== undefined ? `${count(row.examples)} labelled` : row.measure)],
        show(counted.control), show(counted.treatment), format(row.effect), row.interval ? `${format(row.interval[0])} to ${format(row.interval[1])}` : "–",
        QUESTIONS.filter(([name]) => row[`E_${name}`] !== undefined).map(([name, text]) => {
          const enough = row[`max_E_${name}`] >= row[`needs_${name}`];
          return h("div", {}, h(enough ? "strong" : "span", {}, `${text} ${weight(row[`max_E_${name}`])}`), h("span.faint", {}, ` of ${weight(row[`needs_${name}`])}${enough ? ", proven" : ""}`));
        })];
    }), { caption: "Evidence" });
}

/** A ribbon per metric, and what all of it weighs. */
function evidenceCharts(told) {
  const config = { Name: "EndpointConfigName", Value: told.treatment.config };
  const line = (name, metric, colour, more = {}) => ({ name, metric, colour, variant: told.treatment.variant, namespace: NAMESPACE, stat: "Average", gauge: true, dimensions: [config], ...more });
  const ribbons = told.evidence.map((row) => {
    const of = { dimensions: [config, { Name: "Metric", Value: row.metric }] };
    const inRatio = RATIOS.includes(row.measure);
    return {
      title: `${row.metric}: ${inRatio ? "ratio" : "difference"}`, unit: inRatio ? "treatment to control" : "treatment less control", format: shownBy(row), scale: inRatio ? "ratio" : "around", bands: [[1, 2, "var(--c2)"]],
      lines: [line("effect", "Effect", "var(--c2)", of), line("at most", "EffectHigh", "var(--c2)", { ...of, thin: true }), line("at least", "EffectLow", "var(--c2)", { ...of, thin: true }),
        { name: "no difference", colour: "var(--ink-2)", dash: true, constant: inRatio ? 1 : 0 }],
    };
  });
  const proof = (alpha) => -Math.log10(alpha);
  return [...ribbons, {
    title: "Evidence", unit: "e-value, logarithmic", format: (value) => (value === null || value === undefined ? "–" : weight(10 ** value)), scale: "around",
    lines: [line("harm", "HarmEvidenceLog10", "var(--bad)", { stat: "Maximum" }), line("no harm", "NonInferiorityEvidenceLog10", "var(--c0)"), line("promotion", "PromoteEvidenceLog10", "var(--c4)"),
      { name: "line of harm", colour: "var(--bad)", dash: true, constant: proof(told.alpha.rollback) }, { name: "line of promotion", colour: "var(--c0)", dash: true, constant: proof(told.alpha.promote) }],
  }];
}

function opinionTable(told) {
  const rows = Object.entries(told.side_by_side).filter(([, one]) => Object.keys(one).length);
  if (!rows.length) return h("p.faint", {}, "They need requests of both variants first.");
  return table([{ title: "Metric" }, { title: "Verdict" }, { title: "z-test, looked at now" }, { title: "Sequential test on pooled counts" }, { title: "An alarm's threshold" }], rows.map(([metric, one]) => {
    const row = told.evidence.find((each) => each.metric === metric) ?? {};
    const ours = row.max_E_harm >= row.needs_harm ? "worse" : row.max_E_superior >= row.needs_superior ? "better" : row.max_E_noninf >= row.needs_noninf ? "no worse" : "nothing";
    return [h("strong", {}, metric), h("strong", {}, ours), one.z_test.says, one.sequential_test.says,
      one.cloudwatch_threshold ? Object.entries(one.cloudwatch_threshold).map(([rule, says]) => h("div", {}, `${says} `, h("span.faint", {}, `(${rule})`))) : "–"];
  }), { caption: "Second opinions" });
}

function validityTable(told) {
  const rows = [
    ["Split as the weights say", told.srm_E < told.srm_needs, `evidence against it ${weight(told.srm_E)} of ${weight(told.srm_needs)}: ${Object.entries(told.srm_checks).map(([name, value]) => `${name} ${weight(value)}`).join(", ") || "nothing counted yet"}`],
    ["Only what was assigned at random", true, `${count(told.excluded_targeted)} requests that named their variant are left out`],
    ["One model and configuration each", !told.config_changes, `${told.config_changes} changes`],
    ["Shares known", !told.unlogged, `${count(told.unlogged)} requests without`],
    ["Independent requests", !told.repeated_units, told.repeated_units ? "users keep their variant, but requests are counted" : "or users are counted"],
    told.label_maturity !== null && ["Labels had their time", !told.immature_counted, `${percent(told.label_maturity)} of the requests that are old enough have their label`],
    ["Evidence in one piece", true, `begun anew ${count(told.restarts)} times; ${number(told.warmup_excluded_s)} s of warm-up left out`],
  ].filter(Boolean);
  return table([{ title: "Check" }, { title: "" }, { title: "Details" }], rows.map(([what, good, detail]) => [what, h(good ? "span.chip.good" : "span.chip.bad", {}, good ? "● yes" : "▲ no"), detail]), { caption: "Validity" });
}

