"use strict";
// The time line: what of it is in sight, the piece of work that is chosen, and how to move in both.

const SHORTEST = 0.001; // seconds that can be zoomed to
const DRAGGED = 5; // pixels from which on a click is a drag

class TimeLineView {
  constructor(data) {
    const [box, canvas] = [part("lanes"), part("lanes").querySelector("canvas")];
    const [first, last] = [data.steps[0], data.steps.at(-1)];
    const whole = { from: first.from, to: Math.max(last.to, first.from + SHORTEST) };
    Object.assign(this, { ...data, data, box, canvas, whole, chosen: null, hovered: null, drag: null });
    box.firstElementChild.style.height = `${LANE.axes + data.lanes.length * LANE.height}px`;
    this.names = widest(canvas, ["seconds", ...data.lanes.map(({ name }) => name)]);
    this.showAll();
    new ResizeObserver(() => this.draw()).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    box.addEventListener("scroll", () => this.draw());
    box.addEventListener("keydown", (event) => onKey(event, (key) => this.pressed(key)));
    box.addEventListener("focus", () => {
      // Not by a click, which chooses what it is on.
      if (box.matches(":focus-visible")) this.choose(this.chosen || this.firstInSight());
    });
    box.addEventListener("blur", () => this.tell());
    this.listenToPointer();
    this.listenToControls();
  }

  listenToPointer() {
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.drag = { from: event.offsetX, to: event.offsetX };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.drag) this.drag.to = event.offsetX;
      this.hovered = this.drag ? null : this.at(event.offsetX, event.offsetY);
      this.tell();
    });
    canvas.addEventListener("pointerup", (event) => {
      const [start, end] = this.dragged();
      this.drag = null;
      if (end - start > DRAGGED) this.zoom(this.timeAt(start), this.timeAt(end));
      else this.choose(this.at(event.offsetX, event.offsetY));
    });
    for (const name of ["pointerleave", "pointercancel"]) {
      canvas.addEventListener(name, () => {
        Object.assign(this, { hovered: null, drag: null });
        this.tell();
      });
    }
  }

  listenToControls() {
    const [step, from, to] = ["zoom-step", "zoom-from", "zoom-to"].map(part);
    step.addEventListener("change", () => {
      const found = this.steps.findLastIndex(({ number }) => number === step.valueAsNumber);
      if (found >= 0) this.showStep(found);
    });
    for (const field of [from, to]) {
      field.addEventListener("change", () => {
        if (from.valueAsNumber < to.valueAsNumber) this.zoom(from.valueAsNumber, to.valueAsNumber);
      });
    }
    part("time-line").querySelectorAll("[data-key]").forEach((button) =>
      button.addEventListener("click", () => this.pressed(button.dataset.key)));
  }

  /** Where a drag begins and ends from left to right; nowhere if there is none. */
  dragged() {
    const { from, to } = this.drag || { from: 0, to: 0 };
    return [Math.max(this.left, Math.min(from, to)), Math.max(from, to)];
  }

  /** The piece at a place, or so near that it may be meant. */
  at(x, y) {
    const number = Math.floor((y - LANE.axes + this.box.scrollTop) / LANE.height);
    const lane = y > LANE.axes && x >= this.left ? this.lanes[number] : null;
    const i = lane ? nearest(lane, this.timeAt(x), 3 * this.perPixel()) : -1;
    return i < 0 ? null : { number, i };
  }

  /** Where the time begins: beside the names, which may be squeezed. */
  get left() {
    return Math.min(this.names + LANE.gap, 0.4 * this.box.clientWidth);
  }

  perPixel() {
    return (this.to - this.from) / (this.box.clientWidth - this.left);
  }

  x(time) {
    return this.left + (time - this.from) / this.perPixel();
  }

  timeAt(x) {
    return this.from + (x - this.left) * this.perPixel();
  }

  firstInSight() {
    const number = Math.floor(this.box.scrollTop / LANE.height);
    return { number, i: Math.max(0, nearest(this.lanes[number], this.from)) };
  }

  /** Show a stretch of time, or as much of it as there is; it may be that of a step. */
  zoom(from, to, step = -1) {
    const { whole } = this;
    const length = Math.min(whole.to - whole.from, Math.max(SHORTEST, to - from));
    this.from = Math.max(whole.from, Math.min(from, whole.to - length));
    this.to = this.from + length;
    this.step = step;
    part("zoom-step").value = step < 0 ? "" : this.steps[step].number;
    part("zoom-from").value = Number(this.from.toFixed(3));
    part("zoom-to").value = Number(this.to.toFixed(3));
    this.draw();
  }

  showAll() {
    this.zoom(this.whole.from, this.whole.to);
  }

  showStep(step) {
    this.zoom(this.steps[step].from, this.steps[step].to, step);
  }

  /** The step that a time belongs to. */
  stepAt(time) {
    return Math.max(0, this.steps.findIndex(({ to }) => to >= time));
  }

  /** Show the step before or after the one that is shown; the one in the middle if none is. */
  stepBy(more) {
    const step = this.step < 0 ? this.stepAt((this.from + this.to) / 2) : this.step + more;
    this.showStep(Math.max(0, Math.min(step, this.steps.length - 1)));
  }

  /** Show a longer or shorter stretch around the chosen piece, or around the middle. */
  stretch(factor) {
    const length = (this.to - this.from) * factor;
    const around = this.chosen && this.isShown(this.chosen);
    const middle = around ? this.middleOf(this.chosen) : (this.from + this.to) / 2;
    this.zoom(middle - length / 2, middle + length / 2);
  }

  middleOf({ number, i }) {
    return (this.lanes[number].start[i] + this.lanes[number].end[i]) / 2;
  }

  /** Whether a piece is within the stretch of time that is shown. */
  isShown({ number, i }) {
    return this.lanes[number].end[i] >= this.from && this.lanes[number].start[i] <= this.to;
  }

  /** Choose a piece, and bring it into sight. */
  choose(piece) {
    Object.assign(this, { chosen: piece, hovered: null });
    if (piece) {
      const top = piece.number * LANE.height;
      const [middle, half] = [this.middleOf(piece), (this.to - this.from) / 2];
      if (!this.isShown(piece)) this.zoom(middle - half, middle + half);
      const most = top + LANE.height + LANE.axes - this.box.clientHeight;
      this.box.scrollTop = Math.min(top, Math.max(most, this.box.scrollTop));
    }
    this.draw();
  }

  /** Choose the piece that is so many further on in its lane, or at the same time so many lanes down. */
  move(further, down) {
    const { number, i } = this.chosen || this.firstInSight();
    const to = Math.max(0, Math.min(number + down, this.lanes.length - 1));
    const piece = down ? nearest(this.lanes[to], this.middleOf({ number, i })) : i + further;
    this.choose({ number: to, i: Math.max(0, Math.min(piece, this.lanes[to].start.length - 1)) });
  }

  /** React to a key or to the button that stands for it; false if it means nothing here. */
  pressed(key) {
    const reactions = {
      ArrowLeft: () => this.move(-1, 0),
      ArrowRight: () => this.move(1, 0),
      ArrowUp: () => this.move(0, -1),
      ArrowDown: () => this.move(0, 1),
      Home: () => this.move(-Infinity, 0),
      End: () => this.move(Infinity, 0),
      "+": () => this.stretch(0.5),
      "-": () => this.stretch(2),
      PageUp: () => this.stepBy(-1),
      PageDown: () => this.stepBy(1),
      Enter: () => this.chosen && this.showStep(this.stepAt(this.middleOf(this.chosen))),
      Escape: () => this.showAll(),
    };
    if (!reactions[key]) return false;
    reactions[key]();
    return true;
  }

  /** Paint once the browser is ready to, however often this was asked for. */
  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      const { clientWidth: width, clientHeight: height, scrollTop: top } = this.box;
      const { from, to, left } = this;
      const perPixel = this.perPixel();
      const x = (time) => left + (time - from) / perPixel;
      this.canvas.style.height = `${height}px`;
      paint(this.canvas, this.data, { from, to, left, width, height, top, x });
      this.tell();
    });
  }

  /** Tell what the hovered piece is, or the chosen one, and mark it; or mark what is dragged over. */
  tell() {
    const [mark, words] = [part("mark"), part("piece")];
    const { clientWidth: width, clientHeight: height, scrollTop } = this.box;
    const piece = this.hovered || (this.box.matches(":focus") ? this.chosen : null);
    const top = piece ? LANE.axes + piece.number * LANE.height - scrollTop : 0;
    const inSight = top > LANE.axes - LANE.height && top < height;
    words.hidden = !(piece && inSight && this.isShown(piece));
    mark.hidden = words.hidden && !this.drag;
    if (this.drag) {
      const [start, end] = this.dragged();
      put(mark, { left: start, width: end - start, top: 0, height });
    }
    if (words.hidden) return;
    const lane = this.lanes[piece.number];
    const [start, end] = [lane.start, lane.end].map((times) =>
      Math.max(this.left, Math.min(width, this.x(times[piece.i]))));
    put(mark, { left: start - 2, width: end - start + 4, top, height: LANE.height });
    const text = told(this.stages, lane, piece.i);
    if (words.textContent !== text) words.textContent = text; // what is said again is not read again
    const [wide, high] = [words.offsetWidth, words.offsetHeight];
    const below = top + LANE.height + 2;
    put(words, {
      left: Math.max(0, Math.min(start, width - wide)),
      top: below + high < height ? below : top - high - 2,
    });
  }
}

/** Put an element at a place in its box, in pixels. */
function put(element, places) {
  Object.entries(places).forEach(([side, pixels]) => element.style.setProperty(side, `${pixels}px`));
}

timeLine().then((data) => {
  part("time-line").hidden = false;
  return new TimeLineView(data);
}).catch((error) => {
  part("time-line").replaceWith(make("p", { class: "notice", role: "alert" }, error.message));
});
