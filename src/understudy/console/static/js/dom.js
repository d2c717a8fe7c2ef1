// Elements, made so that data can never become markup: text goes in as text nodes, attributes by name from
// a short list, links only to places of the console.  Nothing in the console parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: h("a.chip", {href: "/console/"}, "text", child, [more]). */
export function h(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  return fill(document.createElement(tag || "div"), classes, attributes, children);
}

/** The same for SVG. */
export function svg(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  return fill(document.createElementNS(SVG, tag), classes, attributes, children);
}

function fill(element, classes, attributes, children) {
  if (classes.length) element.classList.add(...classes);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("aria-")) { // "false" says something, absence does not
      element.setAttribute(name, String(value));
      continue;
    }
    if (value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [property, to] of Object.entries(value)) element.style.setProperty(property, to);
    else if (name === "value") element.value = value;
    else if (name === "href") element.setAttribute("href", ours(value));
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

/** Only addresses of the console itself, places on the page and what the page made. */
function ours(address) {
  if (/^(#|\/console(\/|$)|blob:)/.test(address)) return address;
  throw new Error(`not a place of the console: ${address}`);
}

export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

/** Put other children into an element. */
export function replace(element, ...children) {
  element.replaceChildren();
  return append(element, children);
}

/** Change a text only where it differs: selections and screen readers are left alone. */
export function setText(element, value) {
  const text = String(value ?? "–");
  if (element.textContent !== text) element.textContent = text;
}

let ids = 0;
export const newId = (prefix) => `${prefix}-${++ids}`;
