"use strict";
// The explorer: a collection, its filters, the list of questions, and the chosen question.

const part = (id) => document.getElementById(id);
const NARROWEST_RUN = 400;
const state = { collection: collections[0], words: "", trees: [] };

/** Whether a question passes the conditions and the search. */
function passes(entry) {
  const text = [entry.question, ...entry.golds, ...entry.sides.map((side) => (side && side.said) || "")].join("\n").toLowerCase();
  return state.words.split(/\s+/).every((word) => text.includes(word))
    && [...state.conditions].every((condition) => holds(entry, condition));
}

/** How much a question has to tell: how even right and wrong are, or whether two runs disagree. */
function telling({ sides: [one, other] }) {
  if (one && other) return Number(allRight(one) !== allRight(other));
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

/** A filter that can be chosen. */
function chip(type, group, value, label, count, checked, change) {
  const input = make("input", { type, name: group, value, checked, disabled: type === "checkbox" && !count, onchange: change });
  return make("label", {}, input, make("span", {}, label), " ", make("span", { class: "number" }, String(count)));
}

/** Show a collection, without filters. */
function choose(collection) {
  const outcomes = OUTCOMES[collection.sides.length].filter(([name, test]) =>
    !["Mixed", "In one only"].includes(name) || collection.cases.some((entry) => test(entry.sides)));
  Object.assign(state, { collection, outcomes, outcome: "All", conditions: new Set() });
  part("outcomes").replaceChildren(part("outcomes").firstElementChild, ...outcomes.map(([name]) =>
    chip("radio", "outcome", name, name, 0, name === "All", () => { state.outcome = name; filter(); })));
  part("conditions").replaceChildren(part("conditions").firstElementChild, ...CONDITIONS.map(([name, key]) =>
    chip("checkbox", "condition", key, name, collection.cases.filter((entry) => holds(entry, key)).length, false, (event) => {
      state.conditions[event.target.checked ? "add" : "delete"](key);
      filter();
    })));
  filter();
  const most = Math.max(...collection.cases.map(telling));
  list.select(collection.cases.findIndex((entry) => telling(entry) === most));
}

/** Say where two runs first differ. */
function differenceNote(trees, difference) {
  if (!trees[0] || !trees[1]) return "Only one run has this question.";
  if (!difference) return "Both runs took the same turns.";
  const place = difference.turns.find((node) => node).depth;
  const what = { action: "the agent writes something else", observation: "the tool answers something else", length: "one run has ended" };
  return `First difference: turn ${place}, where ${what[difference.what]}.`;
}

/** The width that a drawing has, in pixels, where so many are side by side if there is room. */
function roomFor(runs) {
  const width = part("detail").clientWidth;
  return (width / runs < NARROWEST_RUN ? width : width / runs - 24) - 28;
}

/** Show a question: its tree, or both runs' side by side. */
async function show(entry) {
  state.entry = entry;
  if (!entry) {
    state.trees = [];
    part("detail").replaceChildren(make("p", { class: "notice" }, "No question passes these filters."));
    return;
  }
  let trees;
  try {
    trees = await turnsOf(entry);
  } catch (error) {
    part("detail").replaceChildren(make("p", { class: "notice", role: "alert" }, error.message));
    return;
  }
  if (state.entry !== entry) return; // another question was chosen in the meantime
  const { sides } = state.collection;
  const all = trees.flatMap((nodes) => nodes || []);
  const scale = scaleOf(all);
  const difference = trees[0] && trees[1] ? firstDifference(trees) : null;
  const opened = [];
  state.trees = [];
  const runs = trees.map((nodes, side) => {
    const head = sides.length > 1 ? make("h4", {}, sides[side], " ", sign(entry.sides[side])) : "";
    if (!nodes) return make("div", {}, head, make("p", { class: "note" }, "not asked"));
    const tree = drawTree(nodes, { scale, name: sides[side], room: roomFor(trees.length), difference, leave: () => part("questions").focus() });
    state.trees.push(tree);
    opened.push(() => tree.open((difference && difference.turns[side]) || lastTurn(nodes[0])));
    return make("div", {}, head, tree.element);
  });
  const golds = entry.golds.length ? entry.golds.join(" | ") : "none";
  part("detail").replaceChildren(
    make("h3", {}, entry.question),
    make("p", { class: "gold" }, `golden answer: ${golds}`),
    sides.length > 1 ? make("p", { class: "difference" }, differenceNote(trees, difference)) : "",
    legend(all, scale),
    make("div", { class: "runs" }, ...runs));
  opened.forEach((open) => open()); // once in the page, as a drawing scrolls to its chosen turn
}

const list = new QuestionList(part("questions"), show, () => state.trees[0] && state.trees[0].focus());

part("collection").append(...collections.map((each, number) =>
  make("option", { value: number }, `${each.name || each.sides.join(" → ")} (${each.cases.length})`)));
part("collection").parentElement.hidden = collections.length === 1;
part("collection").addEventListener("change", (event) => choose(collections[Number(event.target.value)]));
part("search").addEventListener("input", (event) => { state.words = event.target.value.trim().toLowerCase(); filter(); });
part("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") part("questions").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target === part("search")) return;
  event.preventDefault();
  part("search").focus();
});
choose(state.collection);
