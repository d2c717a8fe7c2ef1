// The server: its session, its API, its live values.

export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const API = "/console/api/";

export const server = {
  session: { signed_in: false },
  readAt: 0,

  get readonly() {
    return this.session.mode === "readonly";
  },

  /** The server's clock, Unix seconds: faster than ours under --time-scale. */
  now() {
    return this.session.now_s + ((performance.now() - this.readAt) / 1000) * this.session.time_scale;
  },

  take(session, readAt = performance.now()) {
    this.session = session;
    this.readAt = readAt;
  },

  /** Take the session that the page brought along; a link from elsewhere came without the cookie, then ask. */
  async open() {
    this.take(JSON.parse(document.getElementById("session").textContent), performance.getEntriesByType("navigation")[0].responseStart);
    if (!this.session.signed_in) this.take(await get("session"));
  },
};

let answers = true;

/** Tell the frame when the server answers no more, or again. */
function reached(yes) {
  if (yes === answers) return;
  answers = yes;
  window.dispatchEvent(new CustomEvent("reached", { detail: yes }));
}

/** A refusal of what a page asks by itself is no failure of the page: the server may be starting again. */
export function later(error) {
  if (!(error instanceof Refused)) reportError(error);
}

async function answer(response) {
  let told;
  try {
    told = await response.json();
  } catch {
    throw new Refused(response.status, "Unreadable", `The server answered ${response.status} without JSON.`);
  }
  if (!response.ok) {
    if (response.status === 401) window.dispatchEvent(new Event("signed-out"));
    throw new Refused(response.status, told.code ?? "Error", told.message ?? told.Message ?? `HTTP ${response.status}`);
  }
  return told;
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(API + path, { credentials: "same-origin", ...options });
  } catch {
    reached(false);
    throw new Refused(0, "Unreachable", "The server can't be reached. Is understudy serve running?");
  }
  reached(response.status !== 503);
  return answer(response);
}

/** Read something the console has of its own. */
export function get(path, query = {}, signal) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const text = new URLSearchParams(given).toString();
  return ask(text ? `${path}?${text}` : path, { signal });
}

export function post(path, body) {
  return ask(path, {
    method: "POST",
    headers: { "content-type": "application/json", "x-understudy-csrf": server.session.csrf ?? "" },
    body: JSON.stringify(body),
  });
}

/** Carry out one of Understudy's own calls (docs/rest.md): own("GET", "endpoints/churn/rollout"). */
export function own(method, path, body) {
  if (method === "GET") return get(`own/${path}`);
  return ask(`own/${path}`, {
    method,
    headers: { "content-type": "application/json", "x-understudy-csrf": server.session.csrf ?? "" },
    body: JSON.stringify(body ?? {}),
  });
}

/**
 * Carry out an operation of the API: the same one, with the same checks, as boto3's.  Service "understudy" is one
 * of Understudy's own calls: call("understudy", "POST endpoints/churn/rollback", {reason}).
 */
export function call(service, operation, parameters = {}) {
  if (service !== "understudy") return post(`call/${service}/${operation}`, parameters);
  const [method, path] = operation.split(" ");
  return own(method, path, parameters);
}

/**
 * Carry out several own calls that read, 20 at most: what each told, or its Refused.  A refusal is an answer
 * here ("nothing to judge yet"), no failure of the page.
 */
export async function answersOf(paths) {
  if (!paths.length) return [];
  const { answers } = await get("answers", { paths: paths.join("\n") });
  return answers.map(({ status, told }) => (status < 400 ? told : new Refused(status, told.__type ?? "Error", told.message ?? "")));
}

/** The same for one: throws its Refused. */
export async function answerOf(path) {
  const [told] = await answersOf([path]);
  if (told instanceof Refused) throw told;
  return told;
}

/** Path of one of an endpoint's own calls. */
export const ownPath = (endpoint, rest) => `endpoints/${encodeURIComponent(endpoint)}/${rest}`;

/** Read all pages of a List operation. */
export async function listAll(operation, member, parameters = {}, most = 1000) {
  const found = [];
  let token;
  do {
    const page = await call("sagemaker", operation, { ...parameters, MaxResults: 100, NextToken: token });
    found.push(...page[member]);
    token = page.NextToken;
  } while (token && found.length < most);
  return found;
}

/**
 * Watch live values; returns a function that ends it.  Pauses while nobody looks.  onPicture gets all endpoints and
 * those that `changed`: after a whole picture the server tells only these.
 */
export function watch(endpoint, onPicture, onState = () => {}) {
  const known = new Map();
  let source;
  let again;
  const start = () => {
    if (source) return;
    source = new EventSource(API + "live" + (endpoint ? `?endpoint=${encodeURIComponent(endpoint)}` : ""));
    source.onmessage = (event) => {
      onState("live");
      const told = JSON.parse(event.data);
      if (told.whole) known.clear();
      for (const name of told.gone) known.delete(name);
      for (const one of told.endpoints) known.set(one.name, one);
      reached(true);
      Promise.resolve(onPicture({ ...told, endpoints: [...known.values()], changed: told.endpoints })).catch(later);
    };
    source.onerror = () => {
      onState("waiting");
      reached(false);
      if (source?.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      // It was refused: the session is over, or the server is not quite up yet.
      end();
      again = setTimeout(() => get("session").then((told) => (told.signed_in ? look() : window.dispatchEvent(new Event("signed-out"))), (error) => { later(error); look(); }), 2000);
    };
  };
  const end = () => {
    clearTimeout(again);
    source?.close();
    source = undefined;
  };
  const look = () => (document.hidden ? end() : start());
  document.addEventListener("visibilitychange", look);
  look();
  return () => {
    document.removeEventListener("visibilitychange", look);
    end();
  };
}

/** Call a function now and again while the page is looked at; returns a function that ends it. */
export function every(seconds, work) {
  let timer;
  let ended = false;
  const turn = async () => {
    try {
      if (!document.hidden) await work();
    } catch (error) {
      later(error);
    }
    if (!ended) timer = setTimeout(turn, seconds * 1000);
  };
  timer = setTimeout(turn, seconds * 1000);
  return () => {
    ended = true;
    clearTimeout(timer);
  };
}
