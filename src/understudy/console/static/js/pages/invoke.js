// The invoke box: try an endpoint with one request.

import { h, replace } from "../dom.js";
import { count } from "../format.js";
import { card, changing, choice, empty, heading, labelled, refusal } from "../parts.js";
import { get, post } from "../server.js";
import { snippet } from "../snippets.js";

const HEADERS = ["x-amzn-invoked-production-variant", "content-type", "x-amzn-sagemaker-custom-attributes", "x-amzn-errortype", "x-amzn-requestid"];

export async function page({ query }) {
  const status = await get("status");
  if (!status.endpoints.length) return { title: "Invoke", node: h("div", {}, heading("Invoke"), empty("No endpoint yet", "This starts one with two real models:", "understudy demo --keep")) };
  const endpoint = choice(status.endpoints.map((one) => [one.name, one.name]), query.get("endpoint") ?? status.endpoints[0].name);
  const variant = h("select");
  const fillVariants = () => replace(variant, h("option", { value: "" }, "By weight"), (status.endpoints.find((one) => one.name === endpoint.value)?.variants ?? []).filter((one) => !one.shadow).map((one) => h("option", { value: one.name }, one.name)));
  fillVariants();
  variant.value = query.get("variant") ?? "";
  const type = h("input", { value: query.get("type") ?? "text/csv", list: "content-types" });
  const accept = h("input", { placeholder: "any" });
  const inference = h("input", { placeholder: "none", maxlength: 64 });
  const attributes = h("input", { placeholder: "none" });
  const body = h("textarea", { rows: 8, spellcheck: "false", required: true, placeholder: "One row of CSV, or JSON" });
  const answer = h("div", { "aria-live": "polite" });
  const preview = snippet([]);
  const given = () => ({ endpoint: endpoint.value, target_variant: variant.value, content_type: type.value, accept: accept.value, inference_id: inference.value, custom_attributes: attributes.value, body: body.value });
  const show = () => {
    const now = given();
    preview.update([["sagemaker-runtime", "InvokeEndpoint", { EndpointName: now.endpoint, ContentType: now.content_type || undefined, Accept: now.accept || undefined, TargetVariant: now.target_variant || undefined,
      InferenceId: now.inference_id || undefined, CustomAttributes: now.custom_attributes || undefined, Body: now.body }]]);
    history.replaceState(null, "", `/console/invoke?${new URLSearchParams({ endpoint: now.endpoint, ...(now.target_variant && { variant: now.target_variant }), type: now.content_type })}`);
  };
  const send = changing("Send", async () => {
    send.disabled = true;
    try {
      const told = await post("invoke", given());
      const headers = Object.fromEntries(Object.entries(told.headers).map(([name, value]) => [name.toLowerCase(), value]));
      replace(answer, card(`${told.status} from ${headers["x-amzn-invoked-production-variant"] ?? "the router"} in ${told.took_ms} ms`,
        h("dl.facts", {}, HEADERS.filter((one) => headers[one]).map((one) => [h("dt", {}, one), h("dd", {}, headers[one])])), h("pre", { tabindex: 0, id: "answer" }, told.text), h("p.faint", {}, `${count(told.bytes)} bytes`)));
    } catch (error) {
      replace(answer, refusal(error));
    }
    send.disabled = false;
  }, "primary");
  const form = h("form", { oninput: show, onchange: show, onsubmit: (event) => event.preventDefault() },
    h("div.pair", {}, labelled("Endpoint", endpoint), labelled("Target variant", variant)),
    h("div.pair", {}, labelled("Content type", type), labelled("Accept", accept)),
    h("div.pair", {}, labelled("Inference ID", inference), labelled("Custom attributes", attributes)),
    h("datalist", { id: "content-types" }, ["text/csv", "application/json", "application/jsonlines", "text/libsvm"].map((one) => h("option", { value: one }))),
    labelled("Body", body, "Ctrl-Enter sends."), h("div.row", {}, h("span.grow"), send));
  body.addEventListener("keydown", (event) => (event.ctrlKey || event.metaKey) && event.key === "Enter" && send.click());
  endpoint.addEventListener("change", fillVariants);
  show();
  return { title: "Invoke", node: h("div", {}, heading("Invoke"), h("div.two", {}, h("div", {}, card("Request", form), answer), h("aside.sticky", {}, preview.node))) };
}
