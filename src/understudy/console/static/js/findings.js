// What the guardrail linter says of an alarm: how likely it rolls a good model back, what it misses, what to do.

import { h } from "./dom.js";
import { number, percent } from "./format.js";
import { snippet } from "./snippets.js";

const SIGNS = { error: ["bad", "▲"], warning: ["busy", "◆"], info: ["plain", "○"] };

/** One alarm of a report of /guardrails. */
export function findings(report) {
  const facts = [];
  if (report.false_alarm_probability !== null) facts.push(`rolls an unchanged model back in ${percent(report.false_alarm_probability, 2)} of deployments`);
  if (report.smallest_regression !== null)
    facts.push(`catches ${report.regression_unit === "rate" ? `an error rate of ${percent(report.smallest_regression, 2)}` : `latency times ${number(report.smallest_regression)}`} in nine of ten`);
  return h("div.findings", {}, facts.length > 0 && h("p.faint", {}, `It ${facts.join(", and ")}.`),
    report.findings.map((one) => {
      const [kind, sign] = SIGNS[one.severity] ?? SIGNS.info;
      return h("article.finding", { "aria-label": one.code },
        h("p", {}, h(`span.chip.${kind}`, {}, h("span", { "aria-hidden": "true" }, sign), ` ${one.severity}`), " ", h("strong", {}, one.what), " ", h("code.faint", {}, one.code)),
        h("p", {}, one.why), h("p", {}, h("strong", {}, "Do: "), one.suggestion),
        one.call && h("details", {}, h("summary", {}, "A better alarm"), snippet([["cloudwatch", "PutMetricAlarm", one.call]]).node));
    }),
    !report.findings.length && h("p.chip.good", {}, "● nothing to say against it"));
}
