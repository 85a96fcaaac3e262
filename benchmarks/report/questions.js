"use strict";
// The list of questions: what passes the filters, drawn only where it can be seen.

const ROW = 76; // pixels, as in the style sheet
const STEPS = { ArrowDown: 1, ArrowUp: -1, PageDown: 6, PageUp: -6, Home: -Infinity, End: Infinity };

/** Whether every episode of a side was right. */
const wasRight = (side) => side.right === side.of;

/** The outcomes that a question can have: names and conditions, for one run and for two. */
const OUTCOMES = {
  1: [
    ["All", () => true],
    ["Right", ([side]) => wasRight(side)],
    ["Mixed", ([side]) => side.right > 0 && !wasRight(side)],
    ["Wrong", ([side]) => side.right === 0],
  ],
  2: [
    ["All", () => true],
    ["Fixed", ([a, b]) => a && b && !wasRight(a) && wasRight(b)],
    ["Broken", ([a, b]) => a && b && wasRight(a) && !wasRight(b)],
    ["Both wrong", ([a, b]) => a && b && !wasRight(a) && !wasRight(b)],
    ["Both right", ([a, b]) => a && b && wasRight(a) && wasRight(b)],
    ["In one only", ([a, b]) => !a || !b],
  ],
};
const CONDITIONS = [["Truncated", "truncated"], ["Flagged", "flagged"], ["Bad format", "bad_format"]];

const holds = (entry, condition) => entry.sides.some((side) => side && side[condition]);

/** A question's outcome on a side, in a sign. */
function sign(side) {
  if (!side) return make("span", { class: "sign" }, "–");
  const state = wasRight(side) ? "right" : side.right ? "mixed" : "wrong";
  if (side.of === 1) return make("span", { class: `sign ${state}`, title: state }, side.right ? "✓" : "✗");
  const title = `${side.right} of ${side.of} leaves right`;
  return make("span", { class: `sign many ${state}`, title }, `${side.right}/${side.of}`);
}

/** A question's row in the list. */
function row(entry, number, total, chosen) {
  const last = entry.sides.findLast((side) => side);
  const facts = [
    last.said ? `“${last.said.trim()}”` : "",
    `${last.turns} turns`,
    ...CONDITIONS.filter(([, key]) => holds(entry, key)).map(([name]) => name.toLowerCase()),
  ];
  const properties = {
    class: "question",
    role: "option",
    id: `question-${number}`,
    "data-number": number,
    "aria-selected": String(chosen),
    "aria-setsize": total,
    "aria-posinset": number + 1,
    style: { top: `${number * ROW}px` },
  };
  return make("div", properties,
    make("span", { class: "signs" }, ...entry.sides.map(sign)),
    make("span", { class: "asked" }, entry.question),
    make("span", { class: "facts" }, facts.filter(Boolean).join(" · ")));
}

/** A listbox over any number of questions: only what is in sight is in the page. */
class QuestionList {
  constructor(box, choose, enter) {
    Object.assign(this, { box, choose, entries: [], chosen: -1, rows: box.querySelector(".rows") });
    box.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(box);
    box.addEventListener("click", (event) => {
      const element = event.target.closest(".question");
      if (element) this.select(Number(element.dataset.number));
    });
    box.addEventListener("keydown", (event) => onKey(event, (key) => {
      if (key === "Enter") enter();
      else if (STEPS[key]) this.select(this.chosen + STEPS[key]);
      else return false;
      return true;
    }));
  }

  /** Show other questions, and choose the first of them. */
  fill(entries) {
    this.entries = entries;
    this.rows.style.setProperty("height", `${entries.length * ROW}px`);
    this.box.scrollTop = 0;
    this.select(0);
  }

  /** Choose a question, or the nearest there is; bring it into sight. */
  select(number) {
    this.chosen = Math.max(0, Math.min(number, this.entries.length - 1));
    const top = this.chosen * ROW;
    const most = top + ROW - this.box.clientHeight;
    this.box.scrollTop = Math.min(top, Math.max(most, this.box.scrollTop));
    this.draw();
    this.choose(this.entries[this.chosen]);
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 2);
    const last = Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW) + 2;
    const total = this.entries.length;
    this.rows.replaceChildren(...this.entries.slice(first, last).map((entry, i) =>
      row(entry, first + i, total, first + i === this.chosen)));
    this.box.setAttribute("aria-activedescendant", this.entries.length ? `question-${this.chosen}` : "");
  }
}
