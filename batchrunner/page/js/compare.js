// Two or more columns beside each other: only what differs, word by word, and pictures over each other.

import { add, el, money, plural, put, seconds, short } from "./dom.js";
import { data, meta } from "./data.js";
import { percentile } from "./query.js";
import { wordDiff } from "./diff.js";
import { go, state } from "./address.js";
import { answerOf, badges, factsLine, isPicture, missingContent, picturesOf, thumb } from "./cells.js";
import { source } from "./data.js";

const PAGE = 12;
const PASS = 1;
const FAIL = 2;
const PICTURE_MODES = { side: "side by side", swipe: "swipe", difference: "difference" };

export class Compare {
  constructor({ open }) {
    this.open = open;
    this.node = el("section", { class: "compare page-width", "aria-label": "Compare" });
  }

  show(plan) {
    this.plan = plan;
    const { rest } = state;
    const all = plan.columns.map((_, column) => column);
    const wanted = (rest.columns ?? "").split(",").map(Number).filter((column) => rest.columns && column in plan.columns);
    this.columns = wanted.length >= 2 ? wanted : all.slice(0, 3);
    this.base = this.columns.includes(Number(rest.base)) ? Number(rest.base) : this.columns[0];
    this.words = rest.diff !== "off";
    this.only = rest.only !== "all";
    this.mode = PICTURE_MODES[rest.mode] ? rest.mode : "side";
    if (plan.columns.length < 2) {
      put(this.node, el("div", { class: "state-note" }, el("p", { text: "There is one column only: nothing to compare. A job with several models, seeds or other values of a matrix has more." })));
      return;
    }
    this.entries = plan.entries.map((_, entry) => entry).filter((entry) => !this.only || this.differs(entry));
    const flipped = new Map(this.entries.map((entry) => [entry, this.flips(entry)]));
    this.entries.sort((a, b) => flipped.get(b) - flipped.get(a) || a - b);
    const pages = Math.max(1, Math.ceil(this.entries.length / PAGE));
    this.page = Math.min(pages - 1, Math.max(0, Number(rest.page ?? 0)));
    put(this.node, this.controls(), this.figures(), this.list(), this.pager(pages));
  }

  differs(entry) {
    const { hash, failure } = data.columns;
    const rows = this.columns.map((column) => this.plan.rowAt(entry, column)).filter((row) => row >= 0);
    return rows.length < this.columns.length || rows.some((row) => hash[row] !== hash[rows[0]] || failure[row] !== failure[rows[0]]);
  }

  /** Whether one of its answers passes the checks and another one fails them. */
  flips(entry) {
    const verdicts = this.columns.map((column) => this.plan.rowAt(entry, column)).map((row) => (row < 0 ? 0 : data.columns.verdict[row]));
    return verdicts.includes(PASS) && verdicts.includes(FAIL);
  }

  set(changes) {
    go({ rest: { ...state.rest, page: "", ...changes } }, { replace: true });
  }

  controls() {
    const name = (column) => this.plan.title(column).map((part) => (part.name === "model" ? part.value : `${part.name} ${part.value}`)).join(" · ");
    const toggle = (text, pressed, act, title) => el("button", { type: "button", class: "chip", "aria-pressed": String(pressed), text, title, on: { click: act } });
    const choose = (column) => {
      const next = this.columns.includes(column) ? this.columns.filter((one) => one !== column) : [...this.columns, column].sort((a, b) => a - b);
      if (next.length >= 2) this.set({ columns: next.join(",") });
    };
    const base = el("select", { "aria-label": "Base", on: { change: (event) => this.set({ base: event.target.value }) } }, this.columns.map((column) => el("option", { value: column, text: name(column) })));
    base.value = String(this.base);
    const modes = Object.entries(PICTURE_MODES).map(([mode, words]) => toggle(words, this.mode === mode, () => this.set({ mode })));
    return el(
      "div",
      { class: "controls" },
      el("div", { class: "chips", role: "group", "aria-label": "Columns" }, this.plan.columns.slice(0, 16).map((_, column) => toggle(name(column), this.columns.includes(column), () => choose(column)))),
      el(
        "div",
        { class: "chips" },
        toggle("only what differs", this.only, () => this.toggleOnly(), "f"),
        isPicture() ? modes : toggle("word differences", this.words, () => this.toggleWords(), "d"),
        el("label", { class: "inline" }, el("span", { class: "faint", text: "against" }), base),
      ),
    );
  }

  toggleOnly() {
    this.set({ only: this.only ? "all" : "" });
  }

  toggleWords() {
    if (isPicture()) this.set({ mode: this.mode === "difference" ? "" : "difference" });
    else this.set({ diff: this.words ? "off" : "" });
  }

  /** Figures of each column, over all rows that pass the filters. */
  figures() {
    const c = data.columns;
    const told = this.columns.map((column) => {
      const found = { column, done: 0, failed: 0, ms: [], output: 0, equal: 0, both: 0, passed: 0, decided: 0, won: 0, lost: 0 };
      for (let entry = 0; entry < this.plan.entries.length; entry++) {
        const row = this.plan.rowAt(entry, column);
        if (row < 0) continue;
        if (c.failure[row]) found.failed++;
        else {
          found.done++;
          found.ms.push(c.ms[row]);
          if (c.output[row] > 0) found.output += c.output[row];
        }
        const verdict = c.verdict[row];
        if (verdict === PASS || verdict === FAIL) found.decided++;
        if (verdict === PASS) found.passed++;
        const other = this.plan.rowAt(entry, this.base);
        if (other >= 0) {
          if (verdict === PASS && c.verdict[other] === FAIL) found.won++;
          if (verdict === FAIL && c.verdict[other] === PASS) found.lost++;
        }
        if (other >= 0 && column !== this.base) {
          found.both++;
          if (c.hash[other] === c.hash[row] && c.failure[other] === c.failure[row]) found.equal++;
        }
      }
      found.ms.sort((a, b) => a - b);
      return found;
    });
    const line = (title, of) => el("tr", {}, el("th", { scope: "row", text: title }), told.map((one) => el("td", { text: of(one) })));
    return el(
      "table",
      { class: "figures" },
      el("thead", {}, el("tr", {}, el("td"), told.map((one) => el("th", { scope: "col" }, this.heading(one.column))))),
      el(
        "tbody",
        {},
        line("done", (one) => short(one.done)),
        told.some((one) => one.failed) ? line("failed", (one) => short(one.failed)) : null,
        told.some((one) => one.decided) ? line("passed", (one) => (one.decided ? `${short(one.passed)} of ${short(one.decided)} (${((100 * one.passed) / one.decided).toFixed(1)} %)` : "–")) : null,
        told.some((one) => one.decided) ? line("won and lost", (one) => (one.column === this.base ? "base" : `${short(one.won)} won, ${short(one.lost)} lost`)) : null,
        line("seconds p50", (one) => (one.ms.length ? seconds(percentile(one.ms, 0.5) / 1000) : "–")),
        line("seconds p95", (one) => (one.ms.length ? seconds(percentile(one.ms, 0.95) / 1000) : "–")),
        told.some((one) => one.output) ? line("tokens out, mean", (one) => (one.done ? short(one.output / one.done) : "–")) : null,
        line("same as the base", (one) => (one.column === this.base ? "base" : `${short(one.equal)} of ${short(one.both)}`)),
      ),
    );
  }

  heading(column) {
    return this.plan.title(column).map((part) => [part.name === "model" ? null : el("span", { class: "axis", text: `${part.name} ` }), el("b", { text: part.value })]);
  }

  list() {
    const shown = this.entries.slice(this.page * PAGE, (this.page + 1) * PAGE);
    if (!shown.length) {
      const words = this.plan.entries.length ? "These columns have the same content everywhere." : "Nothing matches the search and the filters.";
      return el("div", { class: "state-note" }, el("p", { text: words }));
    }
    const node = el("div", { class: "pairs" });
    for (const entry of shown) {
      const pair = el("article", { class: "pair", style: { "--columns": this.columns.length } }, el("div", { class: "skeleton" }));
      node.append(pair);
      this.fill(pair, entry);
    }
    return node;
  }

  async fill(pair, entry) {
    const numbers = this.columns.map((column) => this.plan.rowAt(entry, column));
    const rows = await Promise.all(numbers.map((number) => (number < 0 ? null : data.row(number))));
    const first = rows.find(Boolean) ?? (await data.row(data.groups[this.plan.entries[entry].group][0]));
    const base = rows[this.columns.indexOf(this.base)];
    put(pair, el("h2", { class: "pair-title" }, el("span", { text: first.prompt.slice(0, 400) }), el("span", { class: "faint small", text: ` ${first.prompt_id}` })));
    if (isPicture() && this.mode !== "side" && rows.filter((row) => row && picturesOf(row).length).length >= 2) {
      pair.append(this.over(rows.filter((row) => row && picturesOf(row).length), base));
      return;
    }
    add(pair, [
      el(
        "div",
        { class: "pair-columns" },
        rows.map((row, place) => this.column(row, place, numbers[place], base)),
      ),
    ]);
  }

  column(row, place, number, base) {
    const head = el("div", { class: "pair-head" }, this.heading(this.columns[place]));
    if (!row) return el("div", { class: "pair-column" }, head, missingContent({ state: "pending", why: "no answer here" }));
    const pictures = picturesOf(row);
    const facts = el("div", { class: "foot" }, el("span", { class: "facts", text: factsLine(row) }), badges(row), el("button", { type: "button", class: "small-button", text: "open", on: { click: () => this.open(number) } }));
    if (pictures.length) {
      return el("div", { class: "pair-column" }, head, el("div", { class: "picture" }, thumb(pictures[0], { alt: row.prompt.slice(0, 120) })), facts);
    }
    const text = answerOf(row);
    const body = el("div", { class: `text${row.error ? " failed-text" : ""}` });
    if (this.words && base && row !== base && !row.error && !base.error) differing(body, answerOf(base), text);
    else body.textContent = text || "empty answer";
    const { reasoning } = row.output ?? {};
    return el("div", { class: "pair-column" }, head, body, reasoning ? el("details", {}, el("summary", { text: `reasoning (${plural(reasoning.trim().split(/\s+/).length, "word")})` }), el("div", { class: "text", text: reasoning })) : null, facts);
  }

  /** Two pictures over each other: a slider between them, or how they differ. */
  over(rows, base) {
    const [below, above] = [base ?? rows[0], rows.find((row) => row !== (base ?? rows[0])) ?? rows[1]].map((row) => picturesOf(row)[0]);
    const image = (picture, name) => el("img", { class: name, alt: name, src: source.picture(picture.path, picture.sha256) });
    const top = image(above, "above");
    const frame = el("div", { class: `over ${this.mode}` }, image(below, "below"), top);
    if (this.mode === "difference") return frame;
    const slider = el("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "Where the pictures meet" });
    const cut = () => (top.style.clipPath = `inset(0 0 0 ${slider.value}%)`);
    slider.addEventListener("input", cut);
    cut();
    return el("div", {}, frame, slider);
  }

  pager(pages) {
    if (pages < 2) return null;
    const turn = (to) => go({ rest: { ...state.rest, page: String(to) } }, { replace: true });
    return el(
      "div",
      { class: "pager" },
      el("button", { type: "button", class: "small-button", text: "‹ before", disabled: this.page === 0, on: { click: () => turn(this.page - 1) } }),
      el("span", { class: "faint", text: `${this.page + 1} of ${pages} · ${plural(this.entries.length, "prompt")}${this.only ? " that differ" : ""}` }),
      el("button", { type: "button", class: "small-button", text: "next ›", disabled: this.page === pages - 1, on: { click: () => turn(this.page + 1) } }),
    );
  }

  turn(step) {
    go({ rest: { ...state.rest, page: String(Math.max(0, this.page + step)) } }, { replace: true });
  }
}

function differing(node, before, after) {
  for (const [kind, text] of wordDiff(before, after)) {
    node.append(kind === "same" ? text : el(kind === "new" ? "ins" : "del", { text }));
  }
}
