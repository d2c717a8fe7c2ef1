// Numbers and times as people read them.  Times are in the viewer's zone, UTC on hover.

import { h } from "./dom.js";
import { server } from "./server.js";

// By hand: making Intl's formats takes a browser longer than everything else a page runs before it asks the server.
const grouped = (value) => Number(value).toFixed(0).replace(/\B(?=(\d{3})+$)/g, ",");

export function count(value) {
  return value === null || value === undefined ? "–" : grouped(value);
}

export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 10000) return grouped(value);
  if (size < 0.001) return value.toExponential(1);
  return String(Number(value.toPrecision(digits)));
}

/** Microseconds, in the unit that reads best. */
export function latency(us) {
  if (us === null || us === undefined) return "–";
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${number(us / 1000)} ms`;
  return `${number(us / 1e6)} s`;
}

export function percent(share, digits = 1) {
  if (share === null || share === undefined || Number.isNaN(share)) return "–";
  const value = share * 100;
  return `${value !== 0 && value < 0.1 ? value.toPrecision(1) : Number(value.toFixed(digits))} %`;
}

export function bytes(size) {
  for (const [unit, factor] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]])
    if (size >= factor) return `${number(size / factor)} ${unit}`;
  return `${size} B`;
}

/** Seconds as "3 d 4 h", its two largest parts. */
export function duration(seconds) {
  if (seconds < 0) return "0 s";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  const parts = [];
  let rest = Math.round(seconds);
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    if (rest >= length && parts.length < 2) {
      parts.push(`${Math.floor(rest / length)} ${unit}`);
      rest %= length;
    } else if (parts.length) break;
  }
  return parts.join(" ");
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const two = (number) => String(number).padStart(2, "0");

// All but utc in the viewer's zone.
export const utc = (at_s) => new Date(at_s * 1000).toISOString().replace("T", " ").replace(/\.\d+Z/, " UTC");
export const minute = (at_s) => { const at = new Date(at_s * 1000); return `${two(at.getHours())}:${two(at.getMinutes())}`; };
export const clock = (at_s) => `${minute(at_s)}:${two(new Date(at_s * 1000).getSeconds())}`;
export const day = (at_s) => { const at = new Date(at_s * 1000); return `${at.getDate()} ${MONTHS[at.getMonth()]}`; };
export const local = (at_s) => `${day(at_s)} ${new Date(at_s * 1000).getFullYear()}, ${clock(at_s)}`;

/** A point in time: the viewer's zone, UTC on hover. */
export function time(at_s, { ago = false, short = false } = {}) {
  if (at_s === null || at_s === undefined) return h("span", {}, "–");
  const away = server.now() - at_s;
  const text = ago
    ? away >= 0 ? `${duration(away)} ago` : `in ${duration(-away)}`
    : short && Math.abs(away) < 43200 ? clock(at_s) : local(at_s);
  return h("time", { datetime: new Date(at_s * 1000).toISOString(), title: `${local(at_s)} here · ${utc(at_s)}` }, text);
}
