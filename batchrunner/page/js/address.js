// What is shown, as the part of the address behind `#`: a link leads to the same view, filter, order and item.

const LISTS = /^(state|model|flag|checks|mark|slower|longer|x\..*)$/;

export function parse(hash) {
  const [view, query] = hash.replace(/^#/, "").split("?");
  const found = { view: view || "results", q: "", sort: "index", filters: {}, roles: {}, tabs: {}, item: null, rest: {} };
  for (const [name, value] of new URLSearchParams(query ?? "")) {
    if (name === "q") found.q = value;
    else if (name === "sort") found.sort = value;
    else if (name === "item") found.item = Number(value);
    else if (name.startsWith("role.")) found.roles[name.slice(5)] = value;
    else if (name.startsWith("tab.")) found.tabs[name.slice(4)] = value;
    else if (LISTS.test(name)) (found.filters[name] ??= []).push(value);
    else found.rest[name] = value;
  }
  return found;
}

export function format(state) {
  const query = new URLSearchParams();
  if (state.q) query.set("q", state.q);
  for (const [name, values] of Object.entries(state.filters)) for (const value of values) query.append(name, value);
  if (state.sort !== "index") query.set("sort", state.sort);
  for (const [name, value] of Object.entries(state.roles)) query.set(`role.${name}`, value);
  for (const [name, value] of Object.entries(state.tabs)) query.set(`tab.${name}`, value);
  for (const [name, value] of Object.entries(state.rest)) if (value) query.set(name, value);
  if (state.item !== null) query.set("item", state.item);
  const text = query.toString();
  return `#${state.view}${text ? `?${text}` : ""}`;
}

const listeners = [];
export const state = parse(location.hash);

/** Calls `act` with the names of what changed, after each change. */
export const onChange = (act) => listeners.push(act);

/** Changes the state and the address; an item is a step back for the browser, typing is not. */
export function go(changes, { replace = false } = {}) {
  Object.assign(state, changes);
  const hash = format(state);
  if (hash !== location.hash) history[replace ? "replaceState" : "pushState"](null, "", hash);
  for (const act of listeners) act(Object.keys(changes));
}

window.addEventListener("popstate", () => {
  const next = parse(location.hash);
  const changed = Object.keys(next).filter((name) => JSON.stringify(next[name]) !== JSON.stringify(state[name]));
  Object.assign(state, next);
  for (const act of listeners) act(changed);
});

/** The address of the same page with other filters: what every count leads to. */
export function linkTo(changes) {
  return format({ ...state, item: null, ...changes });
}

export function toggled(filters, name, value) {
  const now = filters[name] ?? [];
  const next = now.includes(value) ? now.filter((one) => one !== value) : [...now, value];
  const found = { ...filters, [name]: next };
  if (!next.length) delete found[name];
  return found;
}
