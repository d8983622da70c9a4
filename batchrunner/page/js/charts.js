// Charts as inline SVG: bars and lines over time, bars of a histogram, and spans of lanes. Colours come from the style.

import { clock, el, svg } from "./dom.js";

const WIDTH = 960;

/** A figure with a title, a legend and a drawing. */
export function figure(title, note, drawing, legend = []) {
  return el(
    "figure",
    { class: "chart" },
    el(
      "figcaption",
      {},
      el("b", { text: title }),
      note ? el("span", { class: "faint", text: note }) : null,
      legend.length ? el("span", { class: "legend" }, legend.map(([name, kind]) => el("span", {}, el("i", { class: `key ${kind}` }), name))) : null,
    ),
    drawing,
  );
}

function frame(height, label) {
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label, preserveAspectRatio: "none", class: "drawing", style: { "--drawn": `${height}px` } });
}

/** The axis of time as text below drawings, so that it is not stretched. */
export function timeAxis(from, to) {
  const ticks = 5;
  const withDay = to - from > 86400;
  const tenths = (at) => (to - from < 12 ? `.${Math.floor((at % 1) * 10)}` : "");
  const marks = Array.from({ length: ticks }, (_, place) => from + ((to - from) * place) / (ticks - 1));
  return el("div", { class: "time-axis faint small" }, marks.map((at) => el("span", { text: withDay ? clock(at).slice(5, 16) : clock(at, false).slice(0, to - from > 3600 ? 5 : 8) + tenths(at) })));
}

/** Areas over time, one above the other: series of equal length. */
export function bars(series, label, height = 88) {
  const steps = Math.max(1, ...series.map(([, values]) => values.length));
  const sums = Array.from({ length: steps }, (_, step) => series.reduce((sum, [, values]) => sum + (values[step] ?? 0), 0));
  const highest = Math.max(...sums, 1e-9);
  const drawing = frame(height, label);
  const wide = WIDTH / steps;
  const base = new Array(steps).fill(0);
  for (const [kind, values] of series) {
    let path = "";
    values.forEach((value, step) => {
      if (!value) return;
      const tall = (value / highest) * (height - 2);
      path += `M${(step * wide).toFixed(2)} ${(height - base[step] - tall).toFixed(2)}h${Math.max(0.8, wide - (wide > 3 ? 0.8 : 0)).toFixed(2)}v${tall.toFixed(2)}h${(-Math.max(0.8, wide - (wide > 3 ? 0.8 : 0))).toFixed(2)}z`;
      base[step] += tall;
    });
    drawing.append(svg("path", { class: kind, d: path }));
  }
  return { drawing, highest };
}

/** A line over time. */
export function line(values, kind, label, height = 88) {
  const highest = Math.max(...values, 1e-9);
  const wide = WIDTH / Math.max(1, values.length);
  const points = values.map((value, step) => `${(step * wide).toFixed(2)} ${(height - 1 - (value / highest) * (height - 3)).toFixed(2)}`);
  const drawing = frame(height, label);
  drawing.append(svg("path", { class: `area ${kind}`, d: `M0 ${height}L${points.join("L")}L${WIDTH} ${points.at(-1)?.split(" ")[1]}V${height}z` }));
  drawing.append(svg("path", { class: `stroke ${kind}`, d: `M${points.join("L")}L${WIDTH} ${points.at(-1)?.split(" ")[1]}` }));
  return { drawing, highest };
}

/** Spans of one lane over time: [[from, to, kind, title], …]. */
export function spans(list, from, to, label, height = 18) {
  const drawing = frame(height, label);
  const scale = WIDTH / Math.max(1e-9, to - from);
  for (const [start, end, kind, title, strength = 1] of list) {
    const wide = Math.max(1.5, (Math.min(end, to) - start) * scale);
    const rect = svg("rect", { class: kind, x: ((start - from) * scale).toFixed(2), y: 0, width: wide.toFixed(2), height, "fill-opacity": strength.toFixed(2) });
    if (title) rect.append(svg("title", { text: title }));
    drawing.append(rect);
  }
  return drawing;
}

/** Counts of values in bins of equal size, up to the 99th percentile: {counts, width, most}. */
export function histogram(sorted, bins = 40) {
  const most = sorted[Math.min(sorted.length - 1, Math.floor(0.99 * sorted.length))] || 1;
  const width = most / bins || 1;
  const counts = new Array(bins).fill(0);
  for (const value of sorted) counts[Math.min(bins - 1, Math.floor(value / width))]++;
  return { counts, width, most };
}
