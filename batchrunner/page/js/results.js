// The table of all answers: a row for each prompt, a column for each combination of what varies.

import { add, el, own, plural, put, shown } from "./dom.js";
import { data, meta } from "./data.js";
import { missing, unanswered, unansweredWords } from "./query.js";
import { linkTo } from "./address.js";
import { Windowed } from "./window.js";
import { cellContent, isPicture, missingContent, twinsOf } from "./cells.js";

const PHONE = window.matchMedia("(max-width: 639px)");
const HEIGHTS = { text: { S: 104, M: 184, L: 344 }, picture: { S: 148, M: 216, L: 336 } };
const PROMPT_CHARS = { S: 200, M: 320, L: 720 };
const LINES = { S: 3, M: 7, L: 15 };
const NARROW_PX = 4; // of a letter: lays out more than shows, and not many times that

export class Results {
  constructor({ open, state }) {
    this.open = open;
    this.state = state;
    this.cursor = { entry: 0, column: 0 };
    this.suffixes = new Map();
    this.head = el("div", { class: "head", role: "row", "aria-rowindex": 1 });
    this.scroller = el("div", { class: "scroller", tabindex: -1, role: "grid", "aria-label": "results" });
    this.list = new Windowed(this.scroller, (entry) => this.row(entry));
    this.empty = el("div", { class: "state-note", role: "row", hidden: true });
    this.node = el("section", { class: "results", "aria-label": "Results" }, this.scroller);
    this.rest = el("div", { class: "rest", role: "row", hidden: true });
    add(this.scroller, [this.head, this.list.spacer, this.empty, this.rest]);
    this.scroller.addEventListener("keydown", (event) => this.onKey(event));
    PHONE.addEventListener("change", () => this.plan && this.show(this.plan));
  }

  get phone() {
    return PHONE.matches;
  }

  /** Shows a layout of `query.layout`; the place in the list stays where the list is the same. */
  show(plan, { keep = false } = {}) {
    this.plan = plan;
    const size = own(LINES, this.state.rest.size) ? this.state.rest.size : "M";
    const kind = isPicture() ? "picture" : "text";
    const height = HEIGHTS[kind][size];
    const columns = plan.columns.length;
    this.promptChars = PROMPT_CHARS[size];
    this.height = this.phone ? height + 76 : height;
    this.node.className = `results kind-${kind} size-${size}${this.phone ? " phone" : ""}`;
    this.scroller.style.setProperty("--columns", columns);
    this.scroller.style.setProperty("--cell", kind === "picture" ? `${height - 40}px` : "256px");
    this.scroller.style.setProperty("--height", `${height}px`);
    this.scroller.style.setProperty("--lines", LINES[size] - (this.phone ? 2 : 0)); // its cells have a title and a margin
    this.scroller.setAttribute("aria-rowcount", plan.entries.length + 1);
    this.scroller.setAttribute("aria-colcount", columns + 1);
    this.drawHead();
    const wide = this.phone ? 480 : Math.max(256, ((this.list.width || this.scroller.clientWidth) - 264) / columns);
    this.chars = Math.ceil((wide / NARROW_PX) * LINES[size]);
    this.empty.hidden = plan.entries.length > 0;
    this.list.spacer.hidden = !plan.entries.length;
    this.rest.hidden = !plan.entries.length || !unanswered();
    if (!this.rest.hidden) put(this.rest, el("div", { role: "gridcell" }, el("a", { href: linkTo({ view: "failures", q: "", filters: {}, rest: {} }), text: unansweredWords() })));
    if (!plan.entries.length) this.showEmpty();
    this.list.set(plan.entries.length, this.height, { keep });
    this.cursor.entry = Math.min(this.cursor.entry, Math.max(0, plan.entries.length - 1));
    this.cursor.column = Math.min(this.cursor.column, Math.max(0, columns - 1));
  }

  showEmpty() {
    const nothing = data.count === 0;
    const words = nothing
      ? meta.state === "running"
        ? "No answer has arrived yet."
        : "This run has no answers yet."
      : "Nothing matches the search and the filters.";
    put(this.empty, el("div", { role: "gridcell" }, el("p", { text: words }), nothing ? el("code", { text: meta.command }) : el("a", { href: "#results", text: "Show everything" })));
  }

  drawHead() {
    const { plan } = this;
    put(
      this.head,
      el("div", { class: "prompt-cell", role: "columnheader", text: plural(plan.entries.length, "prompt") }),
      plan.columns.map((_, column) => {
        const parts = plan.title(column);
        const inside = parts.length
          ? parts.map((part) => [el("span", { class: "axis", text: part.name === "model" ? "" : `${part.name} ` }), el("b", { text: part.value, title: part.value })])
          : el("b", { text: meta.models.length === 1 ? shown(meta.models[0]) : "answer" });
        return el("div", { class: "column-head", role: "columnheader" }, inside);
      }),
    );
  }

  row(entry) {
    const { plan } = this;
    const numbers = plan.columns.map((_, column) => plan.rowAt(entry, column));
    const known = numbers.find((number) => number >= 0) ?? data.groups[plan.entries[entry].group]?.[0];
    const node = el("div", { class: "row", role: "row", "aria-rowindex": entry + 2, "data-entry": entry });
    this.fillRow(node, entry, numbers, known);
    const absent = [...new Set([known, ...numbers].filter((number) => number >= 0 && !data.now(number)).map((number) => Math.floor(number / 256)))];
    if (absent.length) requestAnimationFrame(() => node.isConnected && this.fetch(node, absent, entry, numbers, known));
    return node;
  }

  /** Brings chunks of a row that is still to be seen: what was scrolled past needs none. */
  fetch(node, absent, entry, numbers, known) {
    Promise.all(absent.map((chunk) => data.load(chunk))).then(
      () => {
        if (node.isConnected) this.fillRow(node, entry, numbers, known);
        for (const chunk of absent) data.ahead(chunk);
      },
      (error) => node.isConnected && put(node, el("div", { class: "prompt-cell failed-text", text: error.message })),
    );
  }

  fillRow(node, entry, numbers, known) {
    const first = known === undefined ? undefined : data.now(known);
    const cells = numbers.map((number, column) => this.cell(entry, column, number));
    const strip = this.phone ? el("div", { class: "strip" }, cells) : cells;
    put(node, this.promptCell(entry, first), strip);
  }

  promptCell(entry, first) {
    const down = this.plan.down(entry);
    if (!first) return el("div", { class: "prompt-cell", role: "rowheader" }, el("span", { class: "skeleton" }));
    const details = Object.entries(first.vars ?? {})
      .filter(([, value]) => (typeof value === "string" ? value.length < 40 && value !== first.prompt : value !== null))
      .slice(0, 4)
      .map(([, value]) => shown(value));
    return el(
      "div",
      { class: "prompt-cell", role: "rowheader" },
      el("div", { class: "prompt", text: first.prompt.slice(0, this.promptChars), title: first.prompt_id }),
      down.length ? el("div", { class: "down", text: down.map((part) => `${part.name} ${part.value}`).join(" · ") }) : null,
      el("div", { class: "faint small", text: details.length ? details.join(" · ") : first.prompt_id }),
    );
  }

  cell(entry, column, number) {
    const { plan } = this;
    const current = entry === this.cursor.entry && column === this.cursor.column;
    const node = el("div", {
      class: "cell",
      role: "gridcell",
      tabindex: current ? 0 : -1,
      "aria-colindex": column + 2,
      "data-column": column,
      "data-row": number,
    });
    if (number < 0) {
      return add(node, [missingContent(missing(data.groups[plan.entries[entry].group], this.suffix(column)))]);
    }
    if (!plan.mask[number]) node.classList.add("dimmed");
    const row = data.now(number);
    if (!row) return add(node, [el("span", { class: "skeleton" }), el("span", { class: "skeleton" })]);
    node.addEventListener("click", () => this.enter(entry, column));
    if (this.phone && plan.columns.length > 1) {
      const title = plan.title(column).map((part) => (part.name === "model" ? part.value.split("/").at(-1) : `${part.name} ${part.value}`));
      node.append(el("div", { class: "cell-title", text: title.join(" · ") }));
    }
    return add(node, cellContent(row, { twins: plan.columns.length > 1 ? twinsOf(number, data.columns, data.groups) : 0, chars: this.chars }));
  }

  /** What an id of this column has behind the prompt's id, from a row that is loaded; null when none is. */
  suffix(column) {
    const mark = `${column}:${this.plan.tabs}`;
    if (this.suffixes.has(mark)) return this.suffixes.get(mark);
    for (let entry = 0; entry < Math.min(40, this.plan.entries.length); entry++) {
      const row = data.now(this.plan.rowAt(entry, column));
      if (row?.id.startsWith(row.prompt_id)) {
        this.suffixes.set(mark, row.id.slice(row.prompt_id.length));
        return this.suffixes.get(mark);
      }
    }
    return null;
  }

  enter(entry, column) {
    this.cursor = { entry, column };
    const number = this.plan.rowAt(entry, column);
    if (number >= 0) this.open(number);
  }

  /** Moves the cursor and brings it into view. */
  move(down, across, { focus = true } = {}) {
    const { plan, cursor } = this;
    if (!plan?.entries.length) return;
    const before = this.cellNode(cursor.entry, cursor.column);
    before?.setAttribute("tabindex", -1);
    cursor.entry = Math.max(0, Math.min(plan.entries.length - 1, cursor.entry + down));
    cursor.column = Math.max(0, Math.min(plan.columns.length - 1, cursor.column + across));
    this.list.show(cursor.entry);
    const node = this.cellNode(cursor.entry, cursor.column);
    node?.setAttribute("tabindex", 0);
    node?.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (focus) node?.focus({ preventScroll: true });
  }

  cellNode(entry, column) {
    return this.list.there.get(entry)?.querySelector(`[data-column="${column}"]`);
  }

  /** The place of a row in the table, if it is there. */
  placeOf(number) {
    const group = data.columns.group[number];
    for (let entry = 0; entry < this.plan.entries.length; entry++) {
      if (this.plan.entries[entry].group !== group) continue;
      for (let column = 0; column < this.plan.columns.length; column++) if (this.plan.rowAt(entry, column) === number) return { entry, column };
    }
    return null;
  }

  /** Draws a row anew, for instance after a mark. */
  refresh(number) {
    const found = this.plan && this.placeOf(number);
    if (found) this.list.redraw(found.entry);
  }

  onKey(event) {
    const cell = event.target.closest?.(".cell");
    if (event.key === "Enter" && cell) this.enter(Number(cell.closest(".row").dataset.entry), Number(cell.dataset.column));
  }

  close() {
    this.list.close();
  }
}
