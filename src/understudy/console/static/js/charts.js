// Charts of CloudWatch metrics: lines by uPlot, the numbers as a table, CSV and PNG to take away.
//
// A board is several charts of one window of time; a refresh reads only the newest periods again, by one
// GetMetricData call.

import Plot from "../vendor/uplot-1.6.32.esm.js";
import { h, newId, replace, setText } from "./dom.js";
import { clock, count, day, local, minute, utc } from "./format.js";
import { notice } from "./parts.js";
import { call, server } from "./server.js";
import { snippet } from "./snippets.js";

const QUERIES = 400; // of 500 that one GetMetricData may have
const AHEAD = 2; // calls under way at once: the server reads one chart while another is drawn
const AT_ONCE = 4; // charts asked for before anybody knows which are looked at
const POINTS = 4000; // of one chart: more lines have coarser periods
const AGAIN = 3; // periods that a refresh reads again: late numbers still come in

document.head.append(h("link", { rel: "stylesheet", href: new URL("../vendor/uplot-1.6.32.min.css", import.meta.url).pathname }));

export const RANGES = [
  ["5m", "5 min", 300, 1],
  ["15m", "15 min", 900, 10],
  ["1h", "1 h", 3600, 30],
  ["3h", "3 h", 10800, 60],
  ["24h", "24 h", 86400, 300],
  ["7d", "7 d", 604800, 3600],
  ["30d", "30 d", 2592000, 10800],
];

/** The window that ends now, from its name in the address. */
export function lastWindow(name) {
  const [, , length, period] = RANGES.find(([one]) => one === name) ?? RANGES[1];
  const span = Math.max(length, 2 * period * Math.max(1, server.session.time_scale / 60));
  return { follow: true, length: span, period: fitting(span, period) };
}

/** The window that began then and ends now. */
export function windowSince(start_s) {
  const length = Math.max(60, server.now() - start_s, 20 * server.session.time_scale);
  return { follow: true, length, period: fitting(length, length < 10000 ? 5 : 60) };
}

/** The window from one time to another. */
export function fixedWindow(start_s, end_s) {
  const length = Math.max(60, end_s - start_s);
  return { follow: false, start_s, end_s, length, period: fitting(length, length <= 600 && server.now() - start_s < 10000 ? 5 : 60) };
}

/** A period that CloudWatch has, with at most so many points in the window. */
function fitting(length, least, points = 300) {
  // Routers report once a real second: finer periods than two of those would have gaps.
  let period = least;
  const finest = server.session.time_scale > 1 ? 2 * server.session.time_scale : 1;
  for (const next of [5, 10, 30, 60, 300, 900, 3600, 10800, 21600, 86400]) if ((length / period > points || period < finest) && next > period) period = next;
  return period;
}

export const edges = (window) => {
  const end = window.follow ? server.now() : window.end_s;
  const start = window.follow ? end - window.length : window.start_s;
  return [Math.floor(start / window.period) * window.period, end];
};

/** One line of a chart as GetMetricData wants it. */
function query(endpoint, line, id, period) {
  return {
    Id: id,
    MetricStat: {
      Metric: {
        Namespace: line.namespace ?? "AWS/SageMaker",
        MetricName: line.metric,
        Dimensions: [
          { Name: "EndpointName", Value: endpoint },
          { Name: "VariantName", Value: line.variant },
          ...(line.outcome ? [{ Name: "Outcome", Value: line.outcome }] : []),
          ...(line.dimensions ?? []),
        ],
      },
      Period: period,
      Stat: line.stat,
    },
  };
}

/**
 * charts: [{title, unit, format(value), lines: [{name, colour, dash, variant, metric, stat, namespace, zero, per,
 * dimensions, constant}], and what figure takes}].  zero: no sample means 0.  per: divide by this (a rate: the
 * period).  constant: a line that is not read, such as a threshold.
 */
export function board(endpoint, charts, span) {
  const most = Math.max(1, ...charts.map((one) => one.lines.length));
  const window = { ...span, period: fitting(span.length, span.period, Math.min(300, POINTS / most)) };
  const figures = charts.map((one) => figure(one));
  const lines = charts.flatMap((one) => one.lines);
  const said = h("div");
  const asks = lines.map((line, at) => ({ line, at })).filter(({ line }) => line.constant === undefined).map(({ line, at }) => query(endpoint, line, `m${at}`, window.period));
  const parameters = (start, end) => ({ MetricDataQueries: asks, StartTime: start, EndTime: end });
  // Only charts that are looked at are read.
  const looked = new Set(figures.slice(0, AT_ONCE));
  for (const one of figures) Object.assign(one, { known: one.lines.map(() => new Map()), readUntil: 0 });
  const looking = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const one = figures.find((each) => each.node === entry.target);
      if (entry.isIntersecting) looked.add(one);
      else looked.delete(one);
    }
    const fresh = [...looked].filter((one) => !one.readUntil);
    if (fresh.length) readAll(fresh);
  }, { rootMargin: "200px" });

  const read = () => readAll([...looked]);

  async function readAll(wanted) {
    const [start, end] = edges(window);
    // A chart that is new is read by a call of its own, so that the first one is there before the last is read.
    const calls = new Map();
    for (const one of wanted) {
      const from = one.readUntil ? Math.max(start, one.readUntil - AGAIN * window.period) : start;
      if (end - from < 1) continue;
      const together = one.readUntil ? from : one;
      one.readUntil = end;
      calls.set(together, { from, members: [...(calls.get(together)?.members ?? []), one] });
    }
    const left = [...calls.values()];
    const ask = () => {
      for (const one of left.slice(0, AHEAD)) one.reading ??= readFrom(one.from, end, one.members).catch((error) => error);
    };
    for (ask(); left.length; ask()) {
      const failure = await left[0].reading;
      if (failure) {
        for (const { members } of left) for (const one of members) one.readUntil = 0;
        return replace(said, notice("bad", failure.message));
      }
      const { members } = left.shift();
      ask();
      for (const one of members) drawn(one, start, end);
    }
    replace(said);
  }

  function drawn(one, start, end) {
    const times = [];
    for (let at = start; at < end; at += window.period) times.push(at);
    // What the newest period holds is not all yet.
    if (window.follow && times.length > 1) times.pop();
    one.draw(times, one.lines.map((line, at) => {
      if (line.constant !== undefined) return times.map(() => line.constant);
      const values = one.known[at];
      for (const old of values.keys()) if (old < start) values.delete(old);
      const per = line.per ? window.period / server.session.time_scale : 1; // per second of the wall
      return times.map((time) => values.has(time) ? values.get(time) / per : line.zero ? 0 : null);
    }));
  }

  async function readFrom(from, end, members) {
    const wanted = members.flatMap((one) => one.lines.map((line, at) => ({ line, values: one.known[at] }))).filter(({ line }) => line.constant === undefined);
    for (let first = 0; first < wanted.length; first += QUERIES) {
      const asked = wanted.slice(first, first + QUERIES).map(({ line }, at) => query(endpoint, line, `m${first + at}`, window.period));
      let token;
      do {
        const told = await call("cloudwatch", "GetMetricData", { MetricDataQueries: asked, StartTime: from, EndTime: end, ScanBy: "TimestampAscending", NextToken: token });
        for (const one of told.MetricDataResults) {
          const { values } = wanted[Number(one.Id.slice(1))];
          one.Timestamps.forEach((at, index) => values.set(at, one.Values[index]));
        }
        token = told.NextToken;
      } while (token);
    }
  }

  // Written when it is opened: the call of ten variants and all charts has thousands of lines.
  const program = h("details", { ontoggle: () => {
    if (program.open && program.childElementCount === 1) program.append(snippet([["cloudwatch", "GetMetricData", parameters(...edges(window))]], { title: "These numbers from a program" }).node);
  } }, h("summary", {}, "The same numbers by boto3 or the AWS CLI"));
  const node = h("div", {}, said, h("div.charts", {}, figures.map((one) => one.node)), program);
  for (const one of figures) looking.observe(one.node);
  const end = () => {
    looking.disconnect();
    figures.forEach((one) => one.end());
  };
  return { node, read, period_s: window.period / server.session.time_scale, end };
}

/** Ticks of time: seconds only where they differ, the day where it begins or where only days are told. */
function stamps(ticks) {
  const apart = ticks.length > 1 ? ticks[1] - ticks[0] : 60;
  return ticks.map((one, at) => {
    if (apart >= 86400) return day(one);
    const text = (apart < 60 ? clock : minute)(one);
    return at > 0 && day(one) !== day(ticks[at - 1]) ? `${text}\n${day(one)}` : text;
  });
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const variable = (colour) => colour.replace(/^var\((--[\w-]+)\)$/, "$1");
const clean = (text) => text.replace(/[^\w.-]+/g, "-").replace(/^-+|-+$/g, "").toLowerCase();

// Ticks of ratios: the finer, the narrower the range.
const RATIOS = [[3, [0.5, 0.6, 0.8, 1, 1.25, 1.5, 2]], [30, [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20]], [Infinity, [0.02, 0.1, 1, 10, 50]]];
const ratiosOf = (low, high) => RATIOS.find(([most]) => high / low <= most)[1].filter((one) => one >= low && one <= high);
// Ranges of the vertical axis, from the lowest and highest value of a chart.
const SCALES = {
  zero: (_, low, high) => [Math.min(0, low ?? 0), (high ?? 0) > 0 ? high * 1.08 : 1],
  around: (_, low, high) => { const room = ((high ?? 1) - (low ?? -1)) * 0.08 || 1; return [(low ?? -1) - room, (high ?? 1) + room]; },
  ratio: (_, low, high) => [Math.min(0.75, Math.max(0.02, (low ?? 1) * 0.9)), Math.max(1.4, Math.min(50, (high ?? 1) * 1.1))],
};

/**
 * One chart.  scale: "zero" (from 0 on), "around" (what there is) or "ratio" (logarithmic).  bands: [[upper,
 * lower, colour], ...], numbers of lines with the room between them filled.  across: the horizontal axis where
 * it is not time: {title, format}.
 */
export function figure({ title, unit, format, lines, height = 170, scale = "zero", bands = [], across }) {
  const id = newId("chart");
  const canvas = h("div.plot", { role: "img", "aria-labelledby": `${id} ${id}-said` });
  const summary = h("span.hidden", { id: `${id}-said` });
  const numbers = h("div");
  const values = lines.map(() => h("span.value", {}, ""));
  const legend = h("ul.legend", {}, lines.map((line, at) => h("li", {}, h("button", { type: "button", "aria-pressed": "true", title: "Show or hide", onclick: (event) => toggle(at, event.currentTarget) },
    h(line.dash ? "i.dash" : "i", { style: { "--colour": line.colour } }), line.name, " ", values[at]))));
  const details = h("details", { ontoggle: () => details.open && tabulate() }, h("summary", {}, "Numbers"), numbers);
  const tools = h("div.tools", {}, h("button.quiet", { type: "button", onclick: () => save(`${clean(title)}.csv`, new Blob([csv()], { type: "text/csv" })) }, "CSV"),
    h("button.quiet", { type: "button", onclick: png }, "PNG"));
  const node = h("figure.chart", {}, h("figcaption.row", {}, h("h3", { id }, title), h("span.faint", {}, unit), h("span.grow"), tools), canvas, summary, legend, details);
  let plot;
  let data;
  let ended = false;
  const resize = new ResizeObserver(() => plot?.setSize({ width: canvas.clientWidth, height }));

  function toggle(at, button) {
    const visible = !plot.series[at + 1].show;
    plot.setSeries(at + 1, { show: visible });
    button.setAttribute("aria-pressed", visible);
  }

  function draw(times, columns) {
    data = [times, ...columns];
    columns.forEach((column, at) => setText(values[at], column.length ? format(column.findLast((one) => one !== null) ?? null) : ""));
    setText(summary, lines.map((line, at) => `${line.name} ${values[at].textContent}`).join(", "));
    if (details.open) tabulate();
    if (plot) return plot.setData(data);
    if (ended) return;
    const axis = { stroke: () => css("--ink-2"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { stroke: () => css("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
    plot = new Plot({
      width: canvas.clientWidth || 320,
      height,
      padding: [8, 18, 0, 0],
      legend: { show: false },
      cursor: { sync: across ? undefined : { key: "time" }, points: { size: 6 }, drag: { x: true, y: false } },
      scales: { x: { time: !across }, y: { distr: scale === "ratio" ? 3 : 1, range: SCALES[scale] } },
      bands: bands.map(([upper, lower, fill]) => ({ series: [upper + 1, lower + 1], fill: () => `${css(variable(fill))}2e` })),
      axes: [{ ...axis, space: 84, size: (_, texts) => (texts?.some((one) => String(one).includes("\n")) ? 46 : 32), values: (_, ticks) => (across ? ticks.map(across.format) : stamps(ticks)) }, { ...axis, size: 62, ...(scale === "ratio" ? { splits: (_, __, low, high) => ratiosOf(low, high), filter: (_, ticks) => ticks } : {}), values: (_, ticks) => ticks.map((one) => (format === count && !Number.isInteger(one) ? "" : format(one))) }],
      series: [{}, ...lines.map((line) => ({ label: line.name, stroke: () => css(variable(line.colour)), width: line.thin ? 1 : 1.75, dash: line.dash ? [5, 4] : undefined, spanGaps: Boolean(line.gauge), points: { show: data[0].length < 3 } }))],
      hooks: { setCursor: [(one) => {
        const at = one.cursor.idx;
        lines.forEach((line, index) => setText(values[index], format(at === null || at === undefined ? data[index + 1].findLast((value) => value !== null) ?? null : data[index + 1][at])));
      }] },
    }, data, canvas);
    resize.observe(canvas);
  }

  function rows() {
    return data ? data[0].map((at, row) => [at, ...lines.map((_, column) => data[column + 1][row])]).filter((row) => row.slice(1).some((one) => one !== null)) : [];
  }

  function tabulate() {
    replace(numbers, h("div.scroll.low", { tabindex: 0, role: "region", "aria-label": `Numbers of ${title}` }, h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, across?.title ?? "Time"), lines.map((line) => h("th.number", { scope: "col" }, line.name)))),
      h("tbody", {}, rows().reverse().map(([at, ...cells]) => h("tr", {}, across ? h("td", {}, across.format(at)) : h("td", { title: utc(at) }, local(at)), cells.map((one) => h("td.number", {}, one === null ? "–" : format(one)))))))));
  }

  function csv() {
    // A name that a spreadsheet would take for a formula is kept text.
    const cell = (text) => { const safe = /^[=+@\t\r-]/.test(text) ? `'${text}` : text; return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe; };
    const head = [across ? cell(across.title) : "time_utc", ...lines.map((line) => cell(`${line.name} (${unit})`))];
    return [head.join(","), ...rows().map(([at, ...cells]) => [across ? at : new Date(at * 1000).toISOString(), ...cells.map((one) => one ?? "")].join(","))].join("\n") + "\n";
  }

  function png() {
    if (!plot) return;
    const source = plot.ctx.canvas;
    const ratio = source.width / canvas.clientWidth;
    const out = h("canvas", { width: source.width, height: source.height + 64 * ratio });
    const ink = out.getContext("2d");
    ink.fillStyle = css("--paper");
    ink.fillRect(0, 0, out.width, out.height);
    ink.scale(ratio, ratio);
    ink.fillStyle = css("--ink");
    ink.font = "600 15px system-ui, sans-serif";
    ink.fillText(`${title} (${unit})`, 12, 22);
    ink.font = "12px system-ui, sans-serif";
    let x = 12;
    lines.forEach((line) => {
      ink.fillStyle = css(variable(line.colour));
      ink.fillRect(x, 36, 14, 4);
      ink.fillStyle = css("--ink-2");
      ink.fillText(line.name, x + 20, 43);
      x += 36 + ink.measureText(line.name).width;
    });
    ink.setTransform(1, 0, 0, 1, 0, 0);
    ink.drawImage(source, 0, 56 * ratio);
    out.toBlob((blob) => save(`${clean(title)}.png`, blob), "image/png");
  }

  const repaint = () => plot?.redraw(false);
  window.addEventListener("theme", repaint);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", repaint);
  function end() {
    ended = true;
    window.removeEventListener("theme", repaint);
    dark.removeEventListener("change", repaint);
    resize.disconnect();
    plot?.destroy();
  }
  return { node, draw, end, lines };
}

export function save(name, blob) {
  const address = URL.createObjectURL(blob);
  const link = h("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
