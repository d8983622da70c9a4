// One item in full: its picture or answer, everything that happened to it, and ways to take it along.

import { add, clock, copy, el, plural, put, seconds, shown, whole } from "./dom.js";
import { data, meta, source } from "./data.js";
import { answerOf, badges, picturesOf, player, size, thumb } from "./cells.js";
import { marks } from "./marks.js";
import { flagWords } from "./query.js";

const EVENTS = {
  refused: "the server refused it, which costs nothing",
  retry: "ended without a result; tried again",
  accepted: "the server took it as a task",
  ready: "its pictures were ready to be fetched",
  failed: "failed for good",
  requeued: "a person asked for another try",
  lost: "its answer was gone; paid for again on request",
};
const KNOWN_FIELDS = new Set(
  "id prompt_id index model prompt system vars params output task_id usage attempts ambiguous recovered started_at seconds key messages schema_sha256 images files replica shared_with error failed_at pass _scores _row _log".split(" "),
);

const PROMPT_FIRST_CHARS = 600;

export class Item {
  /** `move(down, across)` leads to a neighbour, `closed` is called when the dialog was closed. */
  constructor({ move, closed }) {
    this.node = el("dialog", { class: "item", tabindex: -1, "aria-label": "Item" });
    this.node.addEventListener("close", closed);
    this.node.addEventListener("click", (event) => event.target === this.node && this.node.close());
    this.move = move;
    this.row = null;
    this.picture = 0;
  }

  get isOpen() {
    return this.node.open;
  }

  async show(number, position) {
    if (!this.node.open) {
      this.node.showModal();
      this.node.focus();
    }
    this.number = number;
    const there = data.now(number);
    if (!there) put(this.node, el("div", { class: "state-note", text: "Loading…" }));
    let row;
    try {
      row = there ?? (await data.row(number));
    } catch (error) {
      put(this.node, el("div", { class: "state-note", text: error.message }));
      return;
    }
    if (this.number !== number) return;
    if (this.row !== row) this.picture = 0;
    this.row = row;
    this.draw(position);
  }

  close() {
    if (this.node.open) this.node.close();
  }

  draw(position = this.position) {
    this.position = position;
    const { row } = this;
    const scrolled = this.node.querySelector(".item-main")?.scrollTop ?? 0;
    const head = el(
      "header",
      {},
      el("div", { class: "item-title" }, el("b", { text: row.id }), el("span", { class: "faint", text: position.title })),
      el(
        "nav",
        { class: "steps", "aria-label": "Neighbours" },
        this.step("‹", "Left in the row (←)", 0, -1, position.left),
        this.step("›", "Right in the row (→)", 0, 1, position.right),
        this.step("↑", "Prompt above (↑)", -1, 0, position.up),
        this.step("↓", "Prompt below (↓)", 1, 0, position.down),
        el("button", { class: "plain-button", type: "button", "aria-label": "Close (Esc)", title: "Close (Esc)", text: "✕", on: { click: () => this.close() } }),
      ),
    );
    const main = el("div", { class: "item-main", tabindex: -1 }, this.main(row));
    const side = el("aside", {}, this.side(row));
    put(this.node, head, el("div", { class: "item-body" }, main, side), this.bottomBar());
    if (position.sameColumn) main.scrollTop = scrolled;
  }

  step(text, title, down, across, possible) {
    return el("button", { class: "plain-button", type: "button", "aria-label": title, title, text, disabled: !possible, on: { click: () => this.move(down, across) } });
  }

  bottomBar() {
    return el(
      "div",
      { class: "bottom-bar" },
      this.step("‹", "Previous", 0, -1, this.position.left),
      this.step("›", "Next", 0, 1, this.position.right),
      this.markButton("5", "★"),
      this.markButton("x", "✕"),
      el("button", { class: "plain-button", type: "button", text: "link", on: { click: () => this.copied(location.href) } }),
    );
  }

  main(row) {
    const pictures = picturesOf(row);
    if (pictures.length) {
      const picture = pictures[Math.min(this.picture, pictures.length - 1)];
      const image = el("img", { class: "full", alt: row.prompt, src: source.picture(picture.path, picture.sha256), width: picture.width, height: picture.height });
      image.addEventListener("error", () => image.replaceWith(thumb(picture, { class: "full", alt: row.prompt })), { once: true });
      const others = pictures.length > 1 ? el("div", { class: "pictures" }, pictures.map((one, place) => el("button", { type: "button", "aria-label": `Picture ${place + 1}`, on: { click: () => { this.picture = place; this.draw(); } } }, thumb(one)))) : null;
      return [el("div", { class: "frame" }, image), others, el("p", { class: "prompt-text", text: row.prompt })];
    }
    const asked = [el("h3", { text: "Prompt" })];
    if (row.messages) for (const message of row.messages) asked.push(el("div", { class: "faint small", text: message.role }), el("pre", { class: "text", text: message.content }));
    else asked.push(el("pre", { class: "text", text: row.prompt }));
    const first = !row.messages && row.prompt.length <= PROMPT_FIRST_CHARS; // a long one would push the answer out of sight
    const parts = first ? [...asked] : [];
    if (row.error) {
      parts.push(el("h3", { text: `Failed: ${row.error.class}` }), el("pre", { class: "text failed-text", text: answerOf(row) || "no words came with it" }));
    } else {
      const unchecked = row.output.images ?? [];
      if (unchecked.length) parts.push(el("p", { class: "faint", text: `${unchecked.map((one) => one.path).join(", ")}: could not be checked and is not shown here` }));
      const players = (row.output.media ?? []).map(player).filter(Boolean);
      parts.push(el("h3", { text: "Answer" }), ...players.map((each) => el("div", { class: "frame" }, each)), el("pre", { class: "text", text: answerOf(row) || "empty answer" }));
    }
    const { output } = row;
    if (output?.reasoning) parts.push(folded(`Reasoning (${plural(output.reasoning.trim().split(/\s+/).length, "word")})`, output.reasoning));
    if (output?.tool_calls?.length) parts.push(folded(`Tool calls (${output.tool_calls.length})`, pretty(output.tool_calls), true));
    if (output?.parsed !== null && output?.parsed !== undefined) parts.push(folded("Parsed", pretty(output.parsed), true));
    for (const [place, choice] of (output?.choices ?? []).entries()) parts.push(folded(`Choice ${place + 1}`, choice.text ?? pretty(choice)));
    if (output?.missing?.length) parts.push(folded("Pictures or sounds that could not be had", pretty(output.missing), true));
    return first ? parts : [...parts, ...asked];
  }

  side(row) {
    const facts = [];
    const fact = (name, value) => value !== null && value !== undefined && value !== "" && facts.push(el("dt", { text: name }), el("dd", { text: value }));
    fact("Model", row.model);
    if (row.seconds !== undefined) fact("Seconds", seconds(row.seconds));
    fact("Attempts", row.attempts);
    if (row.ambiguous) fact("May be paid twice", plural(row.ambiguous, "send"));
    const { usage } = row;
    if (usage) {
      if (usage.input_tokens !== null) fact("Tokens in", whole(usage.input_tokens) + (usage.cache_read_tokens ? ` (${whole(usage.cache_read_tokens)} from the cache)` : ""));
      if (usage.output_tokens !== null) fact("Tokens out", whole(usage.output_tokens));
    }
    fact("Finish", row.output?.finish_reason);
    fact("Flags", (row.output?.flags ?? []).map(flagWords).join(", "));
    const started = row.started_at ?? row.failed_at;
    if (started) fact(row.error ? "Failed at" : "Started", clock(Date.parse(started) / 1000));
    for (const picture of row.output?.images ?? []) fact("Picture", `${picture.width ?? "?"} × ${picture.height ?? "?"} ${picture.format}, ${whole(picture.bytes / 1024)} kB`);
    for (const file of row.output?.media ?? []) fact("File", `${file.path} (${file.type}, ${size(file.bytes)})`);
    fact("File", row.output?.images?.[0]?.path ?? row.output?.path);
    if (row.error) {
      fact("Status", row.error.status);
      fact("Code", row.error.code);
      fact("Request", row.error.request_id);
    }
    fact("Task", row.task_id);
    fact("Replica", row.replica);
    fact("Same as", row.shared_with);
    for (const [name, value] of Object.entries(row.params ?? {})) fact(name, shown(value));
    for (const [name, value] of Object.entries(row)) if (!KNOWN_FIELDS.has(name)) fact(name, shown(value));
    return [
      badges(row).length ? el("div", { class: "foot" }, badges(row)) : null,
      this.markBar(row),
      el("dl", {}, facts),
      row._scores ? [el("h3", { text: "Checks" }), el("dl", {}, Object.entries(row._scores).map(([name, score]) => [el("dt", { text: name }), el("dd", { text: scoreWords(score) })]))] : null,
      row._log?.length ? [el("h3", { text: "What happened" }), this.log(row)] : null,
      row.system ? folded("System prompt", row.system) : null,
      Object.keys(row.vars ?? {}).length ? folded("Columns", Object.entries(row.vars).map(([name, value]) => `${name}: ${shown(value)}`).join("\n")) : null,
      el("h3", { text: "Copy" }),
      el(
        "div",
        { class: "buttons" },
        answerOf(row) ? this.copyButton("answer", () => answerOf(row)) : null,
        this.copyButton("YAML entry", () => yamlEntry(row)),
        meta.kind === "image" ? this.copyButton("A1111 text", () => a1111(row)) : null,
        this.copyButton("curl", () => curl(row)),
        this.copyButton("JSON", () => pretty(plain(row))),
        this.copyButton("link", () => location.href),
      ),
    ];
  }

  markBar(row) {
    const note = el("input", { class: "note", placeholder: "a note", "aria-label": "Note", value: marks.of(row)?.note ?? "" });
    note.addEventListener("change", () => marks.set(row, undefined, note.value.trim()));
    return el("div", { class: "marks" }, ["1", "2", "3", "4", "5", "x"].map((mark) => this.markButton(mark, mark === "x" ? "✕" : mark)), note);
  }

  markButton(mark, text) {
    const chosen = marks.of(this.row)?.mark === mark;
    return el("button", { type: "button", class: `mark-button${chosen ? " chosen" : ""}`, "aria-pressed": String(chosen), "aria-label": `Mark ${mark}`, title: `Mark (${mark})`, text, on: { click: () => this.mark(mark) } });
  }

  mark(mark) {
    marks.set(this.row, mark);
    this.draw();
  }

  log(row) {
    const rows = [el("li", {}, el("span", { class: "faint", text: "0 s" }), ` sent first${row.started_at ? ` at ${clock(Date.parse(row.started_at) / 1000, false)}` : ""}`)];
    const start = row.started_at ? Date.parse(row.started_at) / 1000 - meta.timeline.start : row._log[0][0];
    for (const [at, event, kind, wait] of row._log) {
      const words = `${EVENTS[event] ?? event}${kind ? `: ${kind}` : ""}${wait ? `, waited ${seconds(wait)}` : ""}`;
      rows.push(el("li", {}, el("span", { class: "faint", text: `+${seconds(Math.max(0, at - start))}` }), ` ${words}`));
    }
    return el("ol", { class: "log" }, rows);
  }

  copyButton(name, text) {
    return el("button", { type: "button", class: "small-button", text: name, on: { click: (event) => this.copied(text(), event.target) } });
  }

  async copied(text, button) {
    await copy(text);
    if (!button) return;
    const name = button.textContent;
    button.textContent = "copied";
    setTimeout(() => (button.textContent = name), 1200);
  }
}

function folded(title, text, code = false) {
  return el("details", {}, el("summary", { text: title }), el("pre", { class: code ? "text code" : "text", text }));
}

function scoreWords({ verdict, value, expected, reason }) {
  const told = [verdict];
  if (value !== undefined && expected !== undefined) told.push(`${shown(value)}, expected ${shown(expected)}`);
  else if (value !== undefined && value !== 0 && value !== 1) told.push(shown(value));
  if (reason) told.push(reason);
  return told.join(" · ");
}

const pretty = (value) => JSON.stringify(value, null, 2);

function plain(row) {
  return Object.fromEntries(Object.entries(row).filter(([name]) => !name.startsWith("_")));
}

/** The item as an entry of a job's `prompts:`; JSON texts are YAML, too. */
function yamlEntry(row) {
  const lines = [`- id: ${JSON.stringify(row.id)}`, `  prompt: ${JSON.stringify(row.prompt)}`];
  const params = Object.entries(row.params ?? {});
  if (params.length) lines.push(`  params: ${JSON.stringify(row.params)}`);
  return `${lines.join("\n")}\n`;
}

/** The text that image tools read as `parameters`. */
function a1111(row) {
  const { negative_prompt: negative, seed, size, steps, guidance, cfg_scale: scale, sampler, ...others } = row.params ?? {};
  const picture = picturesOf(row)[0];
  const told = { Steps: steps, Sampler: sampler, "CFG scale": scale ?? guidance, Seed: seed, Size: picture ? `${picture.width}x${picture.height}` : size, Model: row.model, ...others };
  const list = Object.entries(told).filter(([, value]) => value !== undefined).map(([name, value]) => `${name}: ${shown(value)}`);
  return [row.prompt, ...(negative ? [`Negative prompt: ${negative}`] : []), list.join(", ")].join("\n");
}

/** The request as a command, with the key's place left open. */
function curl(row) {
  const provider = meta.definition.provider ?? {};
  const { dialect = "openai-chat", base_url: base = "https://example.invalid/v1" } = provider;
  const messages = row.messages ?? [...(row.system ? [{ role: "system", content: row.system }] : []), { role: "user", content: row.prompt }];
  const path = { "openai-chat": "/chat/completions", "anthropic-messages": "/v1/messages", "modelscope-images": "/images/generations", "openai-images": "/images/generations" }[dialect];
  const body = dialect.endsWith("images") ? { model: row.model, prompt: row.prompt, ...row.params } : { model: row.model, messages, ...row.params };
  if (dialect === "anthropic-messages" && row.system && !row.messages) Object.assign(body, { messages: messages.slice(1), system: row.system });
  const key = dialect === "anthropic-messages" ? '-H "x-api-key: $API_KEY" -H "anthropic-version: 2023-06-01"' : '-H "Authorization: Bearer $API_KEY"';
  const quoted = `'${JSON.stringify(body, null, 2).replaceAll("'", "'\\''")}'`;
  const extra = dialect === "modelscope-images" ? ' -H "X-ModelScope-Async-Mode: true"' : "";
  return `curl '${base.replaceAll("'", "")}${path}' -H 'Content-Type: application/json' ${key}${extra} -d ${quoted}\n`;
}
