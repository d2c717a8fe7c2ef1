// One endpoint: what serves, how it does, its weights, its rollout, its events and logs.
// /endpoints/NAME/update is the wizard of an update.

import { append, h, replace, setText } from "../dom.js";
import { RANGES, board, lastWindow } from "../charts.js";
import { count, latency, number, percent, time } from "../format.js";
import { card, changing, chip, colour, confirmCalls, empty, heading, modelLink, notice, refusal, segmented, table, testLink, tile } from "../parts.js";
import { chartsOf } from "../metrics.js";
import { call, every, get, server, watch } from "../server.js";
import { logTail } from "../logs.js";
import { readRollout, rolloutCard } from "../rollout.js";
import { weightEditor } from "../weights.js";
import { troubles } from "./overview.js";

const CHARTS = ["requests", "latency", "overhead", "errors4", "errors5", "cpu", "memory", "disk"];

export async function page(place) {
  const { path: [name, part], query, go } = place;
  if (!name) {
    go("/console/", { instead: true });
    return { title: "Overview", node: h("div") };
  }
  if (part === "update") return (await import("./update.js")).page(place);
  const describing = call("sagemaker", "DescribeEndpoint", { EndpointName: name });
  describing.catch(() => {}); // told below
  const status = await get("status");
  const ends = [];
  const range = query.get("range") ?? "15m";
  const here = `/console/endpoints/${encodeURIComponent(name)}`;
  const state = status.endpoints.find((one) => one.name === name);
  const variants = (state?.variants ?? []).map((one, at) => ({ ...one, colour: colour(at) }));
  const tests = status.tests.filter((one) => one.endpoint === name);

  const charts = board(name, chartsOf(CHARTS, variants), lastWindow(range));
  if (variants.length) charts.read(); // the server reads while the page is made
  const described = await describing.catch((error) => { charts.end(); throw error; });

  const statusChip = h("span", {}, chip(described.EndpointStatus));
  const attention = h("div");
  const rollout = h("div");
  const tiles = { rate: tile("Requests per second"), errors: tile("Errors"), p50: tile("Model latency p50"), p90: tile("p90"), p99: tile("p99"), instances: tile("Instances") };
  const rows = new Map(variants.map((one) => [one.name, variantRow(one, state)]));
  const deletion = [["sagemaker", "DeleteEndpoint", { EndpointName: name }]];

  const node = h("div", {},
    heading(name, { kind: "Endpoint", status: statusChip, actions: [
      !server.readonly && h("a.button", { href: `${here}/update` }, "Update"),
      h("a.button", { href: `/console/alarms?endpoint=${encodeURIComponent(name)}` }, "Alarms"),
      variants.filter((one) => !one.shadow).length > 1 && h("a.button", { href: `/console/ab/${encodeURIComponent(name)}` }, "A/B verdict"),
      h("a.button", { href: `/console/invoke?endpoint=${encodeURIComponent(name)}` }, "Invoke"),
      h("a.button", { href: `/console/shadow-tests/new?endpoint=${encodeURIComponent(name)}` }, "Shadow test"),
      changing("Delete", () => confirmCalls(`Delete ${name}?`, "It stops serving and its instances end. Models and configurations stay.", deletion, "Delete endpoint", () => go("/console/")), "danger"),
    ] }),
    h("p.facts", {}, "Configuration ", h("strong", {}, described.EndpointConfigName), " · changed ", time(described.LastModifiedTime, { ago: true }), " · made ", time(described.CreationTime),
      described.DataCaptureConfig && [" · captures ", `${described.DataCaptureConfig.CurrentSamplingPercentage} % to `, h("a", { href: `/console/captures?endpoint=${encodeURIComponent(name)}` }, described.DataCaptureConfig.DestinationS3Uri)],
      tests.map((one) => [" · test ", testLink(one.name), ` ${one.status}`])),
    attention, rollout,
    h("div.tiles", {}, Object.values(tiles).map((one) => one.node)));

  const again = () => go(location.pathname + location.search, { instead: true });
  const editor = weightEditor(name, variants, again);
  if (variants.length) {
    append(node, [
      card("Variants", h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Variants" }, h("table", {},
        h("thead", {}, h("tr", {}, ["Variant", "Share", "Instances", "Requests/s", "p50", "p90", "p99", "4XX", "5XX"].map((one, at) => h(at > 2 ? "th.number" : "th", { scope: "col" }, one)))),
        h("tbody", {}, [...rows.values()].map((one) => one.node))))),
      editor.node,
      h("section.card", { "aria-label": "Metrics" }, h("div.row", {}, h("h2", {}, "Metrics"), h("span.grow"),
        segmented("Range of time", RANGES.map(([value, text]) => [value, text]), range, (value) => `${here}?range=${value}`)), charts.node),
    ]);
    ends.push(charts.end, every(lastWindow(range).period <= 10 ? 5 : 15, charts.read));
  } else {
    append(node, [empty("Nothing serves yet", described.FailureReason ?? "The first instances are being started. This page follows.", `understudy logs ${name} -f`)]);
  }

  const events = h("div");
  const logs = logTail(name, query);
  ends.push(logs.end);
  append(node, [card("Events", events), logs.node]);

  async function readEvents() {
    try {
      const told = await get("events", { arn: described.EndpointArn, limit: 50 });
      replace(events, told.events.length ? table([{ title: "When" }, { title: "What" }, { title: "Details" }],
        told.events.map((one) => [time(one.at_s, { short: true }), one.kind, eventText(one.detail)]), { caption: "Events", stack: true }) : h("p.faint", {}, "None yet."));
    } catch (error) {
      replace(events, refusal(error));
    }
  }
  readEvents();
  ends.push(every(10, readEvents));

  const shapeOf = (endpoint) => JSON.stringify([endpoint?.config_name, (endpoint?.variants ?? []).map((one) => [one.name, one.desired_weight, one.desired_instances])]);
  let shape = shapeOf(state);
  let absent = 0;
  let status_ = described.EndpointStatus;
  let changing_ = described.EndpointStatus !== "InService";
  let update;
  const follow = async (last = false) => {
    if (!changing_ && !last) return;
    const [now, told] = await Promise.all([call("sagemaker", "DescribeEndpoint", { EndpointName: name }), readRollout(name)]).catch(() => [described, { rollout: null }]);
    if (gone) return;
    replace(statusChip, chip(now.EndpointStatus));
    if (told.rollout?.kind !== "update") {
      update?.end();
      update = undefined;
      replace(rollout, pending(now));
    } else if (update) update.update(told);
    else {
      const begun = now.PendingDeploymentSummary?.StartTime ?? told.rollout.phase_at_s;
      update = rolloutCard(name, told, variants.filter((one) => !one.shadow).map((one) => one.name), begun);
      replace(rollout, update.node);
    }
  };
  let gone = false;
  ends.push(() => { gone = true; update?.end(); });
  replace(rollout, pending(described));
  await follow();
  ends.push(every(1, () => follow()));

  ends.push(watch(name, (picture) => {
    const now = picture.endpoints[0];
    absent = now ? 0 : absent + 1;
    if (!now) return absent > 1 && go("/console/", { instead: true }); // it was deleted
    changing_ = now.status !== "InService" && now.status !== "Deleting";
    if (shapeOf(now) !== shape) {
      shape = shapeOf(now);
      // What somebody is typing is not thrown away.
      if (editor.edited() || document.querySelector("dialog[open]"))
        replace(rollout, notice("warn", "The endpoint was changed meanwhile. ", h("button", { type: "button", onclick: again }, "Show it as it is now")));
      else return again();
    }
    if (now.status !== status_) {
      status_ = now.status;
      replace(statusChip, chip(status_));
      if (status_ === "InService") follow(true);
    }
    now.variants.forEach((one) => rows.get(one.name)?.update(one));
    tell(now);
  }));

  function tell(now) {
    const serving = now.variants.filter((one) => !one.shadow);
    const sum = (member) => serving.reduce((total, one) => total + (one.live[member] ?? 0), 0);
    const worst = (member) => Math.max(...serving.map((one) => one.live[member] ?? -1));
    const shown = (value) => (value < 0 ? "–" : latency(value));
    tiles.rate.set(serving.some((one) => one.live.rate !== null) ? number(sum("rate")) : "–", `${count(sum("total"))} in all`);
    const failed = sum("errors_4xx") + sum("errors_5xx");
    tiles.errors.set(sum("invocations") ? percent(failed / sum("invocations")) : "–", `${sum("errors_4xx")} 4XX, ${sum("errors_5xx")} 5XX`);
    const several = serving.length > 1 ? "slowest variant" : "";
    tiles.p50.set(shown(worst("p50_us")), several);
    tiles.p90.set(shown(worst("p90_us")), several);
    tiles.p99.set(shown(worst("p99_us")), several);
    const ready = now.variants.reduce((total, one) => total + one.instances, 0);
    tiles.instances.set(`${ready} of ${now.variants.reduce((total, one) => total + one.desired_instances, 0)}`, "serve");
    const found = troubles(now);
    replace(attention, found.length ? h("section.card.attention", { "aria-label": "Needs attention" }, h("h2", {}, "Needs attention"), h("ul.plain", {}, found.map((one) => h("li", {}, one)))) : null);
  }
  return { title: name, node, end: () => ends.forEach((one) => one()) };
}

/** What an event says, its usual members in words. */
function eventText(detail) {
  const { from, to, reason, by, ...more } = detail;
  const rest = Object.entries(more).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(" · ");
  return [(from || to) && h("div", {}, `${from ?? "–"} → ${to ?? "–"}`), reason && h("div.reason", {}, reason), rest && h("div.faint.detail", {}, rest), by && by !== "understudy" && h("div.faint.detail", {}, by)];
}

function variantRow(variant, endpoint) {
  const cells = ["share", "instances", "rate", "p50", "p90", "p99", "e4", "e5"].map((one) => [one, h("span", {}, "–")]);
  const at = Object.fromEntries(cells);
  const bar = h("span", { style: { background: variant.colour } });
  const images = variant.images.map((one) => h("div.faint", { title: one.specified }, one.resolved));
  const detail = h("div");
  const node = h("tr", {},
    h("th", { scope: "row" }, h("i.dot", { style: { background: variant.colour } }), variant.name, " ", variant.shadow && h("span.chip.plain", {}, "shadow"), h("div.faint", {}, modelLink(variant.model_name), ` · ${variant.instance_type}`), images),
    h("td.share", {}, h("div.shares.thin", {}, bar), at.share), h("td", {}, at.instances, detail),
    ["rate", "p50", "p90", "p99", "e4", "e5"].map((one) => h("td.number", {}, at[one])));
  let told = "";
  function update(now) {
    setText(at.share, `${percent(now.share)} ${now.shadow ? "copied" : ""}`);
    bar.style.inlineSize = `${Math.min(1, now.share) * 100}%`;
    setText(at.instances, `${now.instances} of ${now.desired_instances}`);
    const waiting = (now.detail ?? []).filter((one) => one.status !== "Ready");
    const key = JSON.stringify(waiting);
    if (key !== told) {
      told = key;
      replace(detail, waiting.map((one) => h("div.faint", {}, `${one.instance.split("/").at(-1)}: ${one.status} ${one.detail || one.reason}`)));
    }
    const live = now.live;
    if (!live) return;
    setText(at.rate, live.rate === null ? "–" : number(live.rate));
    for (const one of ["p50", "p90", "p99"]) setText(at[one], latency(live[`${one}_us`]));
    setText(at.e4, live.errors_4xx);
    setText(at.e5, live.errors_5xx);
    at.e5.className = live.errors_5xx ? "bad-text" : "";
  }
  update(variant, endpoint);
  return { node, update };
}

/** What an endpoint is becoming, while it is updated. */
function pending(described) {
  const summary = described.PendingDeploymentSummary;
  if (!summary) return described.FailureReason ? h("section.card.attention", {}, h("h2", {}, "The last change failed"), h("p.reason", {}, described.FailureReason)) : null;
  const stages = [...(summary.ProductionVariants ?? []), ...(summary.ShadowProductionVariants ?? [])];
  return card(`Becoming ${summary.EndpointConfigName}`,
    h("p", {}, "Under way since ", time(summary.StartTime, { ago: true }), ". The fleet that serves goes on answering."),
    h("ol.timeline", {}, stages.map((one) => h("li", {}, h("strong", {}, one.VariantName), ` ${one.CurrentInstanceCount ?? 0} of ${one.DesiredInstanceCount ?? "?"} instances`,
      one.CurrentWeight !== undefined && ` · weight ${one.CurrentWeight}`, (one.VariantStatus ?? []).map((stage) => h("div.faint", {}, `${stage.Status} ${stage.StatusMessage ?? ""} `, time(stage.StartTime, { ago: true })))))));
}
