// The capture browser: requests and answers as they were, by time, variant and inference id.

import { append, h, replace } from "../dom.js";
import { count, local, time } from "../format.js";
import { choice, empty, heading, labelled, notice, refusal } from "../parts.js";
import { get, server } from "../server.js";

const SPANS = [["900", "15 min"], ["3600", "an hour"], ["21600", "6 hours"], ["86400", "a day"], ["604800", "7 days"], ["2592000", "30 days"]];

/** Unix seconds as a field of date and time has them: in the viewer's zone. */
function fieldTime(at_s) {
  if (!(at_s > 0 && at_s < 1e11)) return "";
  const at = new Date(at_s * 1000);
  return new Date(at_s * 1000 - at.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

export async function page({ query, go }) {
  const status = await get("status");
  const named = query.get("endpoint");
  const names = [...new Set([...status.endpoints.map((one) => one.name), ...(named ? [named] : [])])];
  if (!names.length) return { title: "Captures", node: h("div", {}, heading("Captures"), empty("Nothing is captured", "Give an endpoint's configuration a DataCaptureConfig, and its requests and answers appear here.", "understudy compare --help")) };
  const endpoint = choice(names.map((one) => [one, one]), named ?? names[0]);
  const variantsOf = () => (query.get("variants") && endpoint.value === named ? query.get("variants").split(",") : status.endpoints.find((one) => one.name === endpoint.value)?.variants.map((one) => one.name) ?? []);
  const variant = h("select");
  const fillVariants = () => replace(variant, h("option", { value: "" }, "All variants"), variantsOf().map((one) => h("option", { value: one }, one)));
  fillVariants();
  variant.value = query.get("variant") ?? "";
  const span = choice(SPANS, query.get("span") ?? "3600");
  const until = h("input", { type: "datetime-local", step: 1, value: fieldTime(Number(query.get("until"))), title: "Empty: until now" });
  const untilTime = () => (until.value ? new Date(until.value).getTime() / 1000 : undefined);
  const inference = h("input", { value: query.get("inference_id") ?? "", placeholder: "any" });
  const destination = h("input", { value: query.get("destination") ?? "", placeholder: "the endpoint's own" });
  const out = h("div", { "aria-live": "polite" });
  const form = h("form.row.filters", { onsubmit: (event) => { event.preventDefault(); search(); } },
    labelled("Endpoint", endpoint), labelled("Variant", variant), labelled("Within", span), labelled("Until (empty: now)", until), labelled("Inference ID", inference), labelled("Destination", destination), h("button.primary", { type: "submit" }, "Show"));
  endpoint.addEventListener("change", fillVariants);

  function search() {
    const wanted = new URLSearchParams({ endpoint: endpoint.value, span: span.value });
    if (untilTime()) wanted.set("until", untilTime());
    for (const [key, field] of [["variant", variant], ["inference_id", inference], ["destination", destination]]) if (field.value.trim()) wanted.set(key, field.value.trim());
    if (query.get("variants") && endpoint.value === named) wanted.set("variants", query.get("variants"));
    history.replaceState(null, "", `/console/captures?${wanted}`);
    read();
  }

  /** The page before: up to and with the second of the oldest that is shown, as there may be more of it. */
  function older(records) {
    const [newest, oldest] = [records[0].at_s, records.at(-1).at_s].map(Math.floor);
    until.value = fieldTime(newest === oldest ? oldest : oldest + 1);
    search();
  }

  async function read() {
    const end = untilTime() ?? server.now() + 1;
    replace(out, h("p.busy", {}, "Reading …"));
    try {
      const told = await get("captures", { endpoint: endpoint.value, variants: variant.value || variantsOf().join(","), start_s: end - Number(span.value), end_s: end, inference_id: inference.value.trim(), destination: destination.value.trim(), limit: 50 });
      if (told.destination === null)
        return replace(out, empty(`${endpoint.value} captures nothing now`, "Give its endpoint configuration a DataCaptureConfig and update it, or name the destination of an earlier capture above."));
      replace(out,
        told.unreadable_lines > 0 && notice("warn", `${count(told.unreadable_lines)} lines are no captured records and were left out.`),
        told.stopped_at_s !== null && notice("warn", `There is too much to look further back than ${local(told.stopped_at_s)}: choose a shorter time.`),
        told.records.length ? [h("p.faint", {}, `${count(told.records.length)} records${told.more ? ", the newest ones" : ""} in `, h("code", {}, told.destination)), told.records.map(record), told.more && h("div.row", {}, h("span.grow"), h("button", { type: "button", onclick: () => older(told.records) }, "Older"))]
          : empty("No records here", "Records appear within 10 seconds of a request. Look further back, or at all variants."));
    } catch (error) {
      replace(out, refusal(error));
    }
  }
  if (endpoint.value && variantsOf().length) read();
  return { title: "Captures", node: append(h("div"), [heading("Captures"), form, out]) };
}

function record(one) {
  const side = (title, told) => h("div", {}, h("h4", {}, title, told && h("span.faint", {}, ` ${told.content_type} · ${told.encoding} · ${count(told.bytes)} bytes`)),
    told ? h("pre", { tabindex: 0 }, told.text) : h("p.faint", {}, "not captured"));
  const body = h("div");
  const brief = (told) => (told ? told.text.slice(0, 80) : "");
  return h("details.record", { ontoggle: (event) => event.currentTarget.open && !body.childElementCount && append(body, [
    h("p.faint", {}, "Event ", h("code", {}, one.event_id), one.custom_attributes.length ? [" · custom attributes ", h("code", {}, one.custom_attributes.join(" "))] : null),
    h("div.two", {}, side("Request", one.input), side("Answer", one.output))]) },
    h("summary", {}, time(one.at_s), " ", h("strong", {}, one.variant), " ", one.inference_id && h("code", {}, one.inference_id), " ", h("code.faint", {}, `${brief(one.input)} → ${brief(one.output)}`)), body);
}
