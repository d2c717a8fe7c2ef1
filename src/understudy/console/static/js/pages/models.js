// Models and configurations: which endpoint runs which artifact, digest and image.

import { append, h, replace } from "../dom.js";
import { bytes, time } from "../format.js";
import { card, changing, chip, confirmCalls, empty, endpointLink, heading, table } from "../parts.js";
import { call, get } from "../server.js";
import { snippet } from "../snippets.js";

export async function page({ path, query, go }) {
  if (path[0] === "config") return config(path[1], go);
  const told = await get("lineage");
  const node = h("div", {}, heading("Models"));
  if (!told.models.length && !told.deleted.length) {
    node.append(empty("No model yet", "Pack a model as model.tar.gz, put it into a bucket and create it:",
      'aws s3 cp model.tar.gz s3://models/churn/model.tar.gz\naws sagemaker create-model --model-name churn --execution-role-arn arn:aws:iam::123456789012:role/any \\\n    --primary-container Image=sklearn,ModelDataUrl=s3://models/churn/model.tar.gz'));
    return { title: "Models", node };
  }
  const find = h("input", { type: "search", "aria-label": "Find models", placeholder: "Find by name, image, artifact or digest", value: query.get("find") ?? "", oninput: draw });
  const list = h("div");
  function draw() {
    const wanted = find.value.toLowerCase();
    const now = new URLSearchParams(location.search);
    if (wanted) now.set("find", find.value);
    else now.delete("find");
    history.replaceState(null, "", `${location.pathname}${now.size ? `?${now}` : ""}`);
    const shown = told.models.filter((one) => JSON.stringify([one.name, one.containers]).toLowerCase().includes(wanted));
    replace(list, shown.length ? shown.map(model) : h("p.faint", {}, "No model fits."));
  }
  function model(one) {
    return h("article.card.model", { "aria-label": one.name }, h("div.row", {}, h("h2", {}, one.name), one.running.length ? chip("InService") : h("span.chip.plain", {}, "serves nowhere"), h("span.grow"), h("span.faint", {}, "made ", time(one.created_at_s)),
      changing("Delete", () => confirmCalls(`Delete model ${one.name}?`, "Endpoints that serve it go on: they keep a copy.", [["sagemaker", "DeleteModel", { ModelName: one.name }]], "Delete model", () => go(location.pathname + location.search, { instead: true })), "quiet")),
      h("div.lineage", {},
        h("div", {}, h("h3", {}, "Artifact"), one.containers.map((each) => h("div", {}, h("code", {}, each.artifact ?? "none"), each.missing ? h("p.bad-text", {}, "The object is gone.") : each.etag && h("p.faint", {}, `ETag ${each.etag} · ${bytes(each.size_bytes)} · `, time(each.modified_at_s))))),
        h("div", {}, h("h3", {}, "Image"), one.containers.map((each) => h("div", {}, h("code", {}, each.image)))),
        h("div", {}, h("h3", {}, "Configurations"), one.configs.length ? one.configs.map((each) => h("div", {}, h("a", { href: `/console/models/config/${encodeURIComponent(each)}` }, each))) : h("span.faint", {}, "none")),
        h("div", {}, h("h3", {}, "Endpoints"), one.running.length ? one.running.map(serving) : h("span.faint", {}, "none"))));
  }
  const serving = (each) => h("div", {}, endpointLink(each.endpoint), ` / ${each.variant}`, each.shadow && " (shadow)", each.images.map((image) => h("p.faint", {}, image.resolved)),
    (each.loaded ?? []).map((one) => h("p.faint", {}, one.version && h("strong", {}, `${one.name} ${one.version} `), one.digest && h("code", { title: `SHA-256 ${one.digest}` }, `sha256:${one.digest.slice(0, 12)}…`))));
  draw();
  append(node, [h("div.row", {}, find), list,
    told.deleted.length ? card("Deleted models that still serve", table([{ title: "Model" }, { title: "Where" }], told.deleted.map((one) => [one.name, one.running.map(serving)]))) : null,
    card("Endpoint configurations", told.configs.length ? table([{ title: "Configuration" }, { title: "Variants" }, { title: "Serves" }, { title: "Made" }],
      told.configs.map((one) => [h("a", { href: `/console/models/config/${encodeURIComponent(one.name)}` }, one.name), one.variants.map((each) => h("div", {}, `${each.name}: ${each.model}`, each.shadow && " (shadow)")), one.serves.map((each) => h("div", {}, endpointLink(each))), time(one.created_at_s)]), { caption: "Endpoint configurations", stack: true }) : h("p.faint", {}, "None yet."))]);
  return { title: "Models", node };
}

async function config(name, go) {
  const told = await call("sagemaker", "DescribeEndpointConfig", { EndpointConfigName: name });
  const remove = [["sagemaker", "DeleteEndpointConfig", { EndpointConfigName: name }]];
  const node = h("div", {}, heading(name, { kind: "Endpoint configuration", actions: [changing("Delete", () => confirmCalls(`Delete ${name}?`, "Endpoints that serve with it go on.", remove, "Delete configuration", () => go("/console/models")), "danger")] }),
    card("Configuration", h("pre", { tabindex: 0 }, JSON.stringify(told, null, 2))), snippet([["sagemaker", "DescribeEndpointConfig", { EndpointConfigName: name }]]).node);
  return { title: name, node };
}
