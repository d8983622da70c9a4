// Which rows are shown, in which order, and in which columns. Works on the index alone; the search on texts is `data.search`.

import { data, meta } from "./data.js";
import { marks } from "./marks.js";
import { own, plural, shown, whole } from "./dom.js";

const MOST_COLUMNS = 8;
const ALONE = 12; // columns of a job with one axis, where tabs would be all there is

export const VERDICTS = ["pass", "fail", "no verdict"]; // of the checks, by number from 1 in the index

export const SORTS = {
  index: "job order",
  ms: "seconds",
  output: "tokens out",
  input: "tokens in",
  chars: "length",
  attempts: "attempts",
  started: "time",
};

/** Everything that can be filtered by: a name, a title, and for each row the numbers of its values. */
export function facets() {
  const c = data.columns;
  const found = [
    { name: "state", title: "State", values: ["done", ...meta.failureClasses.map((kind) => `failed: ${kind}`)], of: (row) => [c.failure[row]] },
  ];
  meta.axes.forEach((axis, place) => {
    const title = axis.name === "model" ? "Model" : axis.name;
    found.push({ name: `x.${axis.name}`, title, values: axis.values.map(shown), of: (row) => [c[`axis${place}`][row]] });
  });
  if (!meta.axes.some((axis) => axis.name === "model") && meta.models.length > 1) {
    found.push({ name: "model", title: "Model", values: meta.models.map(shown), of: (row) => [c.model[row]] });
  }
  if (meta.flags.length) {
    found.push({ name: "flag", title: "Flag", values: meta.flags.map(flagWords), of: (row) => bits(c.flags[row]) });
  }
  if (c.verdict.some((verdict) => verdict)) {
    found.push({ name: "checks", title: "Checks", values: VERDICTS, of: (row) => (c.verdict[row] ? [c.verdict[row] - 1] : []) });
  }
  found.push({ name: "mark", title: "Mark", values: ["1", "2", "3", "4", "5", "x", "note"], of: (row) => marks.placesOf(row) });
  return found;
}

export const flagWords = (flag) => flag.replaceAll("_", " ");

function bits(number) {
  const found = [];
  for (let place = 0; number; place++, number >>= 1) if (number & 1) found.push(place);
  return found;
}

/** How many rows have each value of a facet. */
export function countsOf(facet) {
  const counts = new Array(facet.values.length).fill(0);
  for (let row = 0; row < data.count; row++) for (const place of facet.of(row)) counts[place]++;
  return counts;
}

/** 1 for each row that passes the filters: any of the values of a facet, all of the facets. */
export function passing(filters, searched) {
  const mask = searched ? Uint8Array.from(searched) : new Uint8Array(data.count).fill(1);
  for (const facet of facets()) {
    const wanted = new Set((filters[facet.name] ?? []).map((value) => facet.values.indexOf(value)));
    if (!wanted.size) continue;
    for (let row = 0; row < mask.length; row++) if (mask[row] && !facet.of(row).some((place) => wanted.has(place))) mask[row] = 0;
  }
  for (const [name, column, times] of [["slower", "ms", 1000], ["longer", "chars", 1]]) {
    const least = Number(filters[name]?.[0]) * times;
    if (least > 0) for (let row = 0; row < mask.length; row++) if (data.columns[column][row] <= least) mask[row] = 0;
  }
  return mask;
}

/** Where each axis goes: across as columns, down as rows, or a tab of which one value shows at a time. */
export function roles(chosen) {
  const found = meta.axes.map((axis) => own(chosen, axis.name));
  let columns = 1;
  meta.axes.forEach((axis, place) => {
    if (found[place] === "across") columns *= axis.values.length;
  });
  const order = meta.axes.map((axis, place) => place).filter((place) => !found[place]);
  const size = (place) => (meta.axes[place].name === "model" ? 0 : meta.axes[place].values.length); // models come first
  order.sort((a, b) => size(a) - size(b));
  for (const place of order) {
    const fits = columns * meta.axes[place].values.length <= (meta.axes.length === 1 ? ALONE : MOST_COLUMNS);
    found[place] = fits ? "across" : meta.axes.length === 1 ? "down" : "tab";
    if (found[place] === "across") columns *= meta.axes[place].values.length;
  }
  return found;
}

/** Combinations of the values of the axes with a role; each is a list of numbers, -1 where an axis has another role. */
function combinations(rolesNow, role, allowed) {
  let found = [meta.axes.map(() => -1)];
  meta.axes.forEach((axis, place) => {
    if (rolesNow[place] !== role) return;
    const values = axis.values.map((_, number) => number).filter((number) => !allowed[place] || allowed[place].has(number));
    found = found.flatMap((one) => values.map((value) => one.with(place, value)));
  });
  return found;
}

/** The table that Results and Compare show: `columns`, `entries`, and `rowAt(entry, column)`. */
export function layout(view, mask) {
  const rolesNow = roles(view.roles);
  const allowed = meta.axes.map((axis) => {
    const wanted = view.filters[`x.${axis.name}`];
    return wanted?.length ? new Set(wanted.map((value) => axis.values.map(shown).indexOf(value))) : null;
  });
  const tabs = meta.axes.map((axis, place) => {
    if (rolesNow[place] !== "tab") return -1;
    const wanted = axis.values.map(shown).indexOf(own(view.tabs, axis.name));
    return wanted >= 0 ? wanted : allowed[place] ? [...allowed[place]][0] : 0;
  });
  const columns = combinations(rolesNow, "across", allowed);
  const downs = combinations(rolesNow, "down", allowed);
  const groups = ordered(view, mask, (row) => tabs.every((value, place) => value < 0 || data.columns[`axis${place}`][row] === value));
  const entries = [];
  const axisColumns = meta.axes.map((_, place) => data.columns[`axis${place}`]);
  const isDown = (row, down) => axisColumns.every((values, place) => rolesNow[place] !== "down" || values[row] === downs[down][place]);
  const all = mask.every((passes) => passes);
  for (const group of groups) {
    for (let down = 0; down < downs.length; down++) {
      if (all || downs.length === 1 || data.groups[group].some((row) => mask[row] && isDown(row, down))) entries.push({ group, down });
    }
  }
  const rowAt = (entry, column) => {
    const { group, down } = entries[entry];
    for (const row of data.groups[group] ?? []) {
      let fits = true;
      for (let place = 0; place < axisColumns.length && fits; place++) {
        const wanted = rolesNow[place] === "across" ? columns[column][place] : rolesNow[place] === "down" ? downs[down][place] : tabs[place];
        fits = axisColumns[place][row] === wanted;
      }
      if (fits) return row;
    }
    return -1;
  };
  return { columns, downs, entries, rowAt, mask, rolesNow, tabs, title: (column) => titleOf(columns[column]), down: (entry) => titleOf(downs[entries[entry].down]) };
}

function titleOf(combination) {
  return combination
    .map((value, place) => (value < 0 ? null : { name: meta.axes[place].name, value: shown(meta.axes[place].values[value]) }))
    .filter(Boolean);
}

function ordered(view, mask, inTab) {
  const [, descending, name] = /^(-?)(.*)$/.exec(view.sort);
  const column = own(data.columns, name) ?? data.columns.index;
  const found = [];
  const figures = [];
  data.groups.forEach((rows, group) => {
    let figure = null;
    for (const row of rows) {
      if (!mask[row] || !inTab(row)) continue;
      const value = column[row];
      figure = figure === null ? value : descending ? Math.max(figure, value) : Math.min(figure, value);
    }
    if (figure !== null) {
      figures[group] = figure;
      found.push(group);
    }
  });
  const inOrder = view.sort === "index" && found.every((group, place) => !place || figures[found[place - 1]] <= figures[group]);
  if (!inOrder) found.sort((a, b) => (descending ? figures[b] - figures[a] : figures[a] - figures[b]) || a - b);
  return found;
}

/** How many items have no row: they are neither done nor failed. */
export function unanswered() {
  const { items } = meta;
  return Math.max(0, items.total - items.done - items.failed);
}

/** "1,204 items have no answer: 3 held, 1,201 still to send". */
export function unansweredWords() {
  const number = unanswered();
  const words = { pending: "still to send", accepted: "with a remote task", held: "held", timed_out: "timed out", lost: "lost" };
  const parts = Object.entries(words).filter(([name]) => meta.items[name]).map(([name, word]) => (meta.items[name] === number ? word : `${whole(meta.items[name])} ${word}`));
  return `${plural(number, "item")} ${number === 1 ? "has" : "have"} no answer${parts.length ? `: ${parts.join(", ")}` : ""}`;
}

/** Why there is no row in a cell. */
export function missing(groupRows, wantedSuffix) {
  const first = data.now(groupRows[0]);
  const known = first && wantedSuffix !== null ? own(meta.open, first.prompt_id + wantedSuffix) : undefined;
  if (known) return { state: known[0], why: known[1] };
  const { items } = meta;
  const left = items.total - items.done - items.failed - items.lost;
  if (left <= 0 && items.lost) return { state: "lost", why: "its row is gone from the directory" };
  if (left <= 0) return { state: "none", why: "not in the job" };
  if (items.held === left) return { state: "held", why: "waits for a decision" };
  return { state: "pending", why: meta.state === "running" ? "not sent yet" : "not sent" };
}

export function percentile(sorted, share) {
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : 0;
}
