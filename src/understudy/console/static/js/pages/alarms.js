// Alarms: /alarms lists them with what the linter says; /alarms/NAME shows one with its metric and history.

import { h, replace, svg } from "../dom.js";
import { RANGES, edges, figure, lastWindow } from "../charts.js";
import { findings } from "../findings.js";
import { duration, latency, number, time } from "../format.js";
import { alarmLink, card, changing, chip, confirmCalls, empty, endpointLink, heading, notice, segmented, table } from "../parts.js";
import { answerOf, answersOf, call, every, get, ownPath } from "../server.js";
import { snippet } from "../snippets.js";

const SIGNS = { GreaterThanThreshold: ">", GreaterThanOrEqualToThreshold: "≥", LessThanThreshold: "<", LessThanOrEqualToThreshold: "≤" };
const STATES = ["all", "ALARM", "INSUFFICIENT_DATA", "OK"];
const MOST_LINTED = 20;
// What PutMetricAlarm and PutCompositeAlarm take of what DescribeAlarms tells.
const TOLD_ONLY = ["AlarmArn", "AlarmConfigurationUpdatedTimestamp", "StateValue", "StateReason", "StateReasonData", "StateUpdatedTimestamp", "StateTransitionedTimestamp", "EvaluationState", "ActionsSuppressedBy", "ActionsSuppressedReason"];

export async function page(place) {
  return place.path[0] ? one(place) : list(place);
}

async function readAll() {
  const found = [];
  let token;
  do {
    const told = await call("cloudwatch", "DescribeAlarms", { AlarmTypes: ["MetricAlarm", "CompositeAlarm"], MaxRecords: 100, NextToken: token });
    found.push(...(told.MetricAlarms ?? []), ...(told.CompositeAlarms ?? []));
    token = told.NextToken;
  } while (token && found.length < 1000);
  return found;
}

const stats = (alarm) => (alarm.Metrics ?? []).map((each) => each.MetricStat).filter(Boolean);
const dimensions = (alarm) => alarm.Dimensions?.length ? alarm.Dimensions : stats(alarm).flatMap((each) => each.Metric.Dimensions ?? []);
const endpointOf = (alarm) => dimensions(alarm).find((each) => each.Name === "EndpointName")?.Value;
const inMicroseconds = (alarm) => /Latency$/.test(alarm.MetricName ?? "") && alarm.Namespace === "AWS/SageMaker" && (alarm.Statistic ?? "") !== "SampleCount";
const shown = (alarm) => (inMicroseconds(alarm) ? latency : number);

/** The condition in words: "Average of Invocation5XXErrors > 0.05, 2 of 3 × 1 min". */
function condition(alarm) {
  if (alarm.AlarmRule) return h("code", {}, alarm.AlarmRule);
  const what = alarm.MetricName ? `${alarm.Statistic ?? alarm.ExtendedStatistic} of ${alarm.MetricName}` : alarm.Metrics?.find((each) => each.ReturnData !== false)?.Expression ?? "an expression";
  const period = alarm.Period ?? alarm.Metrics?.find((each) => each.MetricStat)?.MetricStat.Period ?? alarm.Metrics?.[0]?.Period;
  return `${what} ${SIGNS[alarm.ComparisonOperator] ?? alarm.ComparisonOperator} ${shown(alarm)(alarm.Threshold)}, ${alarm.DatapointsToAlarm ?? alarm.EvaluationPeriods} of ${alarm.EvaluationPeriods} × ${duration(period ?? 60)}`;
}

/** What GetMetricData is asked for an alarm's line; `id` names it. */
function queries(alarm, id) {
  if (alarm.AlarmRule) return [];
  if (alarm.Metrics?.length) return alarm.Metrics;
  return [{ Id: id, MetricStat: { Metric: { Namespace: alarm.Namespace, MetricName: alarm.MetricName, Dimensions: alarm.Dimensions ?? [] }, Period: alarm.Period, Stat: alarm.Statistic ?? alarm.ExtendedStatistic } }];
}

/** Read the lines of alarms: a map from name to [[time, value], ...]. */
async function readLines(alarms, start, end) {
  const lines = new Map();
  const simple = alarms.filter((each) => each.MetricName);
  const asks = [];
  for (let first = 0; first < simple.length; first += 100) asks.push(simple.slice(first, first + 100));
  const read = async (asked, names) => {
    const told = await call("cloudwatch", "GetMetricData", { MetricDataQueries: asked, StartTime: start, EndTime: end, ScanBy: "TimestampAscending" });
    for (const result of told.MetricDataResults) {
      const name = names(result.Id);
      if (name !== undefined) lines.set(name, result.Timestamps.map((at, index) => [at, result.Values[index]]));
    }
  };
  await Promise.all([
    ...asks.map((some) => read(some.flatMap((each, at) => queries(each, `a${at}`)), (id) => some[Number(id.slice(1))].AlarmName)),
    ...alarms.filter((each) => each.Metrics?.length).map((each) => read(each.Metrics, () => each.AlarmName)),
  ]);
  return lines;
}

// --- the list ----------------------------------------------------------------------------------------

async function list({ query, go }) {
  const state = query.get("state") ?? "all";
  const endpoint = query.get("endpoint") ?? "";
  const status = await get("status");
  const body = h("div");
  const linted = h("div");
  const node = h("div", {}, heading("Alarms", { kind: endpoint && `of endpoint ${endpoint}`, actions: [endpoint && h("a.button", { href: "/console/alarms" }, "All alarms")] }), body, linted);
  const here = (value) => `/console/alarms?${new URLSearchParams({ ...(endpoint && { endpoint }), ...(value !== "all" && { state: value }) })}`;
  let drawn;

  async function draw() {
    const all = (await readAll()).filter((each) => !endpoint || endpointOf(each) === endpoint);
    const now = Date.now();
    const shape = JSON.stringify(all.map((each) => [each.AlarmName, each.StateValue, each.StateUpdatedTimestamp]));
    if (shape === drawn && now - readAt < 15000) return;
    drawn = shape;
    readAt = now;
    if (!all.length) {
      replace(body, empty(endpoint ? `No alarm watches ${endpoint}` : "No alarm yet", "An alarm watches a metric; named in an update's AutoRollbackConfiguration it takes a bad version back. This one rings when 5 % of requests fail:",
        `aws cloudwatch put-metric-alarm --alarm-name errors --namespace AWS/SageMaker \\\n  --metric-name Invocation5XXErrors --statistic Average --threshold 0.05 \\\n  --comparison-operator GreaterThanThreshold --period 60 --evaluation-periods 1 \\\n  --treat-missing-data notBreaching \\\n  --dimensions Name=EndpointName,Value=${endpoint || "NAME"} Name=VariantName,Value=AllTraffic`,
        endpoint && h("p", {}, "Or let the ", h("a", { href: `/console/endpoints/${encodeURIComponent(endpoint)}/update` }, "update wizard"), " make one on evidence of harm.")));
      return;
    }
    const [start, end] = edges(lastWindow("1h"));
    const lines = await readLines(all, start, end).catch(() => new Map());
    const some = all.filter((each) => state === "all" || each.StateValue === state);
    replace(body, segmented("State", STATES.map((value) => [value, `${value === "all" ? "All" : value} ${all.filter((each) => value === "all" || each.StateValue === value).length}`]), state, here),
      card("What they watch", some.length ? table([{ title: "Alarm" }, { title: "State" }, { title: "Last hour" }, { title: "Condition" }, { title: "Since" }],
        some.map((each) => [[alarmLink(each.AlarmName), endpointOf(each) && h("div.faint", {}, endpointLink(endpointOf(each)))], chip(each.StateValue), spark(each, lines.get(each.AlarmName), start, end),
          [h("div", {}, condition(each)), each.StateValue === "ALARM" && h("div.faint.reason", {}, each.StateReason)], time(each.StateTransitionedTimestamp ?? each.StateUpdatedTimestamp, { ago: true })]), { caption: "Alarms", stack: true })
        : h("p.faint", {}, "None in this state.")));
  }
  let readAt = 0;
  await draw();

  const names = status.endpoints.map((each) => each.name).filter((name) => !endpoint || name === endpoint);
  const lint = async () => {
    const reports = await answersOf(names.slice(0, MOST_LINTED).map((name) => ownPath(name, "guardrails")));
    const guarded = reports.filter((each) => each.alarms?.length);
    replace(linted, guarded.map((each) => guardrails(each)),
      !guarded.length && names.length > 0 && h("p.faint", {}, "No update was guarded by alarms yet; the linter judges them here: will they catch a bad model, and leave a good one alone?"),
      names.length > MOST_LINTED && notice("plain", `The linter looked at the first ${MOST_LINTED} endpoints; the page of an endpoint's alarms shows its own.`));
  };
  lint();
  const end = every(5, () => draw().catch(() => {}));
  return { title: "Alarms", node, end };
}

function guardrails(report) {
  return card(`Will they guard ${report.endpoint}?`,
    h("p.faint", {}, `Of its last rollout, or the one under way: ${report.steps.map((step) => `${number(step.share * 100)} % for ${duration(step.duration_s)}`).join(", then ") || "all at once"}; with the traffic of the last three hours.`),
    report.alarms.map((each) => h("div", {}, h("h3", {}, alarmLink(each.name), " ", each.state && chip(each.state)), findings(each))));
}

/** A line with its threshold, and the newest value in words. */
function spark(alarm, points, start, end) {
  if (alarm.AlarmRule) return h("span.faint", {}, "composite");
  if (!points?.length) return h("span.faint", {}, "no data");
  const [width, height] = [120, 30];
  const values = points.map(([, value]) => value);
  const [low, high] = [Math.min(0, alarm.Threshold, ...values), Math.max(alarm.Threshold, ...values) || 1];
  const x = (at) => ((at - start) / (end - start)) * width;
  const y = (value) => height - 2 - ((value - low) / (high - low || 1)) * (height - 4);
  return h("span.pair", {}, svg("svg.spark", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    svg("line.threshold", { x1: 0, x2: width, y1: y(alarm.Threshold), y2: y(alarm.Threshold), "stroke-dasharray": "4 3", "stroke-width": 1.2 }),
    points.length > 1 ? svg("polyline", { fill: "none", stroke: "currentColor", "stroke-width": 1.5, points: points.map(([at, value]) => `${x(at)},${y(value)}`).join(" ") })
      : svg("circle", { cx: x(points[0][0]), cy: y(values[0]), r: 2, fill: "currentColor" })), h("span", {}, shown(alarm)(values.at(-1))));
}

// --- one alarm ---------------------------------------------------------------------------------------

async function one({ path: [name], query, go }) {
  const read = async () => {
    const told = await call("cloudwatch", "DescribeAlarms", { AlarmNames: [name], AlarmTypes: ["MetricAlarm", "CompositeAlarm"] });
    return told.MetricAlarms?.[0] ?? told.CompositeAlarms?.[0];
  };
  let alarm = await read();
  if (!alarm) return { title: name, node: h("div", {}, heading(name, { kind: "Alarm" }), empty("There is no such alarm", "It was deleted, or never made. Its history is kept for 30 days:", "aws cloudwatch describe-alarm-history")) };
  const range = query.get("range") ?? "1h";
  const here = `/console/alarms/${encodeURIComponent(name)}`;
  const endpoint = endpointOf(alarm);
  const state = h("span");
  const reason = h("div");
  const history = h("div");
  const linted = h("div");
  const definition = Object.fromEntries(Object.entries(alarm).filter(([member, value]) => !TOLD_ONLY.includes(member) && !(Array.isArray(value) && !value.length)));
  const drill = [["cloudwatch", "SetAlarmState", { AlarmName: name, StateValue: "ALARM", StateReason: "a drill" }]];
  const chart = alarm.AlarmRule ? null : figure({ title: alarm.MetricName ?? "Expression", unit: alarm.Statistic ?? alarm.ExtendedStatistic ?? "", format: shown(alarm), height: 220, scale: alarm.Threshold < 0 ? "around" : "zero",
    lines: [{ name: alarm.MetricName ?? name, colour: "var(--c0)" }, { name: "Threshold", colour: "var(--bad)", dash: true }] });

  const node = h("div", {},
    heading(name, { kind: "Alarm", status: state, actions: [
      changing("Drill", () => confirmCalls(`Set ${name} to ALARM?`, "Actions are carried out and updates that it guards roll back, as if it rang. The next evaluation sets the state right.", drill, "Set to ALARM", refresh)),
      changing("Delete", () => confirmCalls(`Delete ${name}?`, "An update under way that it guards is rolled back: a bake that nobody watches proves nothing.", [["cloudwatch", "DeleteAlarms", { AlarmNames: [name] }]], "Delete alarm", () => go("/console/alarms")), "danger"),
    ] }),
    h("p.facts", {}, condition(alarm), endpoint && [" · endpoint ", endpointLink(endpoint)], alarm.TreatMissingData && ` · missing data: ${alarm.TreatMissingData}`,
      dimensions(alarm).map((each) => ` · ${each.Name} ${each.Value}`)),
    alarm.AlarmDescription && h("p", {}, alarm.AlarmDescription), reason,
    chart && h("section.card", { "aria-label": "Metric" }, h("div.row", {}, h("h2", {}, "Metric and threshold"), h("span.grow"), segmented("Range of time", RANGES.map(([value, text]) => [value, text]), range, (value) => `${here}?range=${value}`)), chart.node),
    linted, card("History", history),
    card("Actions", actions(alarm)),
    h("details", {}, h("summary", {}, "How it was made"), snippet([["cloudwatch", alarm.AlarmRule ? "PutCompositeAlarm" : "PutMetricAlarm", definition]]).node));

  function tell() {
    replace(state, chip(alarm.StateValue), " ", h("span.faint", {}, "since ", time(alarm.StateTransitionedTimestamp ?? alarm.StateUpdatedTimestamp, { ago: true })));
    replace(reason, notice(alarm.StateValue === "ALARM" ? "bad" : alarm.StateValue === "OK" ? "good" : "plain", alarm.StateReason));
  }

  async function draw() {
    if (!chart) return;
    const [start, end] = edges(lastWindow(range));
    const points = (await readLines([alarm], start, end)).get(name) ?? [];
    chart.draw(points.map(([at]) => at), [points.map(([, value]) => value), points.map(() => alarm.Threshold)]);
  }

  async function tellHistory() {
    const told = await call("cloudwatch", "DescribeAlarmHistory", { AlarmName: name, AlarmTypes: ["MetricAlarm", "CompositeAlarm"], MaxRecords: 50, ScanBy: "TimestampDescending" });
    replace(history, told.AlarmHistoryItems.length ? table([{ title: "When" }, { title: "What" }, { title: "Summary" }], told.AlarmHistoryItems.map((each) => [time(each.Timestamp, { short: true }), each.HistoryItemType, h("span.reason", {}, each.HistorySummary, datapoints(each))]), { caption: "History", stack: true })
      : h("p.faint", {}, "Nothing happened yet."));
  }

  async function refresh() {
    alarm = (await read()) ?? alarm;
    tell();
    await Promise.all([tellHistory(), draw()]);
  }
  tell();
  await tellHistory();
  draw();
  if (endpoint) answerOf(ownPath(endpoint, "guardrails")).then((report) => {
    const mine = report.alarms.filter((each) => each.name === name);
    if (mine.length) replace(linted, card("Will it guard?", mine.map((each) => findings(each))));
  }, () => {}); // its endpoint is gone: there is nothing to guard
  const end = every(3, () => refresh().catch(() => {}));
  return { title: name, node, end: () => { end(); chart?.end(); } };
}

/** The datapoints that an update of the state was decided from. */
function datapoints(item) {
  if (item.HistoryItemType !== "StateUpdate") return null;
  try {
    const data = JSON.parse(item.HistoryData).newState?.stateReasonData;
    const recent = data?.recentDatapoints;
    return recent?.length ? h("div.faint", {}, `datapoints ${recent.map((value) => number(value)).join(", ")}; threshold ${number(data.threshold)}`) : null;
  } catch {
    return null; // its text is cut: the summary says enough
  }
}

function actions(alarm) {
  const rows = [["ALARM", alarm.AlarmActions], ["OK", alarm.OKActions], ["INSUFFICIENT_DATA", alarm.InsufficientDataActions]].filter(([, all]) => all?.length);
  if (!rows.length) return h("p.faint", {}, "It calls nobody. What it guards is named in the AutoRollbackConfiguration of updates.");
  return [alarm.ActionsEnabled === false && notice("warn", "Its actions are switched off."), table([{ title: "In state" }, { title: "Calls" }], rows.map(([state, all]) => [chip(state), all.map((each) => h("div", {}, h("code", {}, each)))]), { caption: "Actions" })];
}
