// Shadow tests: /shadow-tests lists them, /shadow-tests/new makes one, /shadow-tests/NAME shows one.

import { h } from "../dom.js";
import { duration, time } from "../format.js";
import { card, chip, empty, heading, progress, segmented, table, testLink } from "../parts.js";
import { every, listAll, server } from "../server.js";

const GROUPS = [
  ["all", "All", () => true],
  ["scheduled", "Scheduled", (one) => ["Creating", "Created"].includes(one.Status)],
  ["running", "Running", (one) => ["Starting", "Running", "Updating", "Stopping"].includes(one.Status)],
  ["completed", "Completed", (one) => ["Completed", "Cancelled"].includes(one.Status)],
];

export async function page(place) {
  if (place.path[0] === "new") return (await import("./shadow-new.js")).page(place);
  if (place.path[0]) return (await import("./shadow-test.js")).page(place);
  return list(place);
}

async function list({ query, go }) {
  const chosen = query.get("status") ?? "all";
  const tests = await listAll("ListInferenceExperiments", "InferenceExperiments");
  const actions = [server.readonly ? null : h("a.button.primary", { href: "/console/shadow-tests/new" }, "Create shadow test")];
  const node = h("div", {}, heading("Shadow tests", { actions }));
  if (!tests.length) {
    node.append(empty("No shadow test yet", "A shadow test sends copies of live requests to another model, whose answers nobody gets, and compares the two. Create one here, or from a shell:",
      "understudy shadow start new-churn --endpoint churn --model churn-v2 --sampling 50"));
    return { title: "Shadow tests", node };
  }
  const shown = tests.filter(GROUPS.find(([value]) => value === chosen)?.[2] ?? (() => true));
  node.append(segmented("Status", GROUPS.map(([value, text, fits]) => [value, `${text} ${tests.filter(fits).length}`]), chosen, (value) => `/console/shadow-tests?status=${value}`),
    card("Tests", shown.length ? table([{ title: "Test" }, { title: "Status" }, { title: "Progress" }, { title: "Starts" }, { title: "Ends" }],
      shown.map((one) => [[testLink(one.Name), one.Description && h("div.faint", {}, one.Description)], [chip(one.Status), one.StatusReason && h("div.faint.reason", {}, one.StatusReason)],
        timeLeft(one), time(one.Schedule?.StartTime), time(one.CompletionTime ?? one.Schedule?.EndTime)]), { caption: "Shadow tests", stack: true })
      : h("p.faint", {}, "None of this status.")));
  const shape = JSON.stringify(tests.map((one) => [one.Name, one.Status]));
  const end = every(5, async () => {
    const now = await listAll("ListInferenceExperiments", "InferenceExperiments");
    if (JSON.stringify(now.map((one) => [one.Name, one.Status])) !== shape) go(location.pathname + location.search, { instead: true });
  });
  return { title: "Shadow tests", node, end };
}

/** How far a test is, in words and as a bar. */
export function timeLeft(test) {
  const { StartTime: start, EndTime: end } = test.Schedule ?? {};
  if (start === undefined || end === undefined) return "–";
  if (["Completed", "Cancelled"].includes(test.Status)) return `ran ${duration((test.CompletionTime ?? end) - start)}`;
  const now = server.now();
  if (now < start) return h("span", {}, "starts ", time(start, { ago: true }));
  return h("div", {}, progress((now - start) / (end - start), `${test.Name} is under way`), h("span.faint", {}, `${duration(end - now)} left of ${duration(end - start)}`));
}
