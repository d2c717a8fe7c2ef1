// Update an endpoint: to which configuration, in which of the four ways, guarded by which alarms.
//
// The linter answers while the form is filled: what the steps are and what the alarms would do.

import { h, replace } from "../dom.js";
import { duration, percent } from "../format.js";
import { changing, chip, choice, empty, endpointLink, heading, labelled, refusal } from "../parts.js";
import { call, get, listAll, ownPath } from "../server.js";
import { findings } from "../findings.js";
import { snippet } from "../snippets.js";

const WAYS = [
  ["CANARY", "Canary: a part first, then the rest"],
  ["LINEAR", "Linear: equal steps"],
  ["ROLLING", "Rolling: instances exchanged in batches"],
  ["ALL_AT_ONCE", "All at once"],
];
const NEW = "";
const evidenceAlarm = (endpoint, variant, config) => ["cloudwatch", "PutMetricAlarm", {
  AlarmName: `${endpoint}-${config}-${variant}-harm`,
  AlarmDescription: "Harm is proven at 1 %, valid at every look",
  Namespace: "Understudy/Verdicts",
  MetricName: "HarmEvidenceLog10",
  Dimensions: [{ Name: "EndpointName", Value: endpoint }, { Name: "VariantName", Value: variant }, { Name: "EndpointConfigName", Value: config }],
  Statistic: "Maximum",
  Period: 10,
  EvaluationPeriods: 1,
  Threshold: 2,
  ComparisonOperator: "GreaterThanOrEqualToThreshold",
  TreatMissingData: "notBreaching",
}];

export async function page({ path: [name], query, go }) {
  const [described, configs, models, told] = await Promise.all([call("sagemaker", "DescribeEndpoint", { EndpointName: name }), listAll("ListEndpointConfigs", "EndpointConfigs"), listAll("ListModels", "Models"),
    call("cloudwatch", "DescribeAlarms", { AlarmTypes: ["MetricAlarm", "CompositeAlarm"], MaxRecords: 100 })]);
  const title = `Update ${name}`;
  const here = `/console/endpoints/${encodeURIComponent(name)}`;
  if (described.EndpointStatus !== "InService" && described.EndpointStatus !== "UpdateRollbackFailed")
    return { title, node: h("div", {}, heading(title), empty(`${name} is ${described.EndpointStatus}`, "An update can begin when the one under way is over.", `understudy rollout watch ${name}`, h("p", {}, endpointLink(name)))) };
  const present = await call("sagemaker", "DescribeEndpointConfig", { EndpointConfigName: described.EndpointConfigName });
  const alarms = [...told.MetricAlarms, ...(told.CompositeAlarms ?? [])];
  const others = configs.map((one) => one.EndpointConfigName).filter((one) => one !== described.EndpointConfigName);

  const config = choice([...others.map((one) => [one, one]), [NEW, "A new one: as now, with another model …"], [described.EndpointConfigName, `${described.EndpointConfigName} (serves now)`]], query.get("config") ?? others[0] ?? NEW);
  const newName = h("input", { maxlength: 63, pattern: "[a-zA-Z0-9](-*[a-zA-Z0-9])*", value: nextName(described.EndpointConfigName, configs) });
  const newModels = present.ProductionVariants.map((one) => [one, choice(models.map(({ ModelName }) => [ModelName, ModelName]), query.get(`model-${one.VariantName}`) ?? one.ModelName)]);
  const newFields = h("div", {}, labelled("Name of the new configuration", newName), newModels.map(([one, field]) => labelled(`Model of ${one.VariantName}`, field)));
  const way = choice(WAYS, query.get("way") ?? "CANARY");
  const sizeType = choice([["CAPACITY_PERCENT", "percent"], ["INSTANCE_COUNT", "instances"]], "CAPACITY_PERCENT");
  const size = h("input", { type: "number", min: 1, max: 100, step: 1, value: 10 });
  const wait = h("input", { type: "number", min: 0, max: 3600, step: 1, value: 300 });
  const standby = h("input", { type: "number", min: 0, max: 3600, step: 1, value: 0 });
  const limit = h("input", { type: "number", min: 600, max: 28800, step: 1, placeholder: "none" });
  const sizeField = labelled("Size of the step", size);
  const sizeFields = h("div.pair", {}, sizeField, labelled("Counted in", sizeType));
  const standbyField = labelled("Old fleet stands by, s", standby);
  const boxes = alarms.map((one) => [one, h("input", { type: "checkbox", id: `alarm-${one.AlarmName}` })]);
  const evidence = h("input", { type: "checkbox", id: "evidence" });
  const check = (box, text, ...more) => h("div.row.check", {}, box, h("label", { for: box.id }, text), more);

  const lint = h("section", { "aria-label": "What will happen" });
  const preview = snippet([]);
  const said = h("div");
  const go_ = changing("Begin the update", begin, "primary");
  const form = h("form.wizard", { oninput: show, onchange: show, onsubmit: (event) => { event.preventDefault(); begin(); } },
    h("fieldset", {}, h("legend", {}, "1. To which configuration"), labelled("Configuration", config), newFields),
    h("fieldset", {}, h("legend", {}, "2. Which way"), labelled("Way", way), sizeFields, h("div.pair", {}, labelled("Each step bakes, s", wait, "Alarms are watched for so long."), standbyField),
      labelled("Time limit, s", limit, "600 to 28800. When it is over, the update is rolled back.")),
    h("fieldset", {}, h("legend", {}, "3. Guarded by"), check(evidence, "Evidence of harm", h("span.faint", {}, "makes an alarm that is statistically valid at every look; for canary, linear and rolling")),
      boxes.map(([one, box]) => check(box, one.AlarmName, chip(one.StateValue)))));
  const node = h("div", {}, heading(title, { kind: "Endpoint" }),
    h("div.two", {}, form, h("aside.sticky", {}, lint, preview.node, said, h("div.row", {}, h("span.grow"), h("a.button", { href: here }, "Cancel"), go_))));

  const configName = () => config.value || newName.value;
  const harmAlarms = () => (evidence.checked && way.value !== "ALL_AT_ONCE" ? present.ProductionVariants.map((one) => evidenceAlarm(name, one.VariantName, configName())) : []);
  const whole = (field) => (Number.isFinite(field.valueAsNumber) ? field.valueAsNumber : undefined);

  function deployment() {
    const named = [...boxes.filter(([, box]) => box.checked).map(([one]) => one.AlarmName), ...harmAlarms().map(([, , one]) => one.AlarmName)];
    const rollback = named.length ? { Alarms: named.map((one) => ({ AlarmName: one })) } : undefined;
    const step = { Type: sizeType.value, Value: whole(size) };
    if (way.value === "ROLLING") return { RollingUpdatePolicy: { MaximumBatchSize: step, WaitIntervalInSeconds: whole(wait), MaximumExecutionTimeoutInSeconds: whole(limit) }, AutoRollbackConfiguration: rollback };
    return { BlueGreenUpdatePolicy: { TrafficRoutingConfiguration: { Type: way.value, WaitIntervalInSeconds: whole(wait), ...(way.value === "CANARY" ? { CanarySize: step } : way.value === "LINEAR" ? { LinearStepSize: step } : {}) },
      TerminationWaitInSeconds: whole(standby), MaximumExecutionTimeoutInSeconds: whole(limit) }, AutoRollbackConfiguration: rollback };
  }

  function calls() {
    const made = config.value ? [] : [["sagemaker", "CreateEndpointConfig", {
      EndpointConfigName: newName.value,
      ProductionVariants: newModels.map(([one, model]) => ({ ...one, ModelName: model.value })),
      DataCaptureConfig: present.DataCaptureConfig,
    }]];
    return [...made, ...harmAlarms(), ["sagemaker", "UpdateEndpoint", { EndpointName: name, EndpointConfigName: configName(), DeploymentConfig: deployment() }]];
  }

  let asked = 0;
  async function judge() {
    const mine = ++asked;
    try {
      // An alarm that the update itself makes can't be judged yet.
      const { AutoRollbackConfiguration: _, ...steps } = deployment();
      const known = boxes.filter(([, box]) => box.checked).map(([one]) => ({ AlarmName: one.AlarmName }));
      const report = await call("understudy", `POST ${ownPath(name, "guardrails")}`, { deployment_config: known.length ? { ...steps, AutoRollbackConfiguration: { Alarms: known } } : steps, endpoint_config_name: config.value || undefined });
      if (mine !== asked) return;
      replace(lint, h("h2", {}, "What will happen"), h("ol.steps", { "aria-label": "Steps" }, report.steps.map((one) => h("li.next", {}, h("span.sign", { "aria-hidden": "true" }, "○"), h("strong", {}, percent(one.share)), h("span.faint", {}, `bakes ${duration(one.duration_s)}`)))),
        report.alarms.map((one) => h("div", {}, h("h3", {}, one.name), findings(one))), !report.alarms.length && !harmAlarms().length && h("p.faint", {}, "No alarm guards it."));
    } catch (error) {
      if (mine === asked) replace(lint, refusal(error));
    }
  }

  function show() {
    newFields.hidden = Boolean(config.value);
    sizeFields.hidden = way.value === "ALL_AT_ONCE";
    standbyField.hidden = way.value === "ROLLING";
    sizeField.querySelector("label").textContent = { CANARY: "First part (at most 50 %)", LINEAR: "Each step (10 to 50 %)", ROLLING: "Each batch (5 to 50 %)" }[way.value] ?? "";
    evidence.disabled = way.value === "ALL_AT_ONCE";
    preview.update(calls());
    judge();
  }

  async function begin() {
    if (!form.reportValidity()) return;
    go_.disabled = true;
    replace(said);
    try {
      const all = calls();
      for (const [at, one] of all.entries()) {
        await call(...one);
        if (one[1] === "CreateEndpointConfig" && at < all.length - 1) {
          // It is there now, whatever becomes of the update: a second try takes it.
          config.prepend(h("option", { value: newName.value }, newName.value));
          config.value = newName.value;
        }
      }
      go(here);
    } catch (error) {
      replace(said, refusal(error));
      go_.disabled = false;
      show();
    }
  }
  show();
  return { title, node };
}

/** churn-7 comes after churn-6. */
function nextName(name, configs) {
  const known = new Set(configs.map((one) => one.EndpointConfigName));
  const [, stem, count] = /^(.*?)-?(\d*)$/.exec(name);
  for (let next = Number(count || 1) + 1; ; next += 1) {
    const made = `${stem.slice(0, 55)}-${next}`;
    if (!known.has(made)) return made;
  }
}
