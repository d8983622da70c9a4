// The bar at the top, the views below it, and the keyboard.

import { el, own, plural, put, shown, whole } from "./dom.js";
import { data, meta, search, source } from "./data.js";
import { SORTS, countsOf, facets, layout, passing } from "./query.js";
import { go, linkTo, onChange, state, toggled } from "./address.js";
import { marks } from "./marks.js";
import { isPicture } from "./cells.js";
import { Results } from "./results.js";
import { Item } from "./item.js";
import { Compare } from "./compare.js";
import { Run } from "./run.js";
import { Failures, MarkList } from "./failures.js";

const VIEWS = { results: "Results", compare: "Compare", run: "Run", failures: "Failures", marks: "Marks" };
const KEYS = [
  ["/", "search"],
  ["j k", "next and previous prompt"],
  ["← → ↑ ↓", "move between items"],
  ["Enter", "open the item"],
  ["Esc", "close"],
  ["1 – 5, x", "mark the item; the same key takes the mark back"],
  ["d", "compare: word differences, or the difference of pictures"],
  ["f", "compare: only what differs"],
  ["t", "dark or light"],
  ["?", "this list"],
];
const SLOW_MS = 100; // a search that takes longer says that it searches
const THEMES = ["system", "light", "dark"];

const app = document.getElementById("app");
let plan = null;
let mask = null;
let searched = null;
let searchTurn = 0;
let typing = 0;

const open = (number) => go({ item: data.columns.index[number] });
const results = new Results({ open, state });
const compare = new Compare({ open });
const run = new Run();
const failures = new Failures({ open });
const markList = new MarkList({ open });
const item = new Item({ move: (down, across) => step(down, across), closed: () => state.item !== null && go({ item: null }, { replace: true }) });
const views = { results, compare, run, failures, marks: markList };

// -- the bar

const searchBox = el("input", { type: "search", class: "search", placeholder: "Search prompts and answers  /", "aria-label": "Search", autocomplete: "off", spellcheck: "false" });
const status = el("div", { class: "status" });
const tabs = el("nav", { class: "views", "aria-label": "Views" });
const filters = el("div", { class: "filters", role: "search", "aria-label": "Search and filters" });
const chips = el("section", { class: "active", "aria-label": "Active filters" });
const main = el("main", {});
const live = el("div", { class: "offscreen", role: "status", "aria-live": "polite" });
const help = el("dialog", { class: "help", "aria-label": "Keys" }, el("h2", { text: "Keys" }), el("dl", {}, KEYS.map(([key, words]) => [el("dt", {}, el("kbd", { text: key })), el("dd", { text: words })])), el("button", { type: "button", class: "chip", text: "Close", on: { click: () => help.close() } }));

function drawStatus() {
  const { items } = meta;
  const share = items.total ? Math.floor((100 * items.done) / items.total) : 0;
  put(
    status,
    el("h1", { text: meta.job }),
    meta.simulated ? el("span", { class: "pill", text: "simulated", title: "answers of the built-in simulator; nothing was billed" }) : null,
    el("span", { class: `pill state-${meta.state}`, text: { failed: `${whole(items.failed)} failed`, pending: "unfinished" }[meta.state] ?? meta.state, title: meta.stateWords }),
    el("span", { class: "faint", text: items.done === items.total ? plural(items.total, "item") : `${whole(items.done)} of ${whole(items.total)} done (${share} %)` }),
  );
}

function drawTabs() {
  const counts = { failures: meta.items.failed + meta.items.held, marks: marks.all.size };
  put(
    tabs,
    Object.entries(VIEWS).map(([view, title]) =>
      el("a", { href: linkTo({ view, rest: view === "compare" ? state.rest : {} }), "aria-current": state.view === view ? "page" : null }, title, counts[view] ? el("span", { class: "tab-count", text: whole(counts[view]) }) : null),
    ),
    themeButton(),
    el("button", { type: "button", class: "plain-button", "aria-label": "Keys", title: "Keys (?)", text: "?", on: { click: () => help.showModal() } }),
  );
}

function drawFilters() {
  const shownHere = state.view === "results" || state.view === "compare";
  filters.hidden = !shownHere;
  chips.hidden = !shownHere;
  if (!shownHere) return;
  const menus = facets().filter((facet) => facet.values.length > 1).map(menu);
  const sort = el("select", { "aria-label": "Sort", on: { change: (event) => go({ sort: event.target.value }, { replace: true }) } }, Object.entries(SORTS).flatMap(([name, words]) => (name === "index" ? [el("option", { value: name, text: words })] : [el("option", { value: `-${name}`, text: `${words}, most first` }), el("option", { value: name, text: `${words}, least first` })])));
  sort.value = state.sort;
  const size = el("div", { class: "sizes", role: "group", "aria-label": "Size" }, ["S", "M", "L"].map((name) => el("button", { type: "button", "aria-pressed": String((state.rest.size ?? "M") === name), text: name, title: `size ${name}`, on: { click: () => go({ rest: { ...state.rest, size: name } }, { replace: true }) } })));
  put(filters, searchBox, menus, more(), el("label", { class: "inline" }, el("span", { class: "faint", text: "sort" }), sort), meta.axes.length > 1 ? axisMenu() : null, state.view === "results" ? size : null);
  drawChips();
}

function dropdown(title, inside, active) {
  const node = el("details", { class: `menu${active ? " on" : ""}` }, el("summary", { text: title }), el("div", { class: "menu-list" }));
  node.addEventListener("toggle", () => {
    if (!node.open) return;
    for (const other of document.querySelectorAll("details.menu[open]")) if (other !== node) other.open = false;
    put(node.lastChild, inside());
    const list = node.lastChild;
    list.style.left = "0";
    list.style.left = `${Math.min(0, window.innerWidth - 8 - list.getBoundingClientRect().right)}px`;
  });
  return node;
}

function menu(facet) {
  const chosen = state.filters[facet.name] ?? [];
  const options = () => {
    const counts = countsOf(facet);
    const listed = facet.values.map((value, place) => [value, counts[place]]).filter(([value, number]) => number || chosen.includes(value));
    if (!listed.length) return el("p", { class: "faint", text: "none yet" });
    return listed.slice(0, 200).map(([value, number]) =>
      el("a", { href: linkTo({ filters: toggled(state.filters, facet.name, value) }), role: "menuitemcheckbox", "aria-checked": String(chosen.includes(value)) }, el("span", { text: value }), el("span", { class: "faint", text: whole(number) })),
    );
  };
  return dropdown(chosen.length ? `${facet.title} ${chosen.length}` : facet.title, options, chosen.length);
}

function more() {
  const field = (name, title, unit) => {
    const input = el("input", { type: "number", min: 0, step: "any", value: state.filters[name]?.[0] ?? "", "aria-label": title });
    input.addEventListener("change", () => {
      const next = { ...state.filters, [name]: [input.value] };
      if (!(Number(input.value) > 0)) delete next[name];
      go({ filters: next });
    });
    return el("label", { class: "inline" }, el("span", { text: title }), input, el("span", { class: "faint", text: unit }));
  };
  const active = state.filters.slower || state.filters.longer;
  return dropdown("More", () => [field("slower", "slower than", "s"), field("longer", "longer than", "characters")], active);
}

function axisMenu() {
  const inside = () =>
    meta.axes.map((axis, place) => {
      const select = el("select", { "aria-label": axis.name, on: { change: (event) => go({ roles: { ...state.roles, [axis.name]: event.target.value } }) } }, ["across", "down", "tab"].map((role) => el("option", { value: role, text: role })));
      select.value = plan.rolesNow[place];
      return el("label", { class: "inline" }, el("span", { text: axis.name }), select);
    });
  return dropdown("Layout", inside, Object.keys(state.roles).length);
}

function drawChips() {
  const chip = (text, href) => el("a", { class: "chip on", href, title: "remove this filter" }, text, el("span", { text: " ✕" }));
  const listed = Object.entries(state.filters).flatMap(([name, values]) => {
    const title = name.startsWith("x.") ? name.slice(2) : { slower: "slower than", longer: "longer than" }[name] ?? name;
    return values.map((value) => chip(name === "state" ? value : `${title} ${value}`, linkTo({ filters: toggled(state.filters, name, value) })));
  });
  const tabLists = meta.axes.map((axis, place) => plan?.rolesNow[place] === "tab" && el("div", { class: "tab-axis", role: "group", "aria-label": axis.name }, el("span", { class: "faint", text: axis.name }), axis.values.slice(0, 60).map((value, number) => el("a", { href: linkTo({ tabs: { ...state.tabs, [axis.name]: shown(value) } }), "aria-current": plan.tabs[place] === number ? "true" : null, text: shown(value) }))));
  const count = matchWords();
  put(chips, tabLists, listed, listed.length || state.q ? [el("a", { class: "link-button", href: linkTo({ filters: {}, q: "" }), text: "clear all" }), el("span", { class: "faint", text: count })] : null);
  chips.hidden = !chips.childNodes.length;
  live.textContent = listed.length || state.q ? count : "";
}

function matchWords() {
  if (state.q && !searched) return "searching…";
  let rows = 0;
  for (const one of mask ?? []) rows += one;
  return `${plural(plan?.entries.length ?? 0, "prompt")}, ${plural(rows, "item")}`;
}

function themeButton() {
  const now = document.documentElement.dataset.theme ?? "system";
  return el("button", { type: "button", class: "plain-button theme", "aria-label": `Theme: ${now}`, title: `Theme: ${now} (t)`, text: { system: "◐", light: "☀", dark: "☾" }[now], on: { click: nextTheme } });
}

function setTheme(theme) {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  try {
    localStorage.setItem("batchrunner-theme", theme);
  } catch {
    // it lasts as long as the page is open
  }
}

function nextTheme() {
  setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % THEMES.length]);
  drawTabs();
}

// -- what is shown

function replan() {
  mask = passing(state.filters, searched);
  plan = layout(state, mask);
  results.plan = plan; // an item that is opened from another view has its neighbours there
}

function drawView({ keep = false } = {}) {
  if (!own(VIEWS, state.view)) state.view = "results";
  const view = views[state.view];
  if (main.firstChild !== view.node) put(main, view.node);
  document.body.dataset.view = state.view;
  if (state.view === "results") results.show(plan, { keep });
  else view.show(plan);
}

async function find() {
  const turn = ++searchTurn;
  if (!state.q.trim()) {
    searched = null;
    return true;
  }
  const found = await search(state.q, () => turn !== searchTurn);
  if (!found) return false;
  searched = found;
  return true;
}

function step(down, across) {
  results.move(down, across, { focus: false });
  const { entry, column } = results.cursor;
  const number = plan.rowAt(entry, column);
  if (number >= 0) go({ item: data.columns.index[number] }, { replace: true });
}

function drawItem() {
  if (state.item === null) {
    const was = item.isOpen;
    item.close();
    if (was && state.view === "results") results.move(0, 0);
    return;
  }
  const number = data.columns.index.indexOf(state.item);
  if (number < 0) {
    go({ item: null }, { replace: true });
    return;
  }
  const found = results.plan ? results.placeOf(number) : null;
  const before = results.cursor.column;
  if (found) results.cursor = found;
  const { entry, column } = found ?? { entry: 0, column: 0 };
  const title = [plan.title(column).map((part) => (part.name === "model" ? part.value : `${part.name} ${part.value}`)).join(" · "), found && `${whole(entry + 1)} of ${whole(plan.entries.length)}`].filter(Boolean).join(" · ");
  item.show(number, { title, left: found && column > 0, right: found && column + 1 < plan.columns.length, up: found && entry > 0, down: found && entry + 1 < plan.entries.length, sameColumn: before === column });
}

onChange(async (changed) => {
  const itemOnly = changed.every((name) => name === "item");
  if (!itemOnly) {
    clearTimeout(typing);
    const typed = document.activeElement === searchBox;
    if (!typed || changed.includes("view")) searchBox.value = state.q;
    drawTabs();
    if (changed.includes("q")) {
      const slow = setTimeout(drawChips, SLOW_MS);
      searched = null;
      const isNewest = await find();
      clearTimeout(slow);
      if (!isNewest) return;
    }
    replan();
    if (changed.every((name) => name === "q" || name === "item")) drawChips();
    else drawFilters();
    drawView();
    if (typed) searchBox.focus({ preventScroll: true }); // it may have been drawn anew
  }
  drawItem();
});

marks.listeners.push((row) => {
  drawTabs();
  if (row && state.view === "results") results.refresh(row._row);
  if (state.view === "marks") markList.show();
});

searchBox.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => go({ q: searchBox.value }, { replace: true }), 120);
});
searchBox.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === "ArrowDown") {
    event.preventDefault();
    results.move(0, 0);
  }
});

document.addEventListener("click", (event) => {
  for (const open of document.querySelectorAll("details.menu[open]")) if (!open.contains(event.target)) open.open = false;
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    for (const open of document.querySelectorAll("details.menu[open]")) open.open = false;
    if (event.target === searchBox) searchBox.blur();
    return;
  }
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || help.open) return;
  if (act(event.key)) event.preventDefault();
});

/** What a key does; false where it has no meaning. */
function act(key) {
  const moves = { j: [1, 0], k: [-1, 0], ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] };
  if (item.isOpen) {
    if (moves[key]) step(...moves[key]);
    else if (/^[1-5x]$/.test(key)) item.mark(key);
    else return false;
    return true;
  }
  if (key === "?") help.showModal();
  else if (key === "t") nextTheme();
  else if (key === "/") {
    if (filters.hidden) go({ view: "results" });
    searchBox.focus();
    searchBox.select();
  } else if (state.view === "compare" && key === "d") compare.toggleWords();
  else if (state.view === "compare" && key === "f") compare.toggleOnly();
  else if (state.view === "compare" && (key === "j" || key === "k")) compare.turn(key === "j" ? 1 : -1);
  else if (state.view === "results" && moves[key]) results.move(...moves[key]);
  else if (state.view === "results" && /^[1-5x]$/.test(key)) markCurrent(key);
  else return false;
  return true;
}

function markCurrent(mark) {
  const { entry, column } = results.cursor;
  const row = data.now(plan.rowAt(entry, column));
  if (row) marks.set(row, mark);
  results.move(0, 0);
}

// -- start

function start() {
  try {
    setTheme(localStorage.getItem("batchrunner-theme") ?? "system");
  } catch {
    // no storage: the system's theme
  }
  if (!location.hash && meta.view) state.view = meta.view;
  drawStatus();
  drawTabs();
  put(app, el("header", { class: "bar" }, status, tabs), filters, chips, main, item.node, help, live);
  put(main, el("div", { class: "state-note", text: "Loading…" }));
  data.open().then(
    async () => {
      await find();
      searchBox.value = state.q;
      replan();
      drawFilters();
      drawView();
      if (state.item !== null) drawItem();
      document.documentElement.dataset.ready = "true";
      source.subscribe(onUpdate);
    },
    (error) => put(main, el("div", { class: "state-note failed-text", text: `The rows of this page cannot be read: ${error.message}` })),
  );
}

/** New rows: counts and lists are drawn anew, what is being read stays where it is. */
async function onUpdate(update) {
  data.changed(update);
  marks.byIndex = null;
  drawStatus();
  drawTabs();
  if (state.q) await find();
  replan();
  drawChips();
  drawView({ keep: true });
}

start();
