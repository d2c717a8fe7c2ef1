// How right each variant is: measures with intervals, the ROC curve, confusion matrices.

import { h, replace } from "./dom.js";
import { figure } from "./charts.js";
import { count, number, percent } from "./format.js";
import { busy, card, empty, labelled, table } from "./parts.js";
import { answerOf, ownPath } from "./server.js";

const CELLS = [["actual 0", "true_negative", "false_positive"], ["actual 1", "false_negative", "true_positive"]];
const sum = (told, member) => count(told.variants.reduce((total, one) => total + (one.exposures[member] ?? 0), 0));
const short = (value) => (value === null || value === undefined ? "–" : value.toFixed(4));

/** variants: [{name, colour}].  Returns {node, end}. */
export function qualityCard(endpoint, variants) {
  const body = h("div");
  const again = h("button", { type: "button", onclick: () => read() }, "Measure again");
  const field = h("input", { maxlength: 256, placeholder: "found by itself" });
  const node = card("Quality of each variant", h("p.faint", {}, "Captured answers joined with labels of the last day. Intervals hold at every look."),
    h("form.filters", { onsubmit: (event) => { event.preventDefault(); read(); } }, labelled("Where the prediction is (member or column)", field), again), body);
  node.id = "quality";
  let roc;

  async function read() {
    replace(body, busy("Reading captured answers …"));
    let told;
    try {
      told = await answerOf(ownPath(endpoint, field.value ? `quality?${new URLSearchParams({ field: field.value })}` : "quality"));
    } catch (error) {
      replace(body, empty("Quality is not known", error.message, `understudy quality ${endpoint}`));
      return;
    }
    roc?.end();
    roc = undefined;
    const measured = told.variants.filter((one) => one.examples > 0);
    if (!measured.length) {
      replace(body, empty("No labelled answer yet", `${sum(told, "total")} captured requests, ${sum(told, "labelled")} with a label, ${sum(told, "unread")} whose prediction can't be read: say where it is. Labels are reported by inference id:`, `understudy labels import ${endpoint} labels.csv --id-column id --label-column label`));
      return;
    }
    const names = [...new Set(measured.flatMap((one) => Object.keys(one.metrics)))];
    replace(body,
      table([{ title: "" }, ...measured.map((one) => ({ title: `${one.variant}${one.shadow ? " (shadow)" : ""}`, number: true }))], [
        ["labelled of captured", ...measured.map((one) => `${count(one.exposures.labelled)} of ${count(one.exposures.total)}`)],
        ...names.map((name) => [name.replaceAll("_", " "), ...measured.map((one) => cell(one.metrics[name]))]),
      ], { caption: "Quality" }),
      measured.some((one) => Object.values(one.metrics).some((each) => each.approximate)) && h("p.faint", {}, "~ too few examples for this interval to hold what it promises"),
      h("div.charts", {}, curve(measured), measured.map((one) => one.confusion_matrix && h("figure.chart", {}, h("figcaption", {}, h("h3", {}, `Confusion of ${one.variant}`)), confusion(one.confusion_matrix, one.variant)))));
  }

  function curve(measured) {
    const drawn = measured.filter((one) => one.roc);
    if (!drawn.length) return null;
    const across = [0, ...new Set(drawn.flatMap((one) => one.roc.false_positive_rates).concat([0, 1]).sort((a, b) => a - b))];
    roc = figure({ title: "ROC", unit: "true positives by false positives", format: percent, height: 260, across: { title: "false positive rate", format: (value) => percent(value) },
      lines: [...drawn.map((one) => ({ name: one.variant, colour: variants.find((each) => each.name === one.variant)?.colour ?? "var(--c9)", gauge: true })), { name: "chance", colour: "var(--ink-2)", dash: true }] });
    // The first point is (0, 0); on each other vertical the highest.
    requestAnimationFrame(() => roc?.draw(across, [...drawn.map((one) => across.map((x, at) => (at === 0 ? 0 : height(one.roc, x)))), across]));
    return roc.node;
  }
  read();
  return { node, end: () => roc?.end() };
}

function cell(measure) {
  if (!measure || measure.value === null) return "not defined";
  return [h("strong", {}, short(measure.value)), h("div.faint", {}, `${measure.approximate ? "~ " : ""}${short(measure.low)} to ${short(measure.high)}`)];
}

/** The curve's height above x. */
function height({ false_positive_rates: xs, true_positive_rates: ys }, x) {
  const after = xs.findLastIndex((one) => one <= x);
  if (xs[after] === x || after === xs.length - 1) return ys[after];
  return ys[after] + ((x - xs[after]) / (xs[after + 1] - xs[after])) * (ys[after + 1] - ys[after]);
}

function confusion(matrix, variant) {
  const [heads, rows] = matrix.labels
    ? [matrix.labels.map((one) => `predicted ${one}`), matrix.labels.map((one, at) => [`actual ${one}`, ...matrix.counts[at]])]
    : [["predicted 0", "predicted 1"], CELLS.map(([name, ...cells]) => [name, ...cells.map((one) => matrix[one])])];
  return h("div.scroll", { tabindex: 0, role: "region", "aria-label": `Confusion matrix of ${variant}` }, h("table.confusion", {},
    h("thead", {}, h("tr", {}, h("td"), heads.map((one) => h("th.number", { scope: "col" }, one)))),
    h("tbody", {}, rows.map(([name, ...cells], row) => {
      const sum = cells.reduce((total, one) => total + one, 0) || 1;
      return h("tr", {}, h("th", { scope: "row" }, name), cells.map((one, column) => h(row === column ? "td.number.right" : "td.number", {}, count(one), h("div.faint", {}, `${number((one / sum) * 100)} %`))));
    }))));
}
