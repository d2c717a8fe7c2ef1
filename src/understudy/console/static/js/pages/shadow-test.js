// One shadow test: how far it is, both variants over each other, and its end: promote or remove.

import { append, h, replace } from "../dom.js";
import { board, fixedWindow } from "../charts.js";
import { bytes, count, duration, latency, local, number, percent, time } from "../format.js";
import { instanceTypes } from "../instance-types.js";
import { card, changing, chip, choice, confirmCalls, dialog, empty, endpointLink, heading, labelled, modelLink, notice, progress, refusal, table } from "../parts.js";
import { chartsOf } from "../metrics.js";
import { call, every, get, server } from "../server.js";
import { snippet } from "../snippets.js";

const CHARTS = ["latency", "overhead", "invocations", "errors4", "errors5", "cpu", "memory", "disk"];
const LIVE = ["Running", "Updating", "Starting", "Stopping"];
const STATISTICS = [["SampleCount", "Samples"], ["Average", "Mean"], ["Minimum", "Min"], ["p50", "p50"], ["p90", "p90"], ["p99", "p99"], ["Maximum", "Max"]];
const ROWS = [
  ["ModelLatency", latency], ["OverheadLatency", latency], ["CPUUtilization", (value) => (value === null ? "–" : `${number(value)} %`)],
  ["MemoryUtilization", (value) => (value === null ? "–" : `${number(value)} %`)], ["DiskUtilization", (value) => (value === null ? "–" : `${number(value)} %`)],
];
const COUNTS = [["Invocations", "Invocations"], ["InvocationsPerInstance", "Invocations per instance"], ["Invocation4XXErrors", "4XX errors"], ["Invocation5XXErrors", "5XX errors"], ["InvocationModelErrors", "Model errors"]];
const OUTCOMES = { mirrored: "copied to the shadow", sampling: "left out by the sampling percentage", queue: "shed: the shadow's queue was full", breaker: "shed: the shadow did not answer", size: "shed: too large", shutdown: "shed: no instance, or a router ended" };

export async function page({ path: [name], query, go }) {
  const test = await call("sagemaker", "DescribeInferenceExperiment", { Name: name });
  const mode = test.ShadowModeConfig;
  const shadowName = mode.ShadowModelVariants[0].ShadowModelVariantName;
  const sampling = mode.ShadowModelVariants[0].SamplingPercentage;
  const sourceName = mode.SourceModelVariantName;
  const byName = Object.fromEntries(test.ModelVariants.map((one) => [one.VariantName, one]));
  const endpoint = test.EndpointMetadata.EndpointName;
  const live = LIVE.includes(test.Status);
  const ends = [];
  const { StartTime: start, EndTime: until } = test.Schedule ?? {};
  const variants = [{ name: sourceName, colour: "var(--c0)" }, { name: shadowName, colour: "var(--c1)" }];
  const again = () => go(location.pathname + location.search, { instead: true });

  const bar = h("div.facts");
  function showProgress() {
    const now = server.now();
    if (start === undefined) return;
    const parts = [];
    if (test.Status === "Created" || test.Status === "Creating") parts.push(h("p", {}, "Starts ", time(start, { ago: true }), " and ends ", time(until, { ago: true }), "."));
    else if (live) parts.push(progress((now - start) / (until - start), "Progress of the test"), h("p", {}, h("strong", {}, `${duration(until - now)} left`), ` of ${duration(until - start)} · began `, time(start), " · ends ", time(until)));
    else parts.push(h("p", {}, `${test.Status} `, time(test.CompletionTime), ` after ${duration((test.CompletionTime ?? until) - start)}`));
    replace(bar, parts);
  }
  showProgress();
  ends.push(every(1, showProgress));

  const actions = [];
  if (test.Status === "Created") actions.push(changing("Start now", () => confirmCalls(`Start ${name} now?`, "It begins at once; its end stays.", [["sagemaker", "StartInferenceExperiment", { Name: name }]], "Start", again, "primary")));
  if (["Running", "Updating", "Starting", "Created"].includes(test.Status)) actions.push(changing("Mark complete", () => complete(), "primary"));
  if (["Completed", "Cancelled", "Created"].includes(test.Status))
    actions.push(changing("Delete", () => confirmCalls(`Delete ${name}?`, "The test's record goes. The endpoint, what was captured and the metrics stay.", [["sagemaker", "DeleteInferenceExperiment", { Name: name }]], "Delete test", () => go("/console/shadow-tests")), "danger"));

  const node = h("div", {},
    heading(name, { kind: "Shadow test", status: chip(test.Status), actions }),
    test.Description && h("p", {}, test.Description),
    test.StatusReason && notice(test.Status === "Cancelled" ? "bad" : "plain", test.StatusReason),
    bar,
    card("Variants", table([{ title: "Variant" }, { title: "Model" }, { title: "Instances" }, { title: "Gets" }, { title: "Status" }],
      [sourceName, shadowName].map((one, at) => [h("span", {}, h("i.dot", { style: { background: variants[at].colour } }), one, " ", h("span.faint", {}, at ? "shadow" : "production")), modelLink(byName[one].ModelName), size(byName[one]),
        at ? `copies of ${sampling} % of requests` : "every request, and answers it", chip(byName[one].Status)]), { caption: "Variants", stack: true }),
      h("p.faint", {}, "On ", endpointLink(endpoint), ` (${test.EndpointMetadata.EndpointStatus ?? "deleted"})`, test.DataStorageConfig && [" · captured in ", h("a", { href: captureLink() }, test.DataStorageConfig.Destination)]),
      test.Status === "Running" && samplingEditor()));

  if (start !== undefined && server.now() > start) {
    const finish = () => Math.min(server.now(), test.CompletionTime ?? until);
    const charts = board(endpoint, chartsOf(CHARTS, variants), live ? following(start) : fixedWindow(start, finish() + 60));
    const statistics = h("div", {}, h("p.busy", {}, "Reading …"));
    const accounting = h("div");
    append(node, [
      card("Side by side", statistics), card("Charts", charts.node),
      card("What became of production's requests at the shadow", accounting), differences()]);
    charts.read();
    const readStatistics = async () => {
      try {
        const told = await get("statistics", { endpoint, variants: `${sourceName},${shadowName}`, start_s: start, end_s: Math.max(finish(), start + 60) });
        replace(statistics, describe(told.variants));
        replace(accounting, account(told.variants));
      } catch (error) {
        replace(statistics, refusal(error));
      }
    };
    readStatistics();
    ends.push(charts.end);
    if (live) ends.push(every(3, () => Promise.all([charts.read(), readStatistics()])));
  } else append(node, [empty("Not started yet", "Charts appear when the test runs.", `understudy shadow start ${name}`)]);

  ends.push(every(2, async () => {
    const now = await call("sagemaker", "DescribeInferenceExperiment", { Name: name }).catch(() => undefined);
    if (now && now.Status !== test.Status && !document.querySelector("dialog[open]")) again();
  }));

  function captureLink() {
    return `/console/captures?endpoint=${encodeURIComponent(endpoint)}&variants=${encodeURIComponent(`${sourceName},${shadowName}`)}&destination=${encodeURIComponent(test.DataStorageConfig.Destination)}`;
  }

  /** The window of a test that runs: all of it so far, the newest half hour per default length. */
  function following(from) {
    const length = Math.max(300, server.now() - from);
    const window = fixedWindow(from, from + length);
    return { follow: true, length: length + (server.session.time_scale > 1 ? 20 * server.session.time_scale : 60), period: window.period };
  }

  function describe(told) {
    const [ours, theirs] = [sourceName, shadowName].map((one) => told[one].metrics);
    const change = (metric, statistic) => {
      const [before, after] = [ours[metric][statistic], theirs[metric][statistic]];
      if (!before || after === null || after === undefined) return "–";
      const by = after / before - 1;
      if (by > 9) return h("span", { title: `${shadowName} against ${sourceName}` }, `× ${number(after / before)}`);
      if (Math.abs(by) < 0.0005) return "0 %";
      return h("span", { title: `${shadowName} against ${sourceName}` }, `${by >= 0 ? "+" : "−"}${percent(Math.abs(by))}`);
    };
    return [
      table([{ title: "Metric" }, { title: "Variant" }, ...STATISTICS.map(([, title]) => ({ title, number: true }))],
        ROWS.flatMap(([metric, format]) => [[sourceName, ours], [shadowName, theirs]].map(([who, metrics], at) => [at ? "" : h("strong", {}, metric), h("span", {}, h("i.dot", { style: { background: variants[at].colour } }), who),
          ...STATISTICS.map(([statistic]) => (statistic === "SampleCount" ? count(metrics[metric][statistic]) : format(metrics[metric][statistic])))])
          .concat([["", h("span.faint", {}, "difference"), ...STATISTICS.map(([statistic]) => (statistic === "SampleCount" ? "" : change(metric, statistic)))]])), { caption: "Descriptive statistics" }),
      table([{ title: "" }, { title: sourceName, number: true }, { title: shadowName, number: true }],
        COUNTS.map(([metric, title]) => [title, ...[ours, theirs].map((one) => count(one[metric].Sum))]), { caption: "Counts" })];
  }

  function account(told) {
    const outcomes = told[shadowName].shadow;
    const all = Object.values(outcomes).reduce((sum, one) => sum + one, 0);
    if (!all) return h("p.faint", {}, "No request since the test began. Send some: every one is accounted for here.");
    const shown = Object.keys(OUTCOMES).filter((one) => outcomes[one] || one === "mirrored");
    return [
      h("div.shares", { role: "img", "aria-label": shown.map((one) => `${one} ${percent(outcomes[one] / all)}`).join(", ") }, shown.map((one) => h(`span.outcome-${one}`, { style: { flex: `${outcomes[one]} 0 0` } }))),
      table([{ title: "Outcome" }, { title: "Requests", number: true }, { title: "Share", number: true }], [
        ...shown.map((one) => [h("span", {}, h(`i.dot.outcome-${one}`), OUTCOMES[one]), count(outcomes[one]), percent(outcomes[one] / all, 2)]),
        [h("strong", {}, "Production requests while the shadow served"), h("strong", {}, count(all)), ""]], { caption: "Mirror accounting" })];
  }

  function differences() {
    const out = h("div", { "aria-live": "polite" });
    const threshold = h("input", { type: "number", step: "any", placeholder: "none", value: query.get("threshold") ?? "" });
    const button = h("button", { type: "button", onclick: read }, "Compare answers");
    async function read() {
      button.disabled = true;
      replace(out, h("p.busy", {}, "Comparing …"));
      try {
        replace(out, compared(await get("differences", { endpoint, production: sourceName, candidate: shadowName, start_s: Math.floor(start), end_s: Math.ceil((test.CompletionTime ?? Math.min(server.now(), until)) + 5),
          threshold: threshold.value, destination: test.DataStorageConfig?.Destination })));
      } catch (error) {
        replace(out, refusal(error));
      }
      button.disabled = false;
    }
    const shown = card("Differences between answers", h("div.row", {}, labelled("Class threshold", threshold, "Scores on different sides of it are class flips."), button),
      h("details", {}, h("summary", {}, "The same from a shell"), h("pre", { tabindex: 0 }, `understudy compare --endpoint ${endpoint} --variants ${sourceName},${shadowName}`)), out);
    shown.id = "differences";
    return shown;
  }

  function samplingEditor() {
    const field = h("input", { type: "number", min: 0, max: 100, step: 1, value: sampling, oninput: () => preview.update(change()) });
    const change = () => [["sagemaker", "UpdateInferenceExperiment", { Name: name, ShadowModeConfig: { SourceModelVariantName: sourceName, ShadowModelVariants: [{ ShadowModelVariantName: shadowName, SamplingPercentage: field.valueAsNumber }] } }]];
    const preview = snippet(change());
    const said = h("div");
    return h("details", {}, h("summary", {}, "Change the sampling percentage"), labelled("Traffic sampling percentage", field), preview.node, said,
      changing("Change", async () => {
        try {
          for (const one of change()) await call(...one);
          again();
        } catch (error) {
          replace(said, refusal(error));
        }
      }, "primary"));
  }

  /** Mark complete: promote with one of three sizes, or remove. */
  function complete() {
    const ran = ["Running", "Updating"].includes(test.Status);
    const infrastructure = (one) => byName[one].InfrastructureConfig.RealTimeInferenceConfig;
    const decision = choice([...(ran ? [["promote", `Promote ${shadowName}: it becomes production`]] : []), ["remove", `Remove ${shadowName}: the endpoint is as it was`]]);
    const sizing = choice([["production", `As production has: ${size(byName[sourceName])}`], ["shadow", `As the shadow has: ${size(byName[shadowName])}`], ["other", "Other instances"]]);
    const type = h("input", { value: infrastructure(shadowName).InstanceType, list: instanceTypes() });
    const number_ = h("input", { type: "number", min: 1, step: 1, value: infrastructure(shadowName).InstanceCount });
    const reason = h("input", { maxlength: 1024, pattern: ".*" });
    const state = choice([["Completed", "Completed"], ["Cancelled", "Cancelled"]]);
    const warning = h("div");
    const said = h("div");
    const preview = snippet([]);
    const sizes = h("div", {}, labelled("Instances of the new production variant", sizing), warning);
    const other = h("div.pair", {}, labelled("Instance type", type), labelled("Instances", number_));
    const stateField = labelled("Mark the test", state);
    const calls = () => {
      const promote = decision.value === "promote";
      const chosen = sizing.value === "other" ? { InstanceType: type.value, InstanceCount: number_.valueAsNumber } : infrastructure(sizing.value === "production" ? sourceName : shadowName);
      return [["sagemaker", "StopInferenceExperiment", {
        Name: name,
        ModelVariantActions: promote ? { [sourceName]: "Remove", [shadowName]: "Promote" } : { [sourceName]: "Retain", [shadowName]: "Remove" },
        DesiredState: promote ? "Completed" : state.value,
        DesiredModelVariants: promote ? [{ VariantName: shadowName, ModelName: byName[shadowName].ModelName, InfrastructureConfig: { InfrastructureType: "RealTimeInference", RealTimeInferenceConfig: chosen } }] : undefined,
        Reason: reason.value || undefined,
      }]];
    };
    const go_ = changing("Confirm", async () => {
      go_.disabled = true;
      try {
        for (const one of calls()) await call(...one);
        shown.close();
        again();
      } catch (error) {
        replace(said, refusal(error));
        go_.disabled = false;
      }
    }, "primary");
    const update = () => {
      const promote = decision.value === "promote";
      sizes.hidden = !promote;
      other.hidden = !promote || sizing.value !== "other";
      stateField.hidden = promote;
      replace(warning, sizing.value === "shadow" && sampling < 100 ? notice("warn", `${shadowName} has seen ${sampling} % of the requests with these instances. From now on it gets all of them.`) : null);
      setVerb(promote);
      preview.update(calls());
    };
    const setVerb = (promote) => (go_.textContent = promote ? `Promote ${shadowName}` : `Remove ${shadowName}`);
    const form = h("div", { oninput: update, onchange: update }, labelled("What becomes of the shadow", decision), sizes, other, stateField, labelled("Reason", reason));
    const shown = dialog(`Mark ${name} complete`, form, preview.node, said, h("div.row", {}, h("span.grow"), h("button.quiet", { type: "button", onclick: () => shown.close() }, "Cancel"), go_));
    update();
  }
  return { title: name, node, end: () => ends.forEach((one) => one()) };
}

function size(variant) {
  const { InstanceType: type, InstanceCount: instances } = variant.InfrastructureConfig.RealTimeInferenceConfig;
  return `${instances} × ${type}`;
}

/** A report of analysis.differences. */
export function compared(report) {
  if (!report.pairs)
    return notice("plain", `No request has answers of both variants yet: ${count(report.only_baseline)} of ${report.baseline} alone, ${count(report.only_candidate)} of ${report.candidate} alone. Records appear within 10 seconds of a request.`);
  const above = { true: "yes", false: "not shown", null: "–" };
  const noise = report.noise.pairs
    ? `${count(report.differing_above_noise)} differ in fields above the noise, learned from ${count(report.noise.pairs)} ${report.noise.measured_by}.`
    : "Noise was not measured: every difference counts.";
  return [
    h("p", {}, h("strong", {}, `${percent(report.agreement, 2)} agree`), ` of ${count(report.pairs)} requests since ${local(report.since_s)}; ${count(report.differing)} differ. ${noise}`,
      report.tolerance.threshold !== null && ` ${count(report.class_flips)} class flips at ${report.tolerance.threshold}.`),
    report.fields.length ? table([{ title: "Field" }, { title: "Differ", number: true }, { title: "Rate", number: true }, { title: "Above noise" }, { title: "Kinds" }, { title: "Mean gap", number: true }, { title: "Largest gap", number: true }],
      report.fields.map((one) => [h("code", {}, one.field), count(one.differing), percent(one.rate, 2), above[String(one.above_noise)], Object.entries(one.kinds).map(([kind, times]) => `${kind} ${times}`).join(", "), number(one.mean_gap), number(one.max_gap)]), { caption: "Differing fields" }) : notice("good", "No field differs."),
    report.examples.length && h("h3", {}, "Worst examples"),
    report.examples.map((one) => h("article.example", {},
      h("p.faint", {}, h("code", {}, one.inference_id ?? one.event_id), " ", time(one.at_s), " · ", h("code", {}, one.field), ` ${one.kind}: ${JSON.stringify(one.baseline)} → ${JSON.stringify(one.candidate)}`),
      one.input !== null && [h("h4", {}, "Request"), h("pre", { tabindex: 0 }, one.input)],
      h("div.two", {}, h("div", {}, h("h4", {}, report.baseline), h("pre", { tabindex: 0 }, one.baseline_answer)), h("div", {}, h("h4", {}, report.candidate), h("pre", { tabindex: 0 }, one.candidate_answer)))))];
}
