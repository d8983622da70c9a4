// Rows and their index. Everything comes from one `source`, see the package's docstring for its members.

const KEPT_CHUNKS = 48;
const SEARCHED_CHARS = 40_000_000;

function block(id) {
  return document.getElementById(id)?.textContent ?? "";
}

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const plain = atob(text);
  const bytes = new Uint8Array(plain.length);
  for (let at = 0; at < plain.length; at++) bytes[at] = plain.charCodeAt(at);
  return bytes;
}

function inflated(text) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream);
}

const wholePage = () =>
  document.readyState === "loading"
    ? new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }))
    : Promise.resolve();

/** The source of a report: data blocks of this page, and scripts beside it where there are too many. */
function reportSource() {
  const meta = JSON.parse(block("meta"));
  const waiting = new Map();
  if (meta.beside) {
    window.__c = (stamp, number, text) => {
      const turn = waiting.get(number);
      if (stamp === meta.stamp) turn?.done(text);
      else turn?.failed(new Error("this page was written again: reload it"));
    };
  }
  const beside = (number) =>
    new Promise((done, failed) => {
      waiting.set(number, { done, failed });
      const script = document.createElement("script");
      script.src = `report/c${String(number).padStart(4, "0")}.js`;
      script.onerror = () => failed(new Error(`${script.getAttribute("src")} is missing: keep the folder beside the page`));
      script.onload = () => script.remove();
      document.head.append(script);
    });
  const place = (path) => meta.base + String(path).split("/").map(encodeURIComponent).join("/");
  return {
    meta,
    first: block("first"),
    index: async () => (await inflated(block("index"))).arrayBuffer(),
    async chunk(number) {
      if (meta.beside) return (await inflated(await beside(number))).text();
      if (!document.getElementById(`c${number}`)) await wholePage();
      return (await inflated(block(`c${number}`))).text();
    },
    picture(path, sha) {
      return meta.thumbs?.[sha.slice(0, 16)] ? this.thumb(sha) : place(path);
    },
    file: place,
    thumb(sha) {
      const within = meta.thumbs?.[sha.slice(0, 16)];
      return within ? `data:image/webp;base64,${within}` : place(`thumbs/${sha.slice(0, 2)}/${sha.slice(0, 16)}.webp`);
    },
    subscribe() {},
  };
}

export const source = window.batchrunnerSource ?? reportSource();
export let meta = source.meta;

const CHUNK = 256;

/** A row: HEAD and REST of its line put together again as it stands in the run's files. */
function rowOf(line, number) {
  const tab = line.indexOf("\t");
  const [id, prompt, answer, vars] = JSON.parse(line.slice(0, tab));
  const row = JSON.parse(line.slice(tab + 1));
  Object.assign(row, { id, prompt, vars, _row: number });
  if (row.error) row.error.message = answer;
  else if (row.output && meta.kind === "chat") row.output.text = answer;
  return row;
}

export const data = {
  count: 0,
  /** Int32Array of each column by its name. */
  columns: {},
  groups: [],
  lines: new Map(),
  rows: new Map(),
  loading: new Map(),

  async open() {
    const lines = source.first ? source.first.split("\n") : [];
    lines.forEach((line, number) => this.rows.set(number, rowOf(line, number)));
    this.take(await source.index());
  },

  take(buffer) {
    const { columns, rows } = meta;
    this.count = rows;
    columns.forEach((name, place) => (this.columns[name] = new Int32Array(buffer, place * rows * 4, rows)));
    const group = this.columns.group;
    this.groups = [];
    for (let row = 0; row < rows; row++) (this.groups[group[row]] ??= []).push(row);
  },

  /** Rows from number `from` on are new or changed. */
  changed(update) {
    meta = update.meta;
    for (const number of [...this.lines.keys()]) if ((number + 1) * CHUNK > update.from) this.lines.delete(number);
    for (const number of [...this.rows.keys()]) if (number >= update.from) this.rows.delete(number);
    for (const number of [...texts.keys()]) if ((number + 1) * CHUNK > update.from) forgetText(number);
    this.take(update.index);
  },

  /** The row if its chunk is here; otherwise undefined, and `load` brings it. */
  now(number) {
    let row = this.rows.get(number);
    if (row) return row;
    const lines = this.lines.get(Math.floor(number / CHUNK));
    if (!lines) return undefined;
    row = rowOf(lines[number % CHUNK], number);
    this.rows.set(number, row);
    return row;
  },

  async row(number) {
    return this.now(number) ?? (await this.load(Math.floor(number / CHUNK)), this.now(number));
  },

  load(chunk) {
    const there = this.lines.get(chunk);
    if (there) {
      this.lines.delete(chunk);
      this.lines.set(chunk, there); // the newest is last
      return Promise.resolve(there);
    }
    let flying = this.loading.get(chunk);
    if (!flying) {
      flying = source
        .chunk(chunk)
        .then((text) => {
          const lines = text.split("\n");
          this.lines.set(chunk, lines);
          this.forget();
          return lines;
        })
        .finally(() => this.loading.delete(chunk));
      this.loading.set(chunk, flying);
    }
    return flying;
  },

  /** Brings the chunks beside one, so that scrolling finds them there. */
  ahead(chunk) {
    for (const next of [chunk + 1, chunk - 1]) {
      if (next >= 0 && next * CHUNK < this.count && !this.lines.has(next)) this.load(next).catch(() => {});
    }
  },

  forget() {
    while (this.lines.size > KEPT_CHUNKS) {
      const oldest = this.lines.keys().next().value;
      this.lines.delete(oldest);
      for (let row = oldest * CHUNK; row < (oldest + 1) * CHUNK; row++) this.rows.delete(row);
    }
  },
};

// Search. The heads of a chunk in lower case are kept as one text, as long as all of them together are not too long.

const texts = new Map();
let keptChars = 0;

function forgetText(number) {
  keptChars -= texts.get(number)?.text.length ?? 0;
  texts.delete(number);
}

async function textOf(chunk) {
  const kept = texts.get(chunk);
  if (kept) return kept;
  const lines = data.lines.get(chunk) ?? (await source.chunk(chunk)).split("\n");
  const heads = lines.map((line) => line.slice(0, line.indexOf("\t")).toLowerCase());
  const starts = new Int32Array(heads.length);
  let at = 0;
  heads.forEach((head, number) => {
    starts[number] = at;
    at += head.length + 1;
  });
  const made = { text: heads.join("\n"), starts };
  if (keptChars + made.text.length <= SEARCHED_CHARS) {
    texts.set(chunk, made);
    keptChars += made.text.length;
  }
  return made;
}

/** Marks the rows whose id, prompt, answer or vars have every one of the words; stops when `stale()` says so. */
export async function search(query, stale) {
  const words = wordsOf(query);
  const found = new Uint8Array(data.count);
  for (let chunk = 0; chunk * CHUNK < data.count; chunk++) {
    const { text, starts } = await textOf(chunk);
    if (stale()) return null;
    const first = chunk * CHUNK;
    words.forEach((word, turn) => {
      let row = 0;
      for (let at = text.indexOf(word); at >= 0; ) {
        while (row + 1 < starts.length && starts[row + 1] <= at) row++;
        found[first + row] += found[first + row] === turn ? 1 : 0;
        if (row + 1 >= starts.length) break;
        at = text.indexOf(word, starts[row + 1]);
      }
    });
  }
  for (let row = 0; row < found.length; row++) found[row] = found[row] === words.length ? 1 : 0;
  return found;
}

/** Words as they stand in JSON; what is in double quotes is one. */
export function wordsOf(query) {
  const parts = query.match(/"[^"]*"?|\S+/g) ?? [];
  return parts
    .map((part) => part.replaceAll('"', ""))
    .filter((part) => part)
    .map((part) => JSON.stringify(part.toLowerCase()).slice(1, -1));
}
