// Parts that pages are made of: chips, tables, dialogs, notices, bars.

import { append, h, newId, replace, setText, svg } from "./dom.js";
import { percent } from "./format.js";
import { call, server } from "./server.js";
import { snippet } from "./snippets.js";

const GOOD = ["InService", "Running", "Completed", "Ready", "OK", "PROMOTE"];
const BAD = ["Failed", "OutOfService", "UpdateRollbackFailed", "Cancelled", "ALARM", "RollingBack", "ROLLBACK", "INVALID"];
const BUSY = ["Creating", "Updating", "SystemUpdating", "Starting", "Stopping", "Deleting", "Preparing"];

/** A status: its word, a sign and a colour, never the colour alone. */
export function chip(status) {
  const kind = GOOD.includes(status) ? "good" : BAD.includes(status) ? "bad" : BUSY.includes(status) ? "busy" : "plain";
  const sign = { good: "●", bad: "▲", busy: "◐", plain: "○" }[kind];
  return h(`span.chip.${kind}`, {}, h("span", { "aria-hidden": "true" }, sign), ` ${status}`);
}

export const endpointLink = (name) => h("a", { href: `/console/endpoints/${encodeURIComponent(name)}` }, name);
export const testLink = (name) => h("a", { href: `/console/shadow-tests/${encodeURIComponent(name)}` }, name);
export const alarmLink = (name) => h("a", { href: `/console/alarms/${encodeURIComponent(name)}` }, name);
export const modelLink = (name) => h("a", { href: `/console/models?find=${encodeURIComponent(name)}` }, name);

/** Head of a page. */
export function heading(title, { kind, status, actions = [] } = {}) {
  return h("header.head", {},
    h("div", {}, kind && h("p.kind", {}, kind), h("h1", { tabindex: -1 }, title)),
    status, h("span.grow"), h("div.actions", {}, actions));
}

export function card(title, ...children) {
  const id = newId("card");
  return h("section.card", { "aria-labelledby": id }, h("h2", { id }, title), children);
}

/** columns: [{title, number}]; rows: arrays of cells (text or nodes).  stack: on a phone each row is a block. */
export function table(columns, rows, { caption, stack } = {}) {
  return h("div.scroll", { tabindex: 0, role: "region", "aria-label": caption ?? "Table" },
    h(stack ? "table.stack" : "table", {},
      caption && h("caption.hidden", {}, caption),
      h("thead", {}, h("tr", {}, columns.map((one) => h(one.number ? "th.number" : "th", { scope: "col" }, one.title)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, at) => h(columns[at].number ? "td.number" : "td", { "data-label": columns[at].title || undefined }, cell)))))));
}

export function notice(kind, ...children) {
  return h(`div.notice.${kind}`, { role: kind === "bad" ? "alert" : "status" }, children);
}

export function refusal(error) {
  return notice("bad", h("strong", {}, error.code ?? "Error"), h("p", {}, error.message));
}

/** What an empty page says: what would be here, and the command that brings it. */
export function empty(title, text, command, ...more) {
  return h("div.empty", {}, h("h2", {}, title), h("p", {}, text),
    command && h("pre", { tabindex: 0 }, command), more);
}

export function busy(text = "Loading …") {
  return h("p.busy", { role: "status" }, text);
}

export const colour = (at) => `var(--c${at % 10})`;

/** Shares of variants as one bar with words below. */
export function shareBar(variants) {
  const bar = h("div.shares", { role: "img", "aria-label": variants.map((one) => `${one.name} ${percent(one.share)}`).join(", ") });
  for (const one of variants)
    bar.append(h("span", { style: { flex: `${Math.max(one.share, 0)} 0 0`, background: one.colour }, title: `${one.name}: ${percent(one.share)}` }));
  return bar;
}

/** A line of the newest values, without axes; hidden from screen readers, the figure beside it tells. */
export function sparkline(width = 96, height = 24, keep = 60) {
  const values = [];
  const line = svg("polyline", { fill: "none", stroke: "currentColor", "stroke-width": 1.5 });
  const node = svg("svg.spark", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" }, line);
  return {
    node,
    push(value) {
      values.push(value ?? 0);
      if (values.length > keep) values.shift();
      const top = Math.max(...values, 1e-9);
      line.setAttribute("points", values.map((one, at) =>
        `${((at + keep - values.length) / (keep - 1)) * width},${height - 2 - (one / top) * (height - 4)}`).join(" "));
    },
  };
}

/** A figure with its name. */
export function tile(name) {
  const value = h("span.value", {}, "–");
  const detail = h("span.detail");
  return { node: h("div.tile", {}, h("span.name", {}, name), value, detail), set: (text, more = "") => { setText(value, text); setText(detail, more); } };
}

/** A meter with words: how far something is. */
export function progress(share, label) {
  const within = Math.min(1, Math.max(0, share));
  return h("div.progress", { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(within * 100), "aria-label": label },
    h("span", { style: { width: `${within * 100}%` } }));
}

/** A dialog; onclose runs however it ends. */
export function dialog(title, ...children) {
  const id = newId("dialog");
  const close = h("button.quiet", { type: "button", "aria-label": "Close", onclick: () => node.close() }, "✕");
  const node = h("dialog", { "aria-labelledby": id }, h("div.row", {}, h("h2", { id }, title), h("span.grow"), close), children);
  node.addEventListener("close", () => node.remove());
  document.body.append(node);
  node.showModal();
  return node;
}

/** A button that changes something: disabled with a reason where the console is read-only. */
export function changing(text, onclick, kind = "plain") {
  const reason = "The console is read-only.";
  return h(`button.${kind}`, { type: "button", onclick, disabled: server.readonly, title: server.readonly ? reason : undefined }, text);
}

/**
 * Ask before a change: what will happen, the calls, a button.  calls: [[service, operation, parameters], ...],
 * or a function that says them from fields; carried out in order; then done() is called.
 */
export function confirmCalls(title, text, calls, verb, done, kind = "danger", fields = []) {
  const said = h("div");
  const wanted = () => (typeof calls === "function" ? calls() : calls);
  const preview = snippet(wanted());
  const go = changing(verb, async () => {
    go.disabled = true;
    try {
      for (const one of wanted()) await call(...one);
      shown.close();
      done();
    } catch (error) {
      replace(said, refusal(error));
      go.disabled = false;
    }
  }, kind);
  const shown = dialog(title, h("p", {}, text), h("div", { oninput: () => preview.update(wanted()) }, fields), preview.node, said,
    h("div.row", {}, h("span.grow"), h("button.quiet", { type: "button", onclick: () => shown.close() }, "Cancel"), go));
}

/** A labelled field.  control: an input, select or textarea. */
export function labelled(label, control, hint) {
  const id = control.id || (control.id = newId("field"));
  const hintId = hint && newId("hint");
  if (hintId) control.setAttribute("aria-describedby", hintId);
  return h("div.field", {}, h("label", { for: id }, label), control, hint && h("p.hint", { id: hintId }, hint));
}

/** options: [[value, text], ...] */
export function choice(options, value, attributes = {}) {
  const select = h("select", attributes, options.map(([one, text]) => h("option", { value: one }, text)));
  select.value = value ?? options[0]?.[0] ?? "";
  return select;
}

/** A group of buttons of which one is pressed; each is a link, so that it can be shared. */
export function segmented(label, options, chosen, addressOf) {
  return h("nav.segmented", { "aria-label": label }, options.map(([value, text]) =>
    h("a", { href: addressOf(value), "aria-current": value === chosen ? "true" : undefined }, text)));
}

export { append };
