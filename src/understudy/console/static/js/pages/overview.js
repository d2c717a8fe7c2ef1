// Overview: every endpoint with its state, traffic and trouble; what needs attention first.

import { h, replace, setText } from "../dom.js";
import { count, duration, latency, number, percent, time } from "../format.js";
import { alarmLink, card, chip, colour, empty, endpointLink, heading, progress, shareBar, sparkline, testLink } from "../parts.js";
import { call, every, get, server, watch } from "../server.js";

export async function page() {
  let status = await get("status");
  const rows = new Map();
  const body = h("div");
  const attention = h("div");
  const node = h("div", {}, heading("Overview"), attention, body);

  function draw() {
    rows.clear();
    if (!status.endpoints.length) {
      replace(body, empty("No endpoint yet", "Endpoints appear here as soon as one is made. This starts one with two real models and traffic:", "understudy demo --keep",
        h("p", {}, "Or point your own code here:"), h("pre", { tabindex: 0 }, 'eval "$(understudy env)"\npython your_boto3_code.py')));
      return;
    }
    const table = h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Endpoints" }, h("table.endpoints", {},
      h("thead", {}, h("tr", {}, ["Endpoint", "Status", "Variants", "Requests/s", "Errors", "p99", "Tests"].map((one, at) =>
        h([3, 4, 5].includes(at) ? "th.number" : "th", { scope: "col" }, one)))),
      h("tbody", {}, status.endpoints.map((one) => {
        const row = rowOf(one, status.tests.filter((test) => test.endpoint === one.name));
        rows.set(one.name, row);
        return row.node;
      }))));
    replace(body, card("Endpoints", table), rollouts(status.rollouts ?? []), tests(status.tests));
  }

  function rollouts(all) {
    if (!all.length) return null;
    return card("Rollouts under way", h("ul.plain", {}, all.map(({ endpoint, status: state, rollout }) => h("li.row", {}, endpointLink(endpoint), chip(state),
      h("span.faint", {}, `${rollout.from} → ${rollout.to}`), h("span.grow"), `${number(rollout.share_percent)} % · ${rollout.phase}`, progress(rollout.share_percent / 100, `${endpoint}: share of the new fleet`)))));
  }

  function tests(all) {
    if (!all.length) return null;
    return card("Shadow tests under way", h("ul.plain", {}, all.map((one) => {
      const share = (server.now() - one.starts_at_s) / (one.ends_at_s - one.starts_at_s);
      const left = one.status === "Created" ? h("span", {}, "starts ", time(one.starts_at_s, { ago: true })) : `${duration(one.ends_at_s - server.now())} left`;
      return h("li.row", {}, testLink(one.name), chip(one.status), h("span.faint", {}, "on ", one.endpoint), h("span.grow"), left, progress(share, `${one.name} is under way`));
    })));
  }

  function tell(endpoints) {
    const found = [...endpoints.flatMap((one) => troubles(one)), ...ringing.map((one) => [alarmLink(one.AlarmName), " is in ALARM: ", h("span.reason", {}, one.StateReason)])];
    replace(attention, found.length ? h("section.card.attention", { "aria-label": "Needs attention" }, h("h2", {}, "Needs attention"), h("ul.plain", {}, found.map((one) => h("li", {}, one)))) : null);
  }

  const listen = async () => {
    const told = await call("cloudwatch", "DescribeAlarms", { StateValue: "ALARM", AlarmTypes: ["MetricAlarm", "CompositeAlarm"], MaxRecords: 20 }).catch(() => ({}));
    ringing = [...(told.MetricAlarms ?? []), ...(told.CompositeAlarms ?? [])];
    if (status.rollouts?.length) {
      status = await get("status").catch(() => status);
      draw();
    }
  };
  let ringing = [];
  draw();
  tell(status.endpoints);
  listen().then(() => tell(status.endpoints));
  const rest = every(5, listen);
  let shape = shapeOf(status.endpoints);
  const end = watch(null, async (picture) => {
    if (shapeOf(picture.endpoints) !== shape) {
      shape = shapeOf(picture.endpoints);
      status = await get("status");
      draw();
    }
    for (const one of picture.endpoints) rows.get(one.name)?.update(one);
    tell(picture.endpoints);
  });
  return { title: "Overview", node, end: () => { end(); rest(); } };
}

const shapeOf = (endpoints) => JSON.stringify(endpoints.map((one) => [one.name, one.status, one.variants.map((variant) => variant.name)]));

function rowOf(endpoint, tests) {
  const rate = h("span", {}, "–");
  const errors = h("span", {}, "–");
  const p99 = h("span", {}, "–");
  const spark = sparkline();
  const shares = h("div");
  const node = h("tr", {},
    h("th", { scope: "row" }, endpointLink(endpoint.name), h("div.faint", {}, endpoint.config_name)),
    h("td", {}, chip(endpoint.status)), h("td", {}, shares),
    h("td.number", { "data-label": "Requests/s" }, h("span.pair", {}, spark.node, rate)), h("td.number", { "data-label": "Errors" }, errors), h("td.number", { "data-label": "p99" }, p99),
    h("td", { "data-label": "Shadow tests" }, tests.length ? tests.map((one) => h("div", {}, testLink(one.name), " ", h("span.faint", {}, one.status))) : h("span.faint", {}, "none")));
  let told = "";
  function update(now) {
    const key = JSON.stringify(now.variants.map((one) => [one.name, one.share, one.shadow]));
    if (key !== told) {
      told = key;
      const production = now.variants.filter((one) => !one.shadow).map((one, at) => ({ ...one, colour: colour(at) }));
      const shadows = now.variants.filter((one) => one.shadow);
      replace(shares, shareBar(production), h("div.faint", {}, production.map((one) => `${one.name} ${percent(one.share)}`).join(" · "),
        shadows.map((one) => ` · shadow ${one.name} ${percent(one.share)}`)));
    }
    const serving = now.variants.filter((one) => !one.shadow && one.live);
    if (!serving.length) return;
    const sum = (member) => serving.reduce((total, one) => total + (one.live[member] ?? 0), 0);
    const known = serving.some((one) => one.live.rate !== null);
    setText(rate, known ? number(sum("rate")) : "–");
    if (known) spark.push(sum("rate"));
    const failed = sum("errors_4xx") + sum("errors_5xx");
    setText(errors, sum("invocations") ? percent(failed / sum("invocations")) : "–");
    errors.className = failed ? "bad-text" : "";
    const slowest = Math.max(...serving.map((one) => one.live.p99_us ?? -1));
    setText(p99, slowest < 0 ? "–" : latency(slowest));
  }
  update(endpoint);
  return { node, update };
}

/** Say what is wrong with an endpoint: nodes, worst first. */
export function troubles(endpoint) {
  const found = [];
  const name = () => endpointLink(endpoint.name);
  if (endpoint.failure_reason) found.push([name(), ` is ${endpoint.status}: `, h("span.reason", {}, endpoint.failure_reason)]);
  for (const variant of endpoint.variants) {
    const broken = (variant.detail ?? []).filter((one) => one.status === "Failed");
    if (broken.length) found.push([name(), ` / ${variant.name}: ${count(broken.length)} instance(s) failed: `, h("span.reason", {}, broken[0].reason)]);
    else if (endpoint.status === "InService" && variant.instances < variant.desired_instances)
      found.push([name(), ` / ${variant.name}: ${variant.instances} of ${variant.desired_instances} instances serve`]);
    const live = variant.live;
    if (live && live.invocations >= 10 && live.errors_5xx / live.invocations > 0.01)
      found.push([name(), ` / ${variant.name}: ${percent(live.errors_5xx / live.invocations)} of requests end in 5XX`]);
  }
  return found;
}
