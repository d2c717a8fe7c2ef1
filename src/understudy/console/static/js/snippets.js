// The same call for boto3 and for the AWS CLI, from (service, operation, parameters).

import { h, newId } from "./dom.js";

/** botocore's xform_name: "DescribeEndpointConfig" → "describe_endpoint_config". */
export function snake(name) {
  return name
    .replace(/([a-z0-9])([A-Z][A-Z]+)$/, "$1_$2")
    .replace(/(.)([A-Z][a-z]+)/g, "$1_$2")
    .replace(/([a-z0-9])([A-Z])/g, "$1_$2")
    .toLowerCase();
}

const TIMES = new Set(["StartTime", "EndTime", "StartDate", "EndDate"]);
const iso = (at_s) => new Date(at_s * 1000).toISOString();

function quoted(text) {
  let out = '"';
  for (const letter of text) {
    const code = letter.codePointAt(0);
    if (letter === '"' || letter === "\\") out += `\\${letter}`;
    else if (letter === "\n") out += "\\n";
    else if (code < 32 || (code >= 127 && code < 160) || code === 0x2028 || code === 0x2029)
      out += `\\u${code.toString(16).padStart(4, "0")}`;
    else out += letter;
  }
  return `${out}"`;
}

function python(value, indent, name) {
  if (TIMES.has(name) && typeof value === "number") return `datetime.fromisoformat(${quoted(iso(value).replace("Z", "+00:00"))})`;
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (typeof value === "number") return Number.isNaN(value) ? "..." : String(value);
  if (typeof value === "string") return quoted(value);
  const inner = `${indent}    `;
  const items = Array.isArray(value)
    ? value.map((item) => python(item, inner))
    : Object.entries(value).filter(([, item]) => item !== undefined).map(([key, item]) => `${quoted(key)}: ${python(item, inner, key)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const flat = `${open}${items.join(", ")}${close}`;
  if (flat.length + indent.length <= 72 && !flat.includes("\n")) return flat;
  return `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${indent}${close}`;
}

const SIGNED = `from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.httpsession import URLLib3Session

def send(method, path, body):
    session = boto3.Session()
    root = session.client("sagemaker").meta.endpoint_url
    request = AWSRequest(method, f"{root}/understudy/v1/{path}", data=json.dumps(body))
    SigV4Auth(session.get_credentials(), "sagemaker", session.region_name).add_auth(request)
    answer = URLLib3Session().send(request.prepare())
    assert answer.status_code < 400, answer.text
    return json.loads(answer.text)
`;

/** Python that does it; Understudy's own calls are signed by botocore. */
export function boto3(calls) {
  const owns = calls.filter(([service]) => service === "understudy");
  if (owns.length) {
    const sent = owns.map(([, operation, parameters]) => {
      const [method, path] = operation.split(" ");
      return `send(${quoted(method)}, ${quoted(path)}, ${python(parameters, "")})`;
    });
    return ["import json", "import boto3", SIGNED, ...sent].join("\n");
  }
  const services = [...new Set(calls.map(([service]) => service))];
  const variable = (service) => ({ sagemaker: "sm", cloudwatch: "cw", "sagemaker-runtime": "runtime" })[service] ?? service;
  const lines = calls.map(([service, operation, parameters]) => {
    const given = Object.entries(parameters).filter(([, value]) => value !== undefined);
    const body = given.map(([name, value]) => `    ${name}=${python(value, "    ", name)},\n`).join("");
    return `${variable(service)}.${snake(operation)}(${body ? `\n${body}` : ""})`;
  });
  const timed = lines.some((line) => line.includes("datetime."));
  const head = [...(timed ? ["from datetime import datetime"] : []), "import boto3"];
  return [...head, "", ...services.map((one) => `${variable(one)} = boto3.client(${quoted(one)})`), ...lines].join("\n");
}

const shell = (text) => (/^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

function plain(value, name) {
  if (TIMES.has(name) && typeof value === "number") return iso(value);
  if (Array.isArray(value)) return value.map((item) => plain(item));
  if (value !== null && typeof value === "object")
    return Object.fromEntries(Object.entries(value).filter(([, one]) => one !== undefined).map(([key, item]) => [key, plain(item, key)]));
  return value;
}

/** A shell command for one of Understudy's own calls. */
function ownCommand(operation, parameters) {
  const [method, path] = operation.split(" ");
  const [, encoded, what] = path.split("/");
  const endpoint = shell(decodeURIComponent(encoded ?? ""));
  if (what === "rollback") return `understudy rollout rollback ${endpoint}${parameters.reason ? ` \\\n    --reason ${shell(parameters.reason)}` : ""}`;
  const policy = (value) => `<(printf %s ${shell(JSON.stringify(value))})`;
  if (what === "policy" && method === "PUT") return `understudy verdict policy ${endpoint} ${policy(parameters)}`;
  const body = ` \\\n    --header 'content-type: application/json' --data ${shell(JSON.stringify(parameters))}`;
  return `curl --fail-with-body --request ${method} "$AWS_ENDPOINT_URL/understudy/v1/"${shell(path)} \\\n    --aws-sigv4 "aws:amz:$AWS_DEFAULT_REGION:sagemaker" --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY"${method === "DELETE" ? "" : body}`;
}

/** A shell command that does it. */
export function cli(calls) {
  return calls
    .map(([service, operation, parameters]) => {
      if (service === "understudy") return ownCommand(operation, parameters);
      const dashed = (name) => snake(name).replaceAll("_", "-");
      const options = Object.entries(parameters)
        .filter(([, value]) => value !== undefined)
        .map(([name, value]) => {
          if (value === true) return `--${dashed(name)}`;
          if (value === false) return `--no-${dashed(name)}`;
          const given = plain(value, name);
          const text = typeof given === "object" ? JSON.stringify(given) : String(given);
          return `--${dashed(name)}${typeof given === "string" && text.startsWith("-") ? "=" : " "}${shell(text)}`; // "-x" alone would be an option
        });
      if (operation === "InvokeEndpoint") {
        // The CLI reads the body from a file and writes the answer to one.
        const given = options.filter((one) => !one.startsWith("--body "));
        return `printf %s ${shell(parameters.Body)} | ${[`aws ${service} ${dashed(operation)}`, ...given, "--body fileb:///dev/stdin /dev/stdout"].join(" \\\n    ")}`;
      }
      return [`aws ${service} ${dashed(operation)}`, ...options].join(" \\\n    ");
    })
    .join("\n");
}

export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Press Ctrl-C";
    const range = document.createRange();
    range.selectNodeContents(button.closest(".snippet").querySelector("pre:not([hidden])"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

/**
 * Show calls as boto3 and CLI.  Returns {node, update(calls)}.
 * calls: [[service, operation, parameters], ...]
 */
export function snippet(calls, { title = "The same from a program" } = {}) {
  const texts = { boto3: h("pre", { tabindex: 0 }), cli: h("pre", { tabindex: 0, hidden: true }) };
  let chosen = "boto3";
  const id = newId("snippet");
  const tabs = ["boto3", "cli"].map((kind) =>
    h("button.tab", { type: "button", "aria-pressed": kind === chosen, onclick: () => choose(kind) }, kind === "cli" ? (calls.some(([service]) => service === "understudy") ? "Shell" : "AWS CLI") : "boto3"),
  );
  const button = h("button.quiet", { type: "button", onclick: () => copy(texts[chosen].textContent, button) }, "Copy");
  function choose(kind) {
    chosen = kind;
    ["boto3", "cli"].forEach((one, at) => {
      texts[one].hidden = one !== kind;
      tabs[at].setAttribute("aria-pressed", one === kind);
    });
  }
  function update(now) {
    texts.boto3.textContent = boto3(now);
    texts.cli.textContent = cli(now);
  }
  update(calls);
  const node = h("section.snippet", { "aria-labelledby": id },
    h("div.row", {}, h("h3", { id }, title), h("span.grow"), h("div.tabs", {}, tabs), button), texts.boto3, texts.cli);
  return { node, update };
}
