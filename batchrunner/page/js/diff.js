// Differences between two texts, word by word: Myers' algorithm, with a bound on its work.

const MOST_EDITS = 1200;

/** Words, and the spaces and signs between them. */
export const tokens = (text) => text.match(/[\p{L}\p{N}_]+|\s+|[^\p{L}\p{N}_\s]/gu) ?? [];

/**
 * [[kind, text], …] that lead from `before` to `after`: kind is "same", "gone" or "new".
 * Texts that differ nearly everywhere come as one "gone" and one "new".
 */
export function wordDiff(before, after) {
  const a = tokens(before);
  const b = tokens(after);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const middle = edits(a.slice(start, a.length - end), b.slice(start, b.length - end));
  const parts = [["same", a.slice(0, start).join("")], ...middle, ["same", end ? a.slice(-end).join("") : ""]];
  return joined(parts.filter(([, text]) => text));
}

function edits(a, b) {
  if (!a.length || !b.length) return [["gone", a.join("")], ["new", b.join("")]];
  const most = Math.min(a.length + b.length, MOST_EDITS);
  const trace = [];
  let reach = new Map([[1, 0]]);
  for (let d = 0; d <= most; d++) {
    const next = new Map();
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && (reach.get(k - 1) ?? -1) < (reach.get(k + 1) ?? -1));
      let x = down ? reach.get(k + 1) : reach.get(k - 1) + 1;
      if (x === undefined || x > a.length || x - k > b.length) continue;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
      next.set(k, x);
      if (x >= a.length && x - k >= b.length) return walkBack(trace, reach, a, b, d);
    }
    trace.push(reach);
    reach = next;
  }
  return [["gone", a.join("")], ["new", b.join("")]];
}

function walkBack(trace, last, a, b, d) {
  const parts = [];
  let x = a.length;
  let y = b.length;
  let reach = last;
  for (let step = d; step >= 0; step--) {
    const k = x - y;
    const down = k === -step || (k !== step && (reach.get(k - 1) ?? -1) < (reach.get(k + 1) ?? -1));
    const before = step === 0 ? 0 : down ? reach.get(k + 1) : reach.get(k - 1);
    const beforeY = step === 0 ? 0 : before - (down ? k + 1 : k - 1);
    while (x > before && y > beforeY && a[x - 1] === b[y - 1]) {
      parts.push(["same", a[x - 1]]);
      x--;
      y--;
    }
    if (step > 0) {
      if (down) parts.push(["new", b[--y]]);
      else parts.push(["gone", a[--x]]);
    }
    reach = trace[step - 1];
  }
  return parts.reverse();
}

/** Neighbours of one kind in one part, what is gone before what is new; a mere space between changes belongs to them. */
function joined(parts) {
  const found = [];
  let gone = "";
  let fresh = "";
  const flush = () => {
    if (gone) found.push(["gone", gone]);
    if (fresh) found.push(["new", fresh]);
    gone = fresh = "";
  };
  parts.forEach(([kind, text], place) => {
    const changed = gone || fresh;
    if (kind === "gone") gone += text;
    else if (kind === "new") fresh += text;
    else if (changed && /^\s+$/.test(text) && (parts[place + 1]?.[0] ?? "same") !== "same") {
      gone += text;
      fresh += text;
    } else if (!changed && found.at(-1)?.[0] === "same") found.at(-1)[1] += text;
    else {
      flush();
      found.push(["same", text]);
    }
  });
  flush();
  return found;
}
