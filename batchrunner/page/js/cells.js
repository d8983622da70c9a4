// What one item looks like: its picture or answer, small, with the facts below it.

import { el, seconds, shown, short } from "./dom.js";
import { meta, source } from "./data.js";
import { flagWords } from "./query.js";
import { marks, stars } from "./marks.js";

export const isPicture = () => meta.kind === "image";

/** The pictures of a row that can be shown: those that were checked. */
export const picturesOf = (row) => (row.output?.images ?? []).filter((picture) => picture.width !== null);

export function answerOf(row) {
  if (row.error) return row.error.message || row.error.class;
  const { text, tool_calls: calls, path } = row.output;
  if (text) return text;
  if (calls?.length) return calls.map((call) => `${call.name ?? "tool"}(${shown(call.arguments)})`).join("\n");
  if (row.output.media?.length) return row.output.media.map((file) => `${file.format}, ${size(file.bytes)}: ${file.path}`).join("\n");
  return path ?? "";
}

export const size = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

/** A video or a sound as the browser plays it, once it is asked to; null for what it does not play. */
export function player(file) {
  const kind = /^(video|audio)\/[\w.+-]+$/.exec(file.type)?.[1];
  if (!kind || !source.file) return null;
  const playing = el(kind, { class: "full", controls: true, preload: "none", src: source.file(file.path), "aria-label": file.path });
  playing.addEventListener("error", () => playing.replaceWith(el("span", { class: "gone", text: `${file.path} is not there, or this browser cannot play it` })), { once: true });
  return playing;
}

/** A thumbnail; where there is none, the picture itself. */
export function thumb(picture, attributes = {}) {
  const image = el("img", { alt: "", decoding: "async", ...attributes });
  image.src = source.thumb(picture.sha256);
  image.addEventListener(
    "error",
    () => {
      const whole = source.picture(picture.path, picture.sha256);
      if (image.getAttribute("src") === whole) gone(image, picture);
      else image.src = whole;
    },
    { once: false },
  );
  return image;
}

function gone(image, picture) {
  image.replaceWith(el("span", { class: "gone", text: `${picture.path} is not there` }));
}

/** Badges of a row: failed, flags, equal pictures, marks. */
export function badges(row, twins = 0) {
  const found = [];
  if (row._scores) found.push(verdictBadge(row));
  const mark = marks.of(row);
  if (mark?.mark) found.push(el("span", { class: "badge mark", text: stars(mark.mark), title: "your mark" }));
  if (mark?.note) found.push(el("span", { class: "badge mark", text: "✎", title: mark.note }));
  if (row.output?.truncated) found.push(badge("truncated", "the answer was cut at its limit of tokens"));
  for (const flag of row.output?.flags ?? []) found.push(badge(flagWords(flag)));
  if (row.recovered) found.push(badge("recovered", "a later process finished what an earlier one had begun"));
  if (row.ambiguous) found.push(badge("may be paid twice", `${row.ambiguous} sends got no clear answer`));
  if (twins > 1) found.push(el("span", { class: "badge quiet", text: `${twins} equal`, title: "other items of this prompt have the same content" }));
  return found;
}

function verdictBadge(row) {
  const word = row.pass === null ? "no verdict" : row.pass ? "pass" : "fail";
  const told = Object.entries(row._scores).map(([name, score]) => `${name}: ${score.verdict}${score.reason ? ` (${score.reason})` : ""}`);
  return el("span", { class: `badge verdict-${word.replace(" ", "-")}`, text: word, title: told.join("\n") });
}

const badge = (text, title) => el("span", { class: "badge", text, title });

export function factsLine(row) {
  const facts = [];
  if (row.seconds !== undefined) facts.push(seconds(row.seconds));
  if (row.usage?.output_tokens) facts.push(`${short(row.usage.output_tokens)} tok`);
  if (row.attempts > 1) facts.push(`${row.attempts} attempts`);
  return facts.join(" · ");
}

/** The inside of a cell for a row that is loaded. */
export function cellContent(row, { twins = 0, chars = 700 } = {}) {
  const foot = el("div", { class: "foot" }, el("span", { class: "facts", text: factsLine(row) }), badges(row, twins));
  if (row.error) {
    return [
      el("div", { class: "failed-text" }, el("b", { text: `failed: ${row.error.class}` }), el("span", { text: answerOf(row).slice(0, 300) })),
      foot,
    ];
  }
  const pictures = picturesOf(row);
  if (pictures.length) {
    const more = pictures.length > 1 ? el("span", { class: "count", text: `+${pictures.length - 1}` }) : null;
    return [el("div", { class: "picture" }, thumb(pictures[0], { alt: row.prompt.slice(0, 120) }), more), foot];
  }
  const unchecked = (row.output.images ?? []).length > 0;
  const text = unchecked ? `${row.output.images[0].path}: could not be checked, not shown` : answerOf(row);
  return [el("div", { class: `answer${text ? "" : " faint"}`, text: text ? text.slice(0, chars) : "empty answer" }), foot];
}

export const STATE_WORDS = {
  pending: "not sent",
  sending: "under way",
  accepted: "remote task",
  waiting: "waits to be sent again",
  held: "held",
  "cut off": "cut off",
  lost: "lost",
  none: "not in the job",
};

export function missingContent({ state, why }) {
  return el("div", { class: `missing ${state === "none" ? "none" : ""}` }, el("b", { text: STATE_WORDS[state] ?? state }), el("span", { text: why === STATE_WORDS[state] ? "" : why }));
}

/** How many rows of its group have the same content; 0 for those without any. */
export function twinsOf(number, columns, groups) {
  const hash = columns.hash[number];
  if (!hash) return 0;
  let twins = 0;
  for (const other of groups[columns.group[number]]) if (columns.hash[other] === hash) twins++;
  return twins;
}
