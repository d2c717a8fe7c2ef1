// Overview: every endpoint with its state, traffic and trouble; what needs attention first.

import { h, replace, setText } from "../dom.js";
import { count, duration, latency, number, percent, time } from "../format.js";
import { alarmLink, card, chip, colour, empty, endpointLink, heading, progress, shareBar, sparkline, testLink } from "../parts.js";
import { call, every, get, later, server, watch } from "../server.js";

const MANY = 12; // endpoints from which on there is a field to find one
const PAGE = 100; // rows drawn at once
const TROUBLES = 8; // shown at once

export async function page({ query }) {
  let status = await get("status");
  const rows = new Map();
  const sparks = new Map();
  let live = new Map(); // the newest picture, by name
  let most = PAGE;
  let unfolded = false; // whether all troubles are shown
  const find = h("input", { type: "search", "aria-label": "Find endpoints", placeholder: "Find by name, status, variant or model", value: query.get("find") ?? "", oninput: () => {
    const address = new URL(location.href);
    if (find.value) address.searchParams.set("find", find.value);
    else address.searchParams.delete("find");
    history.replaceState(null, "", address);
    most = PAGE;
    draw();
  } });
  const table_ = h("div");
  const underWay = h("div");
  const attention = h("div");
  const node = h("div", {}, heading("Overview"), attention, table_, underWay);

  function draw() {
    rows.clear();
    if (!status.endpoints.length) {
      replace(table_, empty("No endpoint yet", "Endpoints appear here as soon as one is made. This starts one with two real models and traffic:", "understudy demo --keep",
        h("p", {}, "Or point your own code here:"), h("pre", { tabindex: 0 }, 'eval "$(understudy env)"\npython your_boto3_code.py')));
      return;
    }
    const wanted = find.value.trim().toLowerCase();
    const fitting = status.endpoints.filter((one) => !wanted || [one.name, one.status, one.config_name, ...one.variants.flatMap((each) => [each.name, each.model_name])].some((text) => String(text).toLowerCase().includes(wanted)));
    const shown = fitting.slice(0, most);
    const table = h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Endpoints" }, h("table.endpoints", {},
      h("thead", {}, h("tr", {}, ["Endpoint", "Status", "Variants", "Requests/s", "Errors", "p99", "Tests"].map((one, at) =>
        h([3, 4, 5].includes(at) ? "th.number" : "th", { scope: "col" }, one)))),
      h("tbody", {}, shown.map((one) => {
        const row = rowOf(one, status.tests.filter((test) => test.endpoint === one.name), sparkOf(one.name));
        if (live.has(one.name)) row.update(live.get(one.name));
        rows.set(one.name, row);
        return row.node;
      }))));
    const focused = document.activeElement === find;
    replace(table_, card("Endpoints",
      (status.endpoints.length >= MANY || wanted) && h("div.row", {}, find, h("span.faint", { role: "status" }, `${count(fitting.length)} of ${count(status.endpoints.length)}`)),
      fitting.length ? table : h("p.faint", {}, "No endpoint fits."),
      fitting.length > shown.length && h("div.row", {}, h("button", { type: "button", onclick: () => { most += PAGE; draw(); } }, `Show ${count(Math.min(PAGE, fitting.length - shown.length))} more of ${count(fitting.length - shown.length)}`))));
    if (focused) find.focus();
  }

  function sparkOf(name) {
    if (!sparks.has(name)) sparks.set(name, sparkline());
    return sparks.get(name);
  }

  /** Ask again, and draw what differs: focus and selection elsewhere stay. */
  async function reread() {
    const before = status;
    status = await get("status");
    if (shapeOf(before.endpoints) !== shapeOf(status.endpoints) || namesOf(before.tests) !== namesOf(status.tests)) draw();
    drawUnderWay();
  }

  function drawUnderWay() {
    if (!status.endpoints.length && !status.tests.length) return replace(underWay);
    const key = JSON.stringify([status.rollouts, status.tests.map((one) => [one.name, one.status, Math.round(server.now() / 60)])]);
    if (key === drawn) return;
    drawn = key;
    replace(underWay, rollouts(status.rollouts ?? []), tests(status.tests));
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
    const shown = unfolded ? found : found.slice(0, TROUBLES);
    const shape = shown.map((one) => [one].flat(Infinity).map((part) => part?.textContent ?? part).join("")).join("\n") + found.length;
    if (shape === told) return; // what somebody reads or copies stays where it is
    told = shape;
    replace(attention, found.length ? h("section.card.attention", { "aria-label": "Needs attention" }, h("h2", {}, found.length > TROUBLES ? `Needs attention: ${count(found.length)}` : "Needs attention"), h("ul.plain", {}, shown.map((one) => h("li", {}, one))),
      found.length > shown.length && h("div.row", {}, h("button", { type: "button", onclick: () => { unfolded = true; tell(endpoints); } }, `Show ${count(found.length - shown.length)} more`))) : null);
  }

  const listen = async () => {
    const told = await call("cloudwatch", "DescribeAlarms", { StateValue: "ALARM", AlarmTypes: ["MetricAlarm", "CompositeAlarm"], MaxRecords: 20 }).catch(() => ({}));
    ringing = [...(told.MetricAlarms ?? []), ...(told.CompositeAlarms ?? [])];
    if (status.rollouts?.length || status.tests.length) await reread();
  };
  let ringing = [];
  let told = "";
  let drawn = "";
  draw();
  drawUnderWay();
  tell(status.endpoints);
  listen().then(() => tell(status.endpoints)).catch(later);
  const rest = every(5, listen);
  let shape = shapeOf(status.endpoints);
  const end = watch(null, async (picture) => {
    live = new Map(picture.endpoints.map((one) => [one.name, one]));
    if (shapeOf(picture.endpoints) !== shape) {
      shape = shapeOf(picture.endpoints);
      await reread();
    }
    for (const one of picture.changed) rows.get(one.name)?.update(one);
    tell(picture.endpoints);
  });
  return { title: "Overview", node, end: () => { end(); rest(); } };
}

const namesOf = (tests) => JSON.stringify(tests.map((one) => [one.name, one.status]));
const shapeOf = (endpoints) => JSON.stringify(endpoints.map((one) => [one.name, one.status, one.variants.map((variant) => variant.name)]));

function rowOf(endpoint, tests, spark) {
  const rate = h("span", {}, "–");
  const errors = h("span", {}, "–");
  const p99 = h("span", {}, "–");
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
