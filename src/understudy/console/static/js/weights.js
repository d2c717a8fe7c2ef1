// Weights and instance counts of an endpoint's variants: dragged on a bar or typed, seen before they are set.

import { h, replace, setText } from "./dom.js";
import { percent } from "./format.js";
import { changing, refusal } from "./parts.js";
import { call } from "./server.js";
import { snippet } from "./snippets.js";

const round = (value) => Number(value.toFixed(4));

export function weightEditor(endpoint, variants, done) {
  const production = variants.filter((one) => !one.shadow).map((one) => ({ ...one, now: one.desired_weight, count: one.desired_instances }));
  const shadows = variants.filter((one) => one.shadow).map((one) => ({ ...one, now: one.desired_weight, count: one.desired_instances }));
  const all = [...production, ...shadows];
  const total = () => production.reduce((sum, one) => sum + one.now, 0);
  const share = (one) => (one.shadow ? (total() ? Math.min(1, one.now / total()) : Number(one.now > 0)) : total() ? one.now / total() : 0);
  const said = h("div");

  const segments = production.map((one) => h("span", { style: { background: one.colour } }));
  const handles = production.slice(1).map((one, at) => h("span.handle", {
    role: "slider", tabindex: 0, "aria-label": `Border between ${production[at].name} and ${one.name}`,
    "aria-valuemin": 0, "aria-valuemax": 100, onpointerdown: (event) => drag(event, at), onkeydown: (event) => step(event, at),
  }));
  const bar = h("div.weights", {}, segments, handles);
  const fields = all.map((one) => h("input", { type: "number", min: 0, step: "any", value: one.now, id: `weight-${one.name}`, oninput: (event) => {
    const value = event.target.valueAsNumber;
    if (!(value >= 0) || !Number.isFinite(value)) return;
    one.now = value;
    show(event.target);
  } }));
  const counts = all.map((one) => h("input", { type: "number", min: 1, step: 1, value: one.count, "aria-label": `Instances of ${one.name}`, oninput: (event) => {
    const value = event.target.valueAsNumber;
    if (!(value >= 1) || !Number.isInteger(value)) return;
    one.count = value;
    show(event.target);
  } }));
  const shares = all.map(() => h("span.number"));

  /** Move the border after variant `at` so that the two beside it share differently; the others stay. */
  function move(at, place) {
    const sum = total() || 1;
    const before = production.slice(0, at).reduce((part, one) => part + one.now, 0) / sum;
    const both = (production[at].now + production[at + 1].now) / sum || 1 / production.length;
    const left = Math.min(both, Math.max(0, place - before));
    production[at].now = round(left * sum);
    production[at + 1].now = round((both - left) * sum);
    show();
  }

  function drag(event, at) {
    event.preventDefault();
    const handle = event.currentTarget;
    handle.setPointerCapture(event.pointerId);
    const box = bar.getBoundingClientRect();
    const onmove = (one) => move(at, Math.round(((one.clientX - box.left) / box.width) * 100) / 100);
    handle.addEventListener("pointermove", onmove);
    handle.addEventListener("pointerup", () => handle.removeEventListener("pointermove", onmove), { once: true });
  }

  function step(event, at) {
    const by = { ArrowLeft: -0.01, ArrowDown: -0.01, ArrowRight: 0.01, ArrowUp: 0.01, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const sum = total() || 1;
    const place = production.slice(0, at + 1).reduce((part, one) => part + one.now, 0) / sum;
    move(at, place + by);
  }

  const differs = (one) => one.now !== one.desired_weight || one.count !== one.desired_instances;
  const calls = () => [["sagemaker", "UpdateEndpointWeightsAndCapacities", { EndpointName: endpoint,
    DesiredWeightsAndCapacities: all.filter((one) => differs(one) || !all.some(differs)).map((one) => ({ VariantName: one.name,
      DesiredWeight: one.now !== one.desired_weight || !differs(one) ? one.now : undefined,
      DesiredInstanceCount: one.count !== one.desired_instances ? one.count : undefined })) }]];
  const preview = snippet(calls());
  const apply = changing("Apply", async () => {
    apply.disabled = true;
    try {
      for (const one of calls()) await call(...one);
      replace(said);
      done();
    } catch (error) {
      replace(said, refusal(error));
      apply.disabled = false;
    }
  }, "primary");
  const reset = h("button.quiet", { type: "button", onclick: () => {
    for (const one of all) [one.now, one.count] = [one.desired_weight, one.desired_instances];
    show();
  } }, "Reset");

  function show(typed) {
    const sum = total();
    let edge = 0;
    production.forEach((one, at) => {
      const part = sum ? one.now / sum : 0;
      segments[at].style.flex = `${part} 0 0`;
      edge += part;
      if (handles[at]) {
        handles[at].style.left = `${edge * 100}%`;
        handles[at].setAttribute("aria-valuenow", Math.round(edge * 100));
        handles[at].setAttribute("aria-valuetext", `${one.name} ${percent(part)}`);
      }
    });
    all.forEach((one, at) => {
      if (fields[at] !== typed) fields[at].value = one.now;
      if (counts[at] !== typed) counts[at].value = one.count;
      setText(shares[at], `${percent(share(one), 2)}${one.shadow ? " of requests copied" : ""}`);
    });
    const changed = all.some(differs);
    if (!apply.title) apply.disabled = !changed;
    reset.disabled = !changed;
    preview.update(calls());
  }
  show();

  const node = h("section.card", { "aria-labelledby": "weights-title", id: "weights" }, h("h2", { id: "weights-title" }, "Weights and instances"),
    production.length > 1 && bar,
    h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Weights of variants" }, h("table.weights-table", {}, h("thead", {}, h("tr", {}, ["Variant", "Weight", "Share", "Instances"].map((one) => h("th", { scope: "col" }, one)))),
      h("tbody", {}, all.map((one, at) => h("tr", {}, h("th", { scope: "row" }, h("label", { for: `weight-${one.name}` }, h("i.dot", { style: { background: one.colour } }), one.name, one.shadow && " (shadow)")), h("td", {}, fields[at]), h("td", {}, shares[at]), h("td", {}, counts[at])))))),
    preview.node, said, h("div.row", {}, h("span.grow"), reset, apply));
  return { node, edited: () => all.some(differs) };
}
