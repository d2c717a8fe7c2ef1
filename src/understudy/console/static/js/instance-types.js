// Instance types to choose from while typing; any that SageMaker has may be written.

import { h } from "./dom.js";

const OFTEN = ["ml.t2.medium", "ml.m5.large", "ml.m5.xlarge", "ml.m5.2xlarge", "ml.m5.4xlarge", "ml.c5.large", "ml.c5.xlarge", "ml.c5.2xlarge", "ml.r5.large", "ml.r5.xlarge", "ml.g4dn.xlarge", "ml.g5.xlarge"];

/** The id of the list, made when first asked for. */
export function instanceTypes() {
  if (!document.getElementById("instance-types"))
    document.body.append(h("datalist", { id: "instance-types" }, OFTEN.map((one) => h("option", { value: one }))));
  return "instance-types";
}
