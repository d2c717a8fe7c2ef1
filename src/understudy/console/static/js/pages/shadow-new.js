// Create a shadow test: the managed way (it starts, ends and gives back) or a shadow variant by hand.

import { h, replace } from "../dom.js";
import { instanceTypes } from "../instance-types.js";
import { changing, choice, empty, heading, labelled, refusal } from "../parts.js";
import { call, get, listAll, server } from "../server.js";
import { snippet } from "../snippets.js";

export async function page({ query, go }) {
  const [models, status] = await Promise.all([listAll("ListModels", "Models"), get("status")]);
  if (!models.length)
    return { title: "New shadow test", node: h("div", {}, heading("Create a shadow test"), empty("There is no model to test", "Make two with boto3's create_model, or look at the example:", "python examples/shadow_walk.py MODEL1.tar.gz MODEL2.tar.gz ROWS.csv")) };
  const fitting = status.endpoints.filter((one) => one.status === "InService" && one.variants.filter((variant) => !variant.shadow).length === 1);
  const names = models.map((one) => [one.ModelName, one.ModelName]);

  const way = choice([["managed", "Managed: starts, ends, gives the endpoint back"], ["manual", "By hand: a shadow variant that stays until you change it"]], query.get("way"));
  const name = h("input", { required: true, maxlength: 63, pattern: "[a-zA-Z0-9](-*[a-zA-Z0-9])*", value: query.get("name") ?? "", placeholder: "new-churn" });
  const description = h("input", { maxlength: 1024 });
  const where = choice([...fitting.map((one) => [one.name, `${one.name} (serves)`]), ["", "A new endpoint …"]], query.get("endpoint") ?? fitting[0]?.name ?? "");
  const newName = h("input", { maxlength: 63, pattern: "[a-zA-Z0-9](-*[a-zA-Z0-9])*", placeholder: "churn" });
  const productionModel = choice(names, models.at(-1).ModelName);
  const productionVariant = h("input", { value: "production", maxlength: 63 });
  const productionType = typeField("ml.m5.large");
  const productionCount = countField(1);
  const shadowModel = choice(names, query.get("model") ?? models[0].ModelName);
  const shadowVariant = h("input", { value: "shadow", maxlength: 63 });
  const shadowType = typeField("ml.m5.large");
  const shadowCount = countField(1);
  const sampling = h("input", { type: "range", min: 0, max: 100, value: 100 });
  const samplingNumber = h("input", { type: "number", min: 0, max: 100, step: 1, value: 100, "aria-label": "Traffic sampling percentage" });
  const starts = choice([["0", "Now"], ["3600", "In 1 hour"], ["21600", "In 6 hours"], ["86400", "In 1 day"]], "0");
  const lasts = h("input", { type: "number", min: 1, max: 720, step: "any", value: 7 });
  const lastsUnit = choice([["3600", "hours"], ["86400", "days"]], "86400");
  const capture = h("input", { placeholder: "s3://bucket/captured (none: shadow answers are dropped)" });

  let present; // configuration of the endpoint that is chosen
  const existing = h("p.hint");
  const newFields = h("div", {}, labelled("Name of the endpoint", newName), labelled("Production model", productionModel), labelled("Production variant", productionVariant),
    h("div.pair", {}, labelled("Instance type", productionType), labelled("Instances", productionCount)));
  const managedFields = [h("fieldset", {}, h("legend", {}, "4. When"), labelled("Starts", starts), h("div.pair", {}, labelled("Lasts", lasts, "1 hour to 30 days; then the test is complete and the endpoint as it was."), labelled("Unit", lastsUnit)))];
  const nameField = labelled("Name of the test", name);
  const form = h("form.wizard", { oninput: show, onchange: show, onsubmit: (event) => { event.preventDefault(); create(); } },
    h("fieldset", {}, h("legend", {}, "1. Which way"), labelled("Way", way), nameField, labelled("Description", description)),
    h("fieldset", {}, h("legend", {}, "2. On which endpoint"), labelled("Endpoint", where), existing, newFields),
    h("fieldset", {}, h("legend", {}, "3. The shadow"), labelled("Model under test", shadowModel), labelled("Shadow variant", shadowVariant), h("div.pair", {}, labelled("Instance type", shadowType), labelled("Instances", shadowCount)),
      labelled("Traffic sampling percentage", sampling, "How many of the requests are copied to the shadow. All callers get production's answers."), samplingNumber),
    managedFields,
    h("fieldset", {}, h("legend", {}, "5. Keep answers"), labelled("Data capture", capture, "Needed for comparing answers. The bucket must exist.")));
  const preview = snippet([]);
  const said = h("div");
  const go_ = changing("Create", create, "primary");
  const node = h("div", {}, heading("Create a shadow test", { kind: "Shadow tests" }),
    h("div.two", {}, form, h("aside.sticky", {}, preview.node, said, h("div.row", {}, h("span.grow"), h("a.button", { href: "/console/shadow-tests" }, "Cancel"), go_))));

  sampling.addEventListener("input", () => (samplingNumber.value = sampling.value));
  samplingNumber.addEventListener("input", () => (sampling.value = samplingNumber.value));

  const variant = (called, model, type, count) => ({ VariantName: called, ModelName: model, InfrastructureConfig: { InfrastructureType: "RealTimeInference", RealTimeInferenceConfig: { InstanceType: type, InstanceCount: count } } });

  /** Production as it is: of an endpoint that serves, or as the form says. */
  function production() {
    const serving = fitting.find((one) => one.name === where.value);
    const one = serving?.variants.find((each) => !each.shadow);
    return one ? { endpoint: serving.name, name: one.name, model: one.model_name, type: one.instance_type, count: one.desired_instances }
      : { endpoint: newName.value, name: productionVariant.value, model: productionModel.value, type: productionType.value, count: productionCount.valueAsNumber };
  }

  function calls() {
    const source = production();
    const percentage = samplingNumber.valueAsNumber;
    const destination = capture.value.trim();
    if (way.value === "managed") {
      const start = Math.round(server.now()) + Number(starts.value);
      const length = lasts.valueAsNumber * Number(lastsUnit.value);
      return [["sagemaker", "CreateInferenceExperiment", {
        Name: name.value,
        Type: "ShadowMode",
        Description: description.value || undefined,
        RoleArn: server.session.role_arn,
        EndpointName: source.endpoint,
        ModelVariants: [variant(source.name, source.model, source.type, source.count), variant(shadowVariant.value, shadowModel.value, shadowType.value, shadowCount.valueAsNumber)],
        ShadowModeConfig: { SourceModelVariantName: source.name, ShadowModelVariants: [{ ShadowModelVariantName: shadowVariant.value, SamplingPercentage: percentage }] },
        Schedule: { StartTime: starts.value === "0" ? undefined : start, EndTime: start + Math.round(length) },
        DataStorageConfig: destination ? { Destination: destination, ContentType: { CsvContentTypes: ["text/csv"], JsonContentTypes: ["application/json"] } } : undefined,
      }]];
    }
    const config = name.value || `${source.endpoint}-shadow`;
    const kept = where.value && present?.ProductionVariants.length === 1 ? present : undefined;
    const weighted = (called, model, type, count, weight) => ({ VariantName: called, ModelName: model, InstanceType: type, InitialInstanceCount: count, InitialVariantWeight: weight });
    return [
      ["sagemaker", "CreateEndpointConfig", {
        EndpointConfigName: config,
        ProductionVariants: kept ? kept.ProductionVariants.map((one) => ({ ...one, InitialInstanceCount: source.count, InitialVariantWeight: 1 })) : [weighted(source.name, source.model, source.type, source.count, 1)],
        ShadowProductionVariants: [weighted(shadowVariant.value, shadowModel.value, shadowType.value, shadowCount.valueAsNumber, percentage / 100)],
        DataCaptureConfig: destination ? { EnableCapture: true, InitialSamplingPercentage: 100, DestinationS3Uri: destination, CaptureOptions: [{ CaptureMode: "Input" }, { CaptureMode: "Output" }],
          CaptureContentTypeHeader: { CsvContentTypes: ["text/csv"], JsonContentTypes: ["application/json"] } } : kept?.DataCaptureConfig,
      }],
      ["sagemaker", where.value ? "UpdateEndpoint" : "CreateEndpoint", { EndpointName: source.endpoint, EndpointConfigName: config }],
    ];
  }

  /** What the endpoint has now stays in the new configuration: its container's settings, its capture. */
  async function readPresent() {
    const wanted = where.value;
    present = undefined;
    const serving = fitting.find((one) => one.name === wanted);
    if (serving) {
      const told = await call("sagemaker", "DescribeEndpointConfig", { EndpointConfigName: serving.config_name }).catch(() => undefined); // it may be deleted, and still serve
      if (where.value !== wanted) return;
      present = told;
    }
    show();
  }

  function show() {
    const managed = way.value === "managed";
    for (const one of managedFields) one.hidden = !managed;
    nameField.querySelector("label").textContent = managed ? "Name of the test" : "Name of the endpoint configuration";
    newFields.hidden = Boolean(where.value);
    const source = production();
    replace(existing, where.value ? `Production is ${source.name}: ${source.model} on ${source.count} × ${source.type}. It goes on answering.` : "The endpoint is made with the production variant; when the test ends, it stays.");
    preview.update(calls());
  }

  async function create() {
    if (!form.reportValidity()) return;
    go_.disabled = true;
    try {
      for (const one of calls()) await call(...one);
      go(way.value === "managed" ? `/console/shadow-tests/${encodeURIComponent(name.value)}` : `/console/endpoints/${encodeURIComponent(production().endpoint)}`);
    } catch (error) {
      replace(said, refusal(error));
      go_.disabled = false;
    }
  }
  where.addEventListener("change", readPresent);
  await readPresent();
  return { title: "New shadow test", node };
}

const typeField = (value) => h("input", { value, list: instanceTypes(), required: true });
const countField = (value) => h("input", { type: "number", min: 1, step: 1, value, required: true });
