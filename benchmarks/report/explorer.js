"use strict";
// The explorer: a collection, its filters, the list of questions, and the chosen question.

const part = (id) => document.getElementById(id);
const NARROWEST_RUN = 400;
const state = { collection: collections[0], words: "", trees: [] };

/** Whether a question passes the conditions and the search. */
function passes(entry) {
  const said = entry.sides.map((side) => (side && side.said) || "");
  const text = [entry.question, ...entry.golds, ...said].join("\n").toLowerCase();
  return state.words.split(/\s+/).every((word) => text.includes(word))
    && [...state.conditions].every((condition) => holds(entry, condition));
}

/** How much a question has to tell: how even right and wrong are, or whether two runs disagree. */
function telling({ sides: [one, other] }) {
  if (one && other) return Number(wasRight(one) !== wasRight(other));
  return other || !one ? 0 : Math.min(one.right, one.of - one.right);
}

/** Show the questions that pass all filters, and how many each outcome would show; choose the first. */
function filter() {
  const passing = state.collection.cases.filter(passes);
  state.outcomes.forEach(([name, test]) => {
    const number = passing.filter((entry) => test(entry.sides)).length;
    part("outcomes").querySelector(`[value="${name}"] ~ .number`).textContent = number;
  });
  const [, chosen] = state.outcomes.find(([name]) => name === state.outcome);
  const shown = passing.filter((entry) => chosen(entry.sides));
  part("count").textContent = `${shown.length} of ${state.collection.cases.length} questions`;
  list.fill(shown);
}

/** A filter that can be chosen; it tells how many questions it would show. */
function chip(properties, label, count) {
  return make("label", {}, make("input", properties), make("span", {}, label), " ",
    make("span", { class: "number" }, String(count)));
}

/** Offer the outcomes and conditions that the questions of a collection have. */
function offerFilters({ cases }) {
  const outcomes = state.outcomes.map(([name]) => {
    const onchange = () => { state.outcome = name; filter(); };
    return chip({ type: "radio", name: "outcome", value: name, checked: name === "All", onchange }, name, 0);
  });
  const conditions = CONDITIONS.map(([name, key]) => {
    const count = cases.filter((entry) => holds(entry, key)).length;
    const onchange = (event) => {
      state.conditions[event.target.checked ? "add" : "delete"](key);
      filter();
    };
    return chip({ type: "checkbox", value: key, disabled: !count, onchange }, name, count);
  });
  part("outcomes").replaceChildren(part("outcomes").firstElementChild, ...outcomes);
  part("conditions").replaceChildren(part("conditions").firstElementChild, ...conditions);
}

/** Show a collection, without filters; choose the question that tells most. */
function choose(collection) {
  const { cases, sides } = collection;
  const rare = ["Mixed", "In one only"];
  const outcomes = OUTCOMES[sides.length].filter(([name, test]) =>
    !rare.includes(name) || cases.some((entry) => test(entry.sides)));
  Object.assign(state, { collection, outcomes, outcome: "All", conditions: new Set() });
  offerFilters(collection);
  filter();
  const most = cases.reduce((best, entry) => Math.max(best, telling(entry)), 0);
  list.select(cases.findIndex((entry) => telling(entry) === most));
}

/** Say where two runs first differ. */
function differenceNote(trees, difference) {
  if (!trees[0] || !trees[1]) return "Only one run has this question.";
  if (!difference) return "Both runs took the same turns.";
  const place = difference.turns.find((node) => node).depth;
  const what = {
    action: "the agent writes something else",
    observation: "the tool answers something else",
    length: "one run has ended",
  };
  return `First difference: turn ${place}, where ${what[difference.what]}.`;
}

/** The width that a drawing has, in pixels, where so many are side by side if there is room. */
function roomFor(runs) {
  const width = part("detail").clientWidth;
  return (width / runs < NARROWEST_RUN ? width : width / runs - 24) - 28;
}

/** Show a question once its turns are unpacked. */
async function show(entry) {
  state.entry = entry;
  state.trees = [];
  const detail = part("detail");
  try {
    const runs = entry && await turnsOf(entry);
    if (state.entry !== entry) return; // another question was chosen in the meantime
    if (entry) draw(entry, runs);
    else detail.replaceChildren(make("p", { class: "notice" }, "No question passes these filters."));
  } catch (error) {
    detail.replaceChildren(make("p", { class: "notice", role: "alert" }, error.message));
  }
}

/** Draw a question: its tree, or both runs' side by side. */
function draw(entry, runs) {
  const { sides } = state.collection;
  const all = runs.flatMap((turns) => turns || []);
  const scale = scaleOf(all);
  const difference = runs.every(Boolean) && runs.length > 1 ? firstDifference(runs) : null;
  const leave = () => part("questions").focus();
  const views = runs.map((turns, side) => turns && new TreeView(turns,
    { scale, name: sides[side], room: roomFor(runs.length), difference, leave }));
  const columns = views.map((view, side) => make("div", {},
    sides.length > 1 ? make("h4", {}, sides[side], " ", sign(entry.sides[side])) : "",
    view ? view.element : make("p", { class: "note" }, "not asked")));
  part("detail").replaceChildren(
    make("h3", {}, entry.question),
    make("p", { class: "gold" }, `golden answer: ${entry.golds.join(" | ") || "none"}`),
    sides.length > 1 ? make("p", { class: "difference" }, differenceNote(runs, difference)) : "",
    legend(all, scale),
    make("div", { class: "runs" }, ...columns));
  // Once they are in the page, as a drawing scrolls to its chosen turn.
  views.forEach((view, side) => {
    if (view) view.open((difference && difference.turns[side]) || lastTurn(runs[side][0]));
  });
  state.trees = views.filter(Boolean);
}

const list = new QuestionList(part("questions"), show, () => state.trees[0] && state.trees[0].focus());

part("collection").append(...collections.map((each, number) =>
  make("option", { value: number }, `${each.name || each.sides.join(" → ")} (${each.cases.length})`)));
part("collection").parentElement.hidden = collections.length === 1;
part("collection").addEventListener("change", (event) => choose(collections[Number(event.target.value)]));
part("search").addEventListener("input", (event) => {
  state.words = event.target.value.trim().toLowerCase();
  filter();
});
part("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") part("questions").focus();
});
document.addEventListener("keydown", (event) => onKey(event, (key) => {
  if (key !== "/" || event.target === part("search")) return false;
  part("search").focus();
  return true;
}));
choose(state.collection);
