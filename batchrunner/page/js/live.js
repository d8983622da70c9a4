// The source of a page that `batchrunner watch` serves: it stands before the page's own script, which reads it.
(() => {
  "use strict";
  const AT_MOST_EVERY_MS = 250;
  const AGAIN_MS = 2000;
  const CHUNK = 256;
  const SLIPS = 5;
  const RENUMBERED = 204;
  const meta = JSON.parse(document.getElementById("meta").textContent);
  const columns = new Map();
  let rows = 0;
  let known = 0;
  let newest = 0;
  let listener = null;
  let stream = null;
  let pulling = null;
  let again = false;
  let lost = "";

  const pause = (ms) => new Promise((done) => setTimeout(done, ms));

  async function asked(path) {
    const answer = await fetch(path, { cache: "no-store", credentials: "same-origin" });
    if (!answer.ok) throw new Error(`the server says ${answer.status}`);
    return answer;
  }

  /** The new rows' part of each column behind what is there; all of it when the rows were numbered anew. */
  function take(buffer) {
    const length = new DataView(buffer).getUint32(0, true);
    const told = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    const { from } = told;
    const start = told.generation === meta.generation ? from : 0;
    const count = told.rows - from;
    told.columns.forEach((name, place) => {
      const part = new Int32Array(buffer, 4 + length + place * count * 4, count);
      let column = columns.get(name) ?? new Int32Array(0);
      if (column.length < told.rows) {
        const longer = new Int32Array(Math.max(told.rows, column.length * 2));
        longer.set(column);
        column = longer;
      }
      columns.set(name, column); // also while there are no rows
      column.set(part, from);
    });
    const renumbered = told.generation !== meta.generation;
    Object.assign(meta, told);
    rows = told.rows;
    known = told.version;
    newest = Math.max(newest, rows);
    if (renumbered) newest = rows;
    document.documentElement.dataset.rows = rows;
    return renumbered ? 0 : start;
  }

  function index() {
    const all = new Int32Array(meta.columns.length * rows);
    meta.columns.forEach((name, place) => all.set(columns.get(name).subarray(0, rows), place * rows));
    return all.buffer;
  }

  async function ask() {
    const query = `rows?g=${encodeURIComponent(meta.generation)}&from=${rows}&v=${known}`;
    return take(await (await asked(query)).arrayBuffer());
  }

  /** Whether somebody is reading, so that rows must not move. */
  function reading() {
    const scrolled = [document.scrollingElement, ...document.querySelectorAll(".scroller")].some((box) => box && box.scrollTop > 40);
    return scrolled || document.querySelector("dialog[open]") !== null;
  }

  function pull({ evenIfReading = false } = {}) {
    if (pulling) {
      again = true;
      return pulling;
    }
    pulling = (async () => {
      do {
        again = false;
        if (!evenIfReading && newest > rows && reading()) break;
        const from = await ask();
        listener?.({ meta, index: index(), from });
        note();
        await pause(AT_MOST_EVERY_MS);
      } while (again);
    })()
      .catch(() => setTimeout(() => pull(), AGAIN_MS))
      .finally(() => {
        pulling = null;
        note();
      });
    return pulling;
  }

  // What stands at the lower edge: rows that wait, and that nobody works on the run or that the server is gone.

  const pill = document.createElement("button");
  pill.type = "button";
  pill.className = "new-pill";
  pill.hidden = true;
  pill.addEventListener("click", () => {
    for (const box of document.querySelectorAll(".scroller")) box.scrollTop = 0;
    scrollTo(0, 0);
    pull({ evenIfReading: true });
  });
  const words = document.createElement("div");
  words.className = "live-note";
  words.setAttribute("role", "status");

  function clock(seconds) {
    const at = new Date(seconds * 1000);
    const day = at.toDateString() === new Date().toDateString() ? {} : { month: "short", day: "numeric" };
    return at.toLocaleString([], { ...day, hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  }

  function note() {
    const waiting = newest - rows;
    pill.hidden = waiting <= 0;
    pill.textContent = `${waiting.toLocaleString("en")} new ▲`;
    const idle = meta.idleSince && meta.state !== "done" ? `no process works on this run since ${clock(meta.idleSince)}` : "";
    words.textContent = lost || meta.problem || idle;
    words.hidden = !words.textContent;
    if (!pill.isConnected) document.body.append(words, pill);
  }
  setInterval(() => {
    if (newest > rows && !reading()) pull();
  }, 1000);

  // A stream holds one of a browser's six connections to a server: a hidden tab gives it back.

  function connect() {
    if (stream || document.hidden) return;
    stream = new EventSource(`events?last=${encodeURIComponent(`${meta.generation}.${newest}`)}`);
    const heard = () => {
      lost = "";
      note();
    };
    stream.addEventListener("open", heard);
    stream.addEventListener("rows", (event) => {
      newest = JSON.parse(event.data).to;
      pull();
      heard();
    });
    stream.addEventListener("reset", (event) => {
      newest = JSON.parse(event.data).rows;
      pull({ evenIfReading: true });
    });
    stream.addEventListener("status", () => pull());
    stream.addEventListener("error", () => {
      lost ||= `connection to batchrunner watch lost at ${clock(Date.now() / 1000)}`;
      note();
      if (stream?.readyState !== EventSource.CLOSED) return;
      disconnect();
      setTimeout(connect, AGAIN_MS);
    });
  }

  function disconnect() {
    stream?.close();
    stream = null;
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));

  window.batchrunnerSource = {
    meta,
    first: "",
    async index() {
      await ask();
      note();
      return index();
    },
    /** The lines of a chunk, as many as the index has; numbers of an earlier generation are looked up in the new one. */
    async chunk(number) {
      for (let slip = 0; ; slip++) {
        try {
          const answer = await asked(`c/${number}?g=${encodeURIComponent(meta.generation)}`);
          if (answer.status === RENUMBERED) {
            await pull({ evenIfReading: true });
            continue;
          }
          const text = await answer.text();
          const wanted = Math.min(CHUNK, rows - number * CHUNK);
          if (slip >= SLIPS || text.split("\n").length >= wanted) return text;
        } catch (error) {
          if (slip >= SLIPS) throw error;
        }
        await pause(AT_MOST_EVERY_MS);
      }
    },
    picture: (path, sha) => `p/${sha}`,
    thumb: (sha) => `t/${sha}`,
    subscribe(f) {
      listener = f;
      connect();
    },
  };
})();
