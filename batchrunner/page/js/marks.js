// Marks that a viewer gives to items: 1 to 5, x, a note. They stay in the browser until they are downloaded.

import { data, meta } from "./data.js";

const place = `batchrunner-marks-${meta.run}`;
const PLACES = ["1", "2", "3", "4", "5", "x"];

function kept() {
  try {
    return new Map(Object.entries(JSON.parse(localStorage.getItem(place)) ?? {}));
  } catch {
    return new Map(); // storage is off, or holds something else
  }
}

export const marks = {
  /** By the item's key: {id, index, mark, note}. */
  all: kept(),
  byIndex: null,
  listeners: [],

  of(row) {
    return row ? this.all.get(row.key) : undefined;
  },

  /** Gives a mark, or takes the same one back; `note` changes the note alone. */
  set(row, mark, note) {
    const before = this.of(row) ?? { id: row.id, index: row.index, mark: "", note: "" };
    const after = { ...before, id: row.id, index: row.index };
    if (note !== undefined) after.note = note;
    if (mark !== undefined) after.mark = before.mark === mark ? "" : mark;
    if (after.mark || after.note) this.all.set(row.key, after);
    else this.all.delete(row.key);
    this.save();
    for (const told of this.listeners) told(row);
  },

  clear() {
    this.all.clear();
    this.save();
    for (const told of this.listeners) told();
  },

  save() {
    this.byIndex = null;
    try {
      localStorage.setItem(place, JSON.stringify(Object.fromEntries(this.all)));
    } catch {
      // marks last as long as the page is open
    }
  },

  /** The numbers of a row's values in the facet of marks. */
  placesOf(row) {
    this.byIndex ??= new Map([...this.all.values()].map((mark) => [mark.index, mark]));
    const mark = this.byIndex.get(data.columns.index[row]);
    if (!mark) return [];
    return [...(mark.mark ? [PLACES.indexOf(mark.mark)] : []), ...(mark.note ? [PLACES.length] : [])];
  },

  /** The file `marks.jsonl`. */
  lines() {
    const rows = [...this.all].sort((a, b) => a[1].index - b[1].index);
    return rows.map(([key, mark]) => `${JSON.stringify({ id: mark.id, key, mark: mark.mark || null, note: mark.note || null })}\n`).join("");
  },
};

export const stars = (mark) => (mark === "x" ? "✕" : mark ? `★${mark}` : "");
