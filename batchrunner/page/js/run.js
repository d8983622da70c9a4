// How the run went: lanes over time, throughput, tokens, cost, seconds, waits, processes.

import { clock, el, money, plainTable, plural, put, seconds, short, shown, whole } from "./dom.js";
import { data, meta } from "./data.js";
import { percentile } from "./query.js";
import { bars, figure, histogram, line, spans, timeAxis } from "./charts.js";
import { linkTo } from "./address.js";

const kindWords = (kind) => kind.replaceAll("_", " ");

export class Run {
  constructor() {
    this.node = el("section", { class: "run page-width", "aria-label": "Run" });
  }

  show() {
    const { timeline } = meta;
    put(
      this.node,
      this.tiles(),
      this.notes(),
      timeline.steps ? [this.lanes(timeline), this.throughput(timeline)] : el("p", { class: "state-note", text: "The ledger has nothing yet." }),
      this.durations(),
      this.waits(timeline),
      this.batches(),
      this.processes(timeline),
      el("details", { class: "definition" }, el("summary", { text: `The job as it was resolved${meta.jobFile ? ` (${meta.jobFile})` : ""}` }), el("pre", { class: "text code", text: JSON.stringify(meta.definition, null, 2) })),
      el("p", { class: "faint small", text: `Run directory ${meta.folder} · first run ${meta.created} · page written ${meta.written} by batchrunner ${meta.program}` }),
    );
  }

  tiles() {
    const { items, sends, usage, timeline } = meta;
    const tile = (name, value, note, href) => {
      const small = (text) => (text ? el("span", { class: "faint small", text }) : null);
      const inside = [small(name), el("b", { text: value }), small(note)];
      return href ? el("a", { class: "tile", href }, inside) : el("div", { class: "tile" }, inside);
    };
    const failures = linkTo({ view: "failures", q: "", filters: {}, rest: {} });
    const cost = sum(timeline.lanes.flatMap((lane) => lane.cost ?? []));
    const spent = meta.budget.find((entry) => entry.unit === "money");
    const took = timeline.processes.reduce((total, process) => total + ((process.to ?? timeline.end) - process.from), 0);
    return el(
      "div",
      { class: "tiles" },
      tile("done", whole(items.done), `of ${whole(items.total)}`, linkTo({ view: "results", q: "", filters: { state: ["done"] }, rest: {} })),
      items.failed ? tile("failed", whole(items.failed), null, failures) : null,
      ...[["accepted", meta.batches.length ? "in batches" : "remote tasks"], ["held", "held"], ["timed_out", "timed out"], ["lost", "lost"], ["pending", "still to send"]].filter(([name]) => items[name]).map(([name, words]) => tile(words, whole(items[name]), null, failures)),
      tile("requests", whole(sends.total), sends.refused ? `${whole(sends.refused)} rejected, not billed` : null),
      sends.possible_duplicates ? tile("may be paid twice", whole(sends.possible_duplicates), "no clear reply came") : null,
      usage.images ? tile("pictures", whole(usage.images)) : null,
      usage.output_tokens !== null ? tile("tokens", `${short(usage.input_tokens ?? 0)} in`, `${short(usage.output_tokens)} out`) : null,
      cost || spent ? tile("cost", money(spent?.spent ?? cost, meta.currency), spent?.limit ? `of ${money(spent.limit, meta.currency)}` : null) : null,
      tile("time at work", seconds(took), plural(timeline.processes.length, "process", "processes")),
    );
  }

  notes() {
    const lines = [meta.message, ...meta.notes, meta.timeline.problem && `A part of the ledger could not be read: ${meta.timeline.problem}`].filter(Boolean);
    for (const lane of meta.lanes) if (lane.state !== "open") lines.push(`${laneName(lane)} ${lane.state}${lane.until ? ` until ${lane.until}` : ""}${lane.reason ? `: ${lane.reason}` : ""}`);
    for (const group of meta.held) lines.push(`${whole(group.count)} held: ${group.message || group.kind}`);
    return lines.length ? el("ul", { class: "notes" }, lines.map((text) => el("li", { text }))) : null;
  }

  lanes(timeline) {
    const from = timeline.start;
    const to = Math.max(timeline.end, from + timeline.steps * timeline.step);
    const rows = timeline.lanes.map((lane) => {
      const flying = cumulative(lane.flying ?? []);
      const most = Math.max(1, ...flying);
      const list = [];
      for (let step = 0; step < timeline.steps; step++) {
        const busy = Math.max(flying[step] ?? 0, lane.sent?.[step] ?? 0, lane.done?.[step] ?? 0);
        if (busy <= 0) continue;
        const strength = 0.4 + 0.2 * Math.ceil(3 * Math.min(1, busy / most));
        const start = from + step * timeline.step;
        const before = list.at(-1);
        if (before && before[4] === strength && Math.abs(before[1] - start) < timeline.step / 100) before[1] = start + timeline.step;
        else list.push([start, start + timeline.step, "sending", null, strength]);
      }
      for (const park of timeline.parks) {
        if ((park.model && park.model !== lane.model) || park.account !== lane.account) continue;
        const end = park.to ?? park.until ?? to;
        list.push([park.from, end, /quota|budget|points/.test(park.kind) ? "quota" : "throttled", `${kindWords(park.kind)}: ${park.reason} (${seconds(end - park.from)})`]);
      }
      const name = laneName(lane) || "lane";
      return el("div", { class: "lane" }, el("span", { class: "lane-name", text: name, title: name }), spans(list, from, to, `activity of ${name}`));
    });
    const processes = timeline.processes.map((process) => [process.from, process.to ?? to, process.clean === false ? "cut" : "process", `${clock(process.from)} to ${process.to ? clock(process.to) : "now"}${process.clean === false ? ", ended without a clean end" : ""}`]);
    rows.push(el("div", { class: "lane" }, el("span", { class: "lane-name faint", text: "process" }), spans(processes, from, to, "processes", 6)));
    return el(
      "figure",
      { class: "chart" },
      el("figcaption", {}, el("b", { text: "Lanes" }), el("span", { class: "legend" }, [["sending", "sending"], ["waits for a quota", "quota"], ["waits otherwise", "throttled"], ["process", "process"], ["cut off", "cut"]].map(([name, kind]) => el("span", {}, el("i", { class: `key ${kind}` }), name)))),
      rows,
      el("div", { class: "lane" }, el("span", { class: "lane-name" }), timeAxis(from, to)),
    );
  }

  throughput(timeline) {
    const to = timeline.start + timeline.steps * timeline.step;
    const total = (name) => Array.from({ length: timeline.steps }, (_, step) => timeline.lanes.reduce((sum, lane) => sum + (lane[name]?.[step] ?? 0), 0));
    const perMinute = (values) => values.map((value) => (value * 60) / timeline.step);
    const done = bars([["done", perMinute(total("done"))], ["bad", perMinute(total("bad"))]], "items a minute");
    const flying = line(cumulative(total("flying")).map((value) => Math.max(0, value)), "flying", "requests in flight");
    const tokens = bars([["input", total("input")], ["output", total("output")]], "tokens");
    const cost = cumulative(total("cost"));
    const axis = () => timeAxis(timeline.start, to);
    return el(
      "div",
      { class: "chart-grid" },
      figure("Items a minute", `most ${short(done.highest)}`, [done.drawing, axis()], [["done", "done"], ["no result", "bad"]]),
      figure("In flight", `most ${short(flying.highest)}`, [flying.drawing, axis()]),
      tokens.highest > 1 ? figure("Tokens", `most ${short(tokens.highest)} in ${seconds(timeline.step)}`, [tokens.drawing, axis()], [["in", "input"], ["out", "output"]]) : null,
      cost.at(-1) > 0 ? figure("Cost", money(cost.at(-1), meta.currency), [line(cost, "cost", "cost so far").drawing, axis()]) : null,
    );
  }

  durations() {
    const c = data.columns;
    const byModel = meta.models.map(() => []);
    for (let row = 0; row < data.count; row++) if (c.ms[row] >= 0 && !c.failure[row]) byModel[c.model[row]].push(c.ms[row] / 1000);
    const shownModels = byModel.map((values, model) => [values.sort((a, b) => a - b), model]).filter(([values]) => values.length).slice(0, 12);
    if (!shownModels.length) return null;
    const charts = shownModels.map(([values, model]) => {
      const { counts, width, most } = histogram(values);
      const { drawing } = bars([["done", counts]], `seconds of ${shown(meta.models[model])}`, 64);
      const ends = el("div", { class: "time-axis faint small" }, ["0", seconds(most / 2), seconds(width * counts.length)].map((text) => el("span", { text })));
      return figure(shown(meta.models[model]), `p50 ${seconds(percentile(values, 0.5))} · p95 ${seconds(percentile(values, 0.95))} · ${plural(values.length, "answer")}`, [drawing, ends]);
    });
    return [el("h2", { text: "Seconds of an item" }), el("div", { class: "chart-grid" }, charts)];
  }

  waits(timeline) {
    if (!timeline.waits.length) return [el("h2", { text: "Waits" }), el("p", { class: "faint", text: "Nothing had to wait: no request was refused or tried again, and no lane paused." })];
    const span = timeline.end - timeline.start;
    const rows = timeline.waits.toSorted((a, b) => b[2] - a[2] || b[3] - a[3]).map(([what, kind, number, waited]) => [kindWords(kind), what, number, [waited ? seconds(waited) : "–"], what === "lane waited" ? seconds(span) : "all sends"]);
    return [el("h2", { text: "Waits" }), plainTable("", ["why", "what", "times", "waited", "of"], rows)];
  }

  batches() {
    if (!meta.batches.length) return null;
    const rows = meta.batches.toReversed().map((b) => [b.id ?? `number ${b.number}`, b.model, b.stateWords, b.items, b.left, b.done, b.failed, b.returned, b.reason ?? (b.left && b.expires ? `expires ${b.expires}` : "")]);
    return [el("h2", { text: "Batches" }), plainTable("batches", ["batch", "model", "stands", "items", "left", "done", "failed", "sent again", "why"], rows)];
  }

  processes(timeline) {
    if (timeline.processes.length < 2) return null;
    const rows = timeline.processes.slice(-50).map((process) => [clock(process.from), process.to ? clock(process.to) : "at work", [seconds((process.to ?? timeline.end) - process.from)], process.to === undefined ? "" : process.clean ? "ended well" : "killed"]);
    return [el("h2", { text: "Processes" }), plainTable("", ["began", "ended", "took", "how"], rows)];
  }
}

function laneName(lane) {
  return [lane.account, lane.model].filter(Boolean).join(" · ");
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

function cumulative(values) {
  let total = 0;
  return values.map((value) => (total += value));
}
