// Elements, figures and times. Text comes into the page through `textContent` only.

const SVG = "http://www.w3.org/2000/svg";

/** An element: attributes by name, `on` for listeners, `text` for its text; children are nodes, texts or nothing. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "on") for (const [event, act] of Object.entries(value)) node.addEventListener(event, act);
    else if (name === "style") for (const [key, figure] of Object.entries(value)) node.style.setProperty(key, figure);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  add(node, children);
  return node;
}

export function add(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false && child !== "") node.append(child);
  }
  return node;
}

export function put(node, ...children) {
  node.replaceChildren();
  return add(node, children);
}

export const whole = (number) => Math.round(number).toLocaleString("en-US");
export const plural = (number, word, more = `${word}s`) => `${whole(number)} ${number === 1 ? word : more}`;

export function short(number) {
  if (number >= 1e9) return `${(number / 1e9).toFixed(1)} G`;
  if (number >= 1e6) return `${(number / 1e6).toFixed(1)} M`;
  if (number >= 1e4) return `${(number / 1e3).toFixed(0)} k`;
  return whole(number);
}

export function money(amount, currency) {
  const digits = amount >= 100 || amount === 0 ? 2 : Math.min(6, Math.max(2, 2 - Math.floor(Math.log10(Math.abs(amount)))));
  return `${amount.toFixed(digits)}${currency ? ` ${currency}` : ""}`;
}

export function seconds(value) {
  if (value < 0.0995) return `${Math.round(value * 1000)} ms`;
  if (value < 99.5) return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} s`;
  if (value < 5970) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  if (value < 172800) return `${Math.floor(value / 3600)} h ${Math.round((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86400)} d ${Math.round((value % 86400) / 3600)} h`;
}

const two = (number) => String(number).padStart(2, "0");

/** The viewer's own time. */
export function clock(unix, withDay = true) {
  const at = new Date(unix * 1000);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return withDay ? `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}` : time;
}

/** A member of an object that has names of strangers: none of those that every object has. */
export const own = (object, name) => (Object.hasOwn(object, name) ? object[name] : undefined);

/** A table; numbers, and texts in an array, are figures. */
export function plainTable(kind, heads, rows) {
  const cell = (value) => (typeof value === "string" ? el("td", { text: value }) : el("td", { class: "figure", text: value.length ? value[0] : whole(value) }));
  return el("table", { class: `plain-table ${kind}` }, el("thead", {}, el("tr", {}, heads.map((text) => el("th", { scope: "col", text })))), el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell)))));
}

export function shown(value) {
  if (value === null || value === undefined) return "none";
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** What is worth reading of a model's name on a narrow column: without the owner. */
export const modelName = (name) => shown(name).split("/").at(-1);

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { class: "offscreen", value: text });
    (document.querySelector("dialog[open]") || document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
