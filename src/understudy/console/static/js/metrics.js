// Which metrics a variant has, and the charts that show several variants over each other.

import { count, latency, number } from "./format.js";

const INSTANCES = "/aws/sagemaker/Endpoints";
const percentText = (value) => (value === null || value === undefined ? "–" : `${number(value)} %`);
const rateText = (value) => (value === null || value === undefined ? "–" : number(value));

/** kind → {title, unit, format, metric, stats: [[stat, dashed, suffix]], namespace, zero, per} */
export const KINDS = {
  requests: { title: "Requests per second", unit: "1/s", format: rateText, metric: "Invocations", stats: [["Sum"]], zero: true, per: true },
  invocations: { title: "Invocations", unit: "count per period", format: count, metric: "Invocations", stats: [["Sum"]], zero: true },
  latency: { title: "ModelLatency", unit: "p50 and p99", format: latency, metric: "ModelLatency", stats: [["p99", false, " p99"], ["p50", true, " p50"]] },
  p90: { title: "ModelLatency p90", unit: "p90", format: latency, metric: "ModelLatency", stats: [["p90"]] },
  overhead: { title: "OverheadLatency", unit: "p50 and p99", format: latency, metric: "OverheadLatency", stats: [["p99", false, " p99"], ["p50", true, " p50"]] },
  errors4: { title: "4XX errors", unit: "count per period", format: count, metric: "Invocation4XXErrors", stats: [["Sum"]], zero: true },
  errors5: { title: "5XX errors", unit: "count per period", format: count, metric: "Invocation5XXErrors", stats: [["Sum"]], zero: true },
  cpu: { title: "CPUUtilization", unit: "percent of a vCPU", format: percentText, metric: "CPUUtilization", stats: [["Average"]], namespace: INSTANCES },
  memory: { title: "MemoryUtilization", unit: "percent", format: percentText, metric: "MemoryUtilization", stats: [["Average"]], namespace: INSTANCES },
  disk: { title: "DiskUtilization", unit: "percent", format: percentText, metric: "DiskUtilization", stats: [["Average"]], namespace: INSTANCES },
};

/** variants: [{name, colour}] → charts for a board. */
export function chartsOf(kinds, variants) {
  return kinds.map((kind) => {
    const { title, unit, format, metric, stats, namespace, zero, per } = KINDS[kind];
    const lines = variants.flatMap((one) => stats.map(([stat, dash, suffix = ""]) => ({
      name: `${one.name}${suffix}`, colour: one.colour, dash, variant: one.name, metric, stat, namespace, zero, per, gauge: namespace === INSTANCES,
    })));
    return { title, unit, format, lines };
  });
}
