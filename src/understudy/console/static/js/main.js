// START HERE: the frame around every page, and which address is which page.
//
// A page is an async function (place) → {title, node, end?}.  place: {path: [...], query: URLSearchParams,
// go(address)}.  State is in the address; end() stops what the page started.

import { h, replace } from "./dom.js";
import { utc, local } from "./format.js";
import { busy, notice, refusal } from "./parts.js";
import { Refused, get, post, server } from "./server.js";

const PAGES = {
  "": () => import("./pages/overview.js"),
  endpoints: () => import("./pages/endpoint.js"),
  "shadow-tests": () => import("./pages/shadow-tests.js"),
  ab: () => import("./pages/ab.js"),
  alarms: () => import("./pages/alarms.js"),
  models: () => import("./pages/models.js"),
  captures: () => import("./pages/captures.js"),
  invoke: () => import("./pages/invoke.js"),
};
const NAVIGATION = [
  ["", "Overview"],
  ["shadow-tests", "Shadow tests"],
  ["ab", "A/B"],
  ["alarms", "Alarms"],
  ["models", "Models"],
  ["captures", "Captures"],
  ["invoke", "Invoke"],
];

const app = document.getElementById("app");
const main = h("main", { id: "main", tabindex: -1 });
const navigation = h("ul");
let end = () => {};
let onReached = () => {};
let turn = 0;

/** A part of an address as it was meant; what is no encoding means itself. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function placeOf() {
  const [name = "", ...rest] = location.pathname.replace(/^\/console\/?/, "").split("/").filter(Boolean).map(decoded);
  return { name, path: rest, query: new URLSearchParams(location.search), go };
}

/** Go to an address of the console.  replace: leave no trace in the history. */
function go(address, { instead = false } = {}) {
  history[instead ? "replaceState" : "pushState"](null, "", address);
  show();
}

/** A page's file is gone when the server was updated meanwhile: then the whole console is loaded again, once. */
async function renewed(error) {
  if (sessionStorage.getItem("renewed") === import.meta.url) throw new Refused(0, "Unreadable", `This page can't be loaded: ${error.message}`);
  await get("session"); // throws in words where the server is away
  sessionStorage.setItem("renewed", import.meta.url);
  location.reload();
  return new Promise(() => {});
}

async function show() {
  const mine = ++turn;
  const place = placeOf();
  end();
  end = () => {};
  for (const link of navigation.querySelectorAll("a")) {
    const here = link.dataset.name === place.name || (link.dataset.name === "" && place.name === "endpoints");
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const load = PAGES[place.name];
  const slow = setTimeout(() => mine === turn && replace(main, busy()), 150);
  try {
    if (!load) throw new Refused(404, "Not found", "The console has no such page.");
    const { page } = await load().catch(renewed);
    const made = await page(place);
    clearTimeout(slow);
    if (mine !== turn) return made.end?.();
    document.title = `${made.title} · Understudy`;
    replace(main, made.node);
    end = made.end ?? end;
    document.documentElement.dataset.drawn = location.pathname;
    if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
    else if (mine > 1) main.querySelector("h1")?.focus({ preventScroll: true });
  } catch (error) {
    clearTimeout(slow);
    if (mine !== turn) return;
    document.title = "Understudy";
    replace(main, refusal(error), h("p", {}, h("a", { href: "/console/" }, "Back to the overview")));
    if (!(error instanceof Refused)) throw error;
  }
}

function theme() {
  const order = ["auto", "light", "dark"];
  const words = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" };
  const now = () => localStorage.getItem("theme") ?? "auto";
  const apply = () => {
    if (now() === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = now();
    button.textContent = words[now()];
    button.setAttribute("aria-label", `Colours: ${now()}`);
    window.dispatchEvent(new Event("theme"));
  };
  const button = h("button.quiet", { type: "button", onclick: () => {
    localStorage.setItem("theme", order[(order.indexOf(now()) + 1) % order.length]);
    apply();
  } });
  apply();
  return button;
}

function frame() {
  const clock = h("time.clock");
  const tick = () => {
    const now = server.now();
    clock.textContent = local(now);
    clock.title = utc(now);
  };
  tick();
  setInterval(tick, 1000);
  replace(navigation, NAVIGATION.map(([name, text]) => h("li", {}, h("a", { href: `/console/${name}`, "data-name": name }, text))));
  const { session } = server;
  const out = h("button.quiet", { type: "button", onclick: async () => {
    end(); // what the page still asks would be refused
    await post("sign-out", {});
    location.assign("/console/");
  } }, "Sign out");
  const away = h("span.chip.busy", { role: "status", hidden: true }, "◐ Reconnecting …");
  onReached = (yes) => (away.hidden = yes);
  replace(app,
    h("header.bar", {},
      h("a.brand", { href: "/console/" }, mark(), "Understudy"),
      h("nav", { "aria-label": "Pages" }, navigation),
      h("span.grow"), away,
      session.mode === "readonly" && h("span.chip.plain", { title: "understudy serve --console readonly" }, "Read-only"),
      session.time_scale !== 1 && h("span.chip.busy", { title: "understudy serve --time-scale" }, `Clock × ${session.time_scale}`),
      clock, theme(), !session.open && out),
    main,
    h("footer", {}, `Understudy ${session.version} · ${session.region} · account ${session.account_id} · ${session.endpoint_url}`));
}

const mark = () => h("span.mark", { "aria-hidden": "true" });

/** The session is over: whatever the page does by itself ends, and signing in again leads back to it. */
function signedOut() {
  if (document.documentElement.dataset.drawn === "sign-in") return;
  turn += 1;
  end();
  end = () => {};
  document.querySelector("dialog[open]")?.close();
  signIn("Your session is over. Sign in to go on.");
}

function signIn(why) {
  const id = h("input", { name: "username", id: "key-id", autocomplete: "username", required: true, spellcheck: "false" });
  const secret = h("input", { name: "password", id: "secret", type: "password", autocomplete: "current-password", required: true });
  const said = h("div", {}, why && notice("plain", why));
  const form = h("form.card.sign-in", { onsubmit: async (event) => {
    event.preventDefault();
    try {
      server.take(await post("sign-in", { access_key_id: id.value, secret_access_key: secret.value }));
      begin();
    } catch (error) {
      replace(said, notice("bad", error.message));
      secret.focus();
    }
  } },
    h("p.brand", {}, mark(), "Understudy"), h("h1", {}, "Sign in"),
    h("div.field", {}, h("label", { for: "key-id" }, "Access key ID"), id),
    h("div.field", {}, h("label", { for: "secret" }, "Secret access key"), secret),
    said, h("button.primary", { type: "submit" }, "Sign in"),
    h("p.hint", {}, "The keys are the ones boto3 uses. On the server's machine:"),
    h("pre", { tabindex: 0 }, "understudy env"));
  document.title = "Sign in · Understudy";
  replace(app, h("main", { id: "main" }, form));
  document.documentElement.dataset.drawn = "sign-in";
  id.focus();
}

function begin() {
  frame();
  show();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='/console']");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || link.hasAttribute("download")) return;
  event.preventDefault();
  go(link.getAttribute("href"));
});
window.addEventListener("popstate", show);
window.addEventListener("signed-out", signedOut);
window.addEventListener("reached", (event) => onReached(event.detail));

PAGES[placeOf().name]?.().catch(() => {}); // runs beside the session; whoever shows it tells what is wrong
try {
  await server.open();
  if (server.session.signed_in) begin();
  else signIn();
} catch (error) {
  replace(app, h("main", { id: "main" }, refusal(error)));
}
