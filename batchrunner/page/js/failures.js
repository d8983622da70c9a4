// What failed, by cause: the server's words, an example, and the command that tries again. And the list of marks.

import { copy, el, plainTable, plural, put, whole } from "./dom.js";
import { data, meta } from "./data.js";
import { linkTo } from "./address.js";
import { STATE_WORDS, answerOf, picturesOf, thumb } from "./cells.js";
import { marks, stars } from "./marks.js";
import { unanswered, unansweredWords } from "./query.js";

const ADVICE = {
  content_filter: "The provider refuses this content: change the prompt.",
  auth: "The key or the account is refused: set a valid key, then run again.",
  invalid_request: "The server does not take the request as it is: its words name the field.",
  internal: "A fault of batchrunner: please report it with errors.log of the run's directory.",
};

export class Failures {
  constructor({ open }) {
    this.open = open;
    this.node = el("section", { class: "failures page-width", "aria-label": "Failures" });
  }

  show() {
    const groups = meta.failures;
    if (!groups.length && !meta.held.length && !unanswered()) {
      put(this.node, el("div", { class: "state-note" }, el("p", { text: "No item failed." })));
      return;
    }
    const command = `${meta.command} --retry-failed`;
    const total = groups.reduce((sum, group) => sum + group.count, 0);
    put(
      this.node,
      groups.length ? el("div", { class: "retry" }, el("p", { text: `${plural(total, "item")} failed for good and ${total === 1 ? "is" : "are"} not sent again unless you ask for it:` }), commandLine(command)) : null,
      groups.map((group) => this.group(group)),
      meta.held.length ? el("h2", { text: "Held: they wait for a decision" }) : null,
      meta.held.length ? commandLine(`${meta.command} --resend-held`) : null,
      meta.held.map((group) => this.group(group, true)),
      unanswered() ? this.unfinished() : null,
    );
  }

  /** Items without a row in Results: those that were sent by their ids, the others as a number. */
  unfinished() {
    const sent = Object.entries(meta.open);
    const rest = unanswered() - sent.length;
    const entries = sent.slice(0, 200).map(([id, [state, why]]) => [id, STATE_WORDS[state] ?? state, why]);
    const more = rest + Math.max(0, sent.length - 200);
    return [
      el("h2", { text: "Without an answer" }),
      el("p", { text: `${unansweredWords()}.${meta.state === "running" ? "" : " This goes on with them:"}` }),
      meta.state === "running" ? null : commandLine(meta.command),
      entries.length ? plainTable("unfinished", ["item", "state", "why"], entries) : null,
      entries.length && more > 0 ? el("p", { class: "faint", text: `and ${plural(more, "more item")}` }) : null,
    ];
  }

  group(group, held = false) {
    const value = `failed: ${group.kind}`;
    const place = meta.failureClasses.indexOf(group.kind);
    const rows = [];
    if (!held) for (let row = 0; row < data.count; row++) if (data.columns.failure[row] === place + 1) rows.push(row);
    const byModel = new Map();
    for (const row of rows) byModel.set(data.columns.model[row], (byModel.get(data.columns.model[row]) ?? 0) + 1);
    const example = el("span", { class: "faint", text: "looking for an example…" });
    if (!held) this.example(example, group, rows);
    else example.textContent = `for example ${group.example}`;
    return el(
      "article",
      { class: "cause" },
      el("h2", {}, el("b", { class: "figure", text: whole(group.count) }), " × ", held ? el("span", { text: group.kind }) : el("a", { href: linkTo({ view: "results", q: "", filters: { state: [value] }, rest: {} }), text: group.kind.replaceAll("_", " ") })),
      el("pre", { class: "text failed-text", text: group.message || "no words came with it" }),
      ADVICE[group.kind] ? el("p", { text: ADVICE[group.kind] }) : null,
      byModel.size > 1 ? el("p", { class: "faint small", text: [...byModel].map(([model, number]) => `${meta.models[model]}: ${whole(number)}`).join(" · ") }) : null,
      el("p", { class: "small" }, example),
    );
  }

  async example(node, group, rows) {
    for (const number of rows.slice(0, 400)) {
      const row = await data.row(number);
      if (row.id === group.example) {
        put(node, "example: ", el("button", { type: "button", class: "link-button", text: row.id, on: { click: () => this.open(number) } }), ` “${row.prompt.slice(0, 160)}”`);
        return;
      }
    }
    node.textContent = `for example ${group.example}`;
  }
}

function commandLine(command) {
  const button = el("button", { type: "button", class: "small-button", text: "copy", on: { click: () => copy(command) } });
  return el("div", { class: "command" }, el("code", { text: command }), button);
}

export class MarkList {
  constructor({ open }) {
    this.open = open;
    this.node = el("section", { class: "mark-list page-width", "aria-label": "Marks" });
  }

  show() {
    const all = [...marks.all].sort((a, b) => a[1].index - b[1].index);
    if (!all.length) {
      put(this.node, el("div", { class: "state-note" }, el("p", { text: "No marks yet. Open an item and press 1 to 5 or x, or write a note; marks stay in this browser until you download them." })));
      return;
    }
    put(
      this.node,
      el(
        "div",
        { class: "controls" },
        el("span", { text: plural(all.length, "mark") }),
        el("button", { type: "button", class: "chip", text: "Download marks.jsonl", on: { click: download } }),
        el("button", { type: "button", class: "chip", text: "Remove all", on: { click: () => confirm("Remove all marks of this run from this browser?") && (marks.clear(), this.show()) } }),
      ),
      el("ul", { class: "marked" }, all.slice(0, 500).map(([key, mark]) => this.entry(key, mark))),
      all.length > 500 ? el("p", { class: "faint", text: `and ${all.length - 500} more in the file` }) : null,
    );
  }

  entry(key, mark) {
    const number = data.columns.index.indexOf(mark.index);
    const what = el("span", { class: "faint" });
    const node = el("li", {}, el("b", { class: "badge mark", text: stars(mark.mark) || "✎" }), el("button", { type: "button", class: "link-button", text: mark.id, on: { click: () => number >= 0 && this.open(number) } }), el("span", { text: mark.note }), what);
    if (number < 0) what.textContent = "not in this page any more";
    else
      data.row(number).then((row) => {
        const [picture] = picturesOf(row);
        if (picture) node.prepend(thumb(picture));
        else what.textContent = answerOf(row).slice(0, 140);
      });
    return node;
  }
}

function download() {
  const address = URL.createObjectURL(new Blob([marks.lines()], { type: "application/jsonl" }));
  const link = el("a", { href: address, download: "marks.jsonl" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
