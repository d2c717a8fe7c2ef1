// What an endpoint's workers print, live.

import { h, replace, setText } from "./dom.js";
import { time, utc } from "./format.js";
import { call, every, server } from "./server.js";
import { snippet } from "./snippets.js";

const KEPT = 500;

export function logTail(endpoint, query) {
  const group = `/aws/sagemaker/Endpoints/${endpoint}`;
  const lines = h("div.log", { tabindex: 0, role: "log", "aria-label": "Worker logs", "aria-live": "off" });
  const state = h("span.faint", {}, "");
  const filter = h("input", { type: "search", placeholder: "Filter, e.g. ERROR", "aria-label": "Filter lines", value: query.get("log") ?? "", onchange: () => restart() });
  const seen = new Set();
  let from = null;
  let following = true;
  let turn = 0; // of the filter: what an earlier one still reads is not shown
  const pause = h("button.quiet", { type: "button", onclick: () => {
    following = !following;
    pause.textContent = following ? "Pause" : "Follow";
    if (following) read();
  } }, "Pause");

  function restart() {
    const now = new URLSearchParams(location.search);
    if (filter.value) now.set("log", filter.value);
    else now.delete("log");
    history.replaceState(null, "", `${location.pathname}?${now}`);
    turn += 1;
    replace(lines);
    seen.clear();
    from = null;
    read();
  }

  async function read() {
    if (!following) return;
    const mine = turn;
    // The first look goes back an hour, then from the newest line on.
    const start = from ?? Math.floor((server.now() - 3600 * Math.max(1, server.session.time_scale)) * 1000);
    try {
      const groups = await call("logs", "DescribeLogGroups", { logGroupNamePrefix: group });
      if (!groups.logGroups.some((one) => one.logGroupName === group)) return setText(state, "Nothing printed yet.");
      let token;
      do {
        const told = await call("logs", "FilterLogEvents", { logGroupName: group, startTime: start, filterPattern: filter.value ? `"${filter.value.replaceAll('"', "")}"` : undefined, nextToken: token });
        if (mine !== turn) return;
        const fresh = told.events.filter((one) => !seen.has(one.eventId));
        // Asked once per answer: each of these measures lays out the whole page.
        const low = fresh.length && lines.scrollTop + lines.clientHeight > lines.scrollHeight - 40;
        for (const one of fresh) {
          seen.add(one.eventId);
          from = Math.max(from ?? 0, one.timestamp);
          lines.append(h("p", {}, h("span.stamp", { title: utc(one.timestamp / 1000) }, time(one.timestamp / 1000, { short: true })), h("span.stream", {}, one.logStreamName.split("/")[0]), h("span", {}, one.message)));
        }
        if (low) lines.scrollTop = lines.scrollHeight;
        token = told.nextToken;
      } while (token && lines.childElementCount < 5 * KEPT);
      while (lines.childElementCount > KEPT) lines.firstChild.remove();
      setText(state, lines.childElementCount ? "" : "Nothing printed in the last hour.");
    } catch (error) {
      setText(state, error.message);
    }
  }
  read();
  const end = every(2, read);
  const shown = snippet([["logs", "FilterLogEvents", { logGroupName: group }]]);
  const node = h("section.card", { "aria-labelledby": "logs-title" }, h("div.row", {}, h("h2", { id: "logs-title" }, "Logs"), h("span.grow"), filter, pause), state, lines,
    h("details", {}, h("summary", {}, "The same from a shell or a program"), h("pre", { tabindex: 0 }, `understudy logs ${endpoint} -f`), shown.node));
  return { node, end };
}
