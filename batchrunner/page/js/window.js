// Rows of one height, of which only the visible ones exist.

const HIGHEST = 15_000_000; // pixels; browsers place nothing reliably beyond 17 million

/**
 * Which rows show: `first` up to and without `last`, and where the first one stands in the scrolled height.
 * Lists that would be too high for a browser are squeezed: a pixel of the scroll bar is then more than one of the list.
 */
export function visibleRows({ top, viewport, height, count, over = 2, highest = HIGHEST }) {
  const full = count * height;
  const total = Math.min(full, Math.max(highest, viewport));
  const reach = Math.max(0, total - viewport);
  const inside = total === full ? top : reach ? (Math.min(top, reach) / reach) * (full - viewport) : 0;
  const first = Math.max(0, Math.min(count, Math.floor(inside / height)) - over);
  const last = Math.min(count, Math.ceil((inside + viewport) / height) + over);
  return { first, last: Math.max(first, last), total, offset: first * height - inside + top };
}

/** The scroll position that shows a row in the middle third. */
export function positionOf({ row, viewport, height, count, highest = HIGHEST }) {
  const full = count * height;
  const total = Math.min(full, Math.max(highest, viewport));
  const wanted = Math.max(0, Math.min(row * height - (viewport - height) / 3, full - viewport));
  return total === full ? wanted : (wanted / (full - viewport)) * (total - viewport);
}

/** Keeps a list in a scrolled element; `make(number)` gives the element of a row. */
export class Windowed {
  constructor(scroller, make) {
    this.scroller = scroller;
    this.make = make;
    this.spacer = document.createElement("div");
    this.spacer.className = "spacer";
    this.there = new Map();
    this.count = 0;
    this.height = 100;
    this.turn = 0;
    this.top = 0;
    scroller.addEventListener("scroll", () => this.soon(), { passive: true });
    this.width = 0; // both are kept, since asking for them lays the page out
    this.tall = 0;
    this.watcher = new ResizeObserver(() => {
      this.width = scroller.clientWidth;
      this.tall = scroller.clientHeight;
      this.soon();
    });
    this.watcher.observe(scroller);
  }

  soon() {
    this.turn ||= requestAnimationFrame(() => {
      this.turn = 0;
      this.draw();
    });
  }

  /** Shows other rows, from the first one on unless the place is to be kept. */
  set(count, height, { keep = false } = {}) {
    this.count = count;
    this.height = height;
    for (const node of this.there.values()) node.remove();
    this.there.clear();
    const isAtTop = !this.top && !this.turn;
    if (!keep && !isAtTop) this.scroller.scrollTop = 0;
    this.draw(keep ? undefined : 0);
  }

  redraw(number) {
    const old = this.there.get(number);
    if (!old) return;
    const made = this.make(number);
    made.style.transform = old.style.transform;
    old.replaceWith(made);
    this.there.set(number, made);
  }

  get viewport() {
    return Math.max(100, this.tall || this.scroller.clientHeight);
  }

  draw(top = this.scroller.scrollTop) {
    const { count, height } = this;
    const jumped = Math.abs(top - this.top) > this.viewport / 2; // nothing that was there stays: only what shows is made
    this.top = top;
    const seen = visibleRows({ top, viewport: this.viewport, height, count, over: jumped ? 0 : 2 });
    if (jumped) this.soon();
    this.spacer.style.height = `${seen.total}px`;
    for (const [number, node] of this.there) {
      if (number < seen.first || number >= seen.last) {
        node.remove();
        this.there.delete(number);
      }
    }
    for (let number = seen.first; number < seen.last; number++) {
      let node = this.there.get(number);
      if (!node) {
        node = this.make(number);
        this.there.set(number, node);
        this.spacer.append(node);
      }
      node.style.transform = `translateY(${seen.offset + (number - seen.first) * height}px)`;
    }
  }

  show(row) {
    const { scroller, count, height } = this;
    const seen = visibleRows({ top: scroller.scrollTop, viewport: this.viewport, height, count, over: 0 });
    if (row <= seen.first || row >= seen.last - 1) {
      scroller.scrollTop = positionOf({ row, viewport: this.viewport, height, count });
    }
    this.draw();
  }

  close() {
    this.watcher.disconnect();
  }
}
