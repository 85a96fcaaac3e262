"use strict";
// Reading turns: what the agent wrote, the passages that it was answered with, and its tokens.

const TAG = /<(\/?)(think|search|answer|result|information|tool_call)>/g;
const CALL = /<(?!think>)(\w+)>\s*([\s\S]*?)\s*<\/\1>/;
const PASSAGE = /^(?=Page \d+: |Doc \d+\(Title: )/m;

/** Say in a few words what a turn does: its first tag that is no thought, and what is in it. */
function gist(action) {
  const found = CALL.exec(action);
  if (!found) return ["", action.replace(/\s+/g, " ").trim() || "no text"];
  const [, kind, content] = found;
  const answer = kind === "answer" && boxed(content);
  return [kind.replace("_", " "), answer || content.replace(/\s+/g, " ")];
}

/** What the last \boxed{} of a text holds, braces within it matched. */
function boxed(text) {
  const start = text.lastIndexOf("\\boxed{");
  if (start < 0) return null;
  let depth = 1;
  let end = start + 7;
  for (; end < text.length && depth; end += 1) depth += { "{": 1, "}": -1 }[text[end]] || 0;
  return depth ? null : text.slice(start + 7, end - 1).trim();
}

/** Set off a text's tags and what they enclose; from a given place on, mark it as different. */
function painted(text, from = Infinity) {
  const pieces = [];
  let [inside, place] = ["", 0];
  const put = (end, name) => {
    const split = Math.min(end, Math.max(place, from));
    for (const [start, stop] of [[place, split], [split, end]]) {
      if (start >= stop) continue;
      const piece = make("span", { class: name || null }, text.slice(start, stop));
      pieces.push(start >= from ? make("mark", {}, piece) : piece);
    }
    place = end;
  };
  for (const tag of text.matchAll(TAG)) {
    const [whole, closing, name] = tag;
    put(tag.index, inside);
    const within = closing ? inside : inside || name;
    put(tag.index + whole.length, `tag ${within}`);
    if (!closing && !inside) inside = name;
    else if (closing && name === inside) inside = "";
  }
  put(text.length, inside);
  return pieces;
}

/** The passages of an observation, each on its own where they can be told apart. */
function passages(observation, from) {
  let place = 0;
  return observation.split(PASSAGE).map((part) => {
    const start = place;
    place += part.length;
    const heading = PASSAGE.test(part) ? part.indexOf("\n") : -1;
    const pieces = painted(part, from - start);
    return make("div", { class: heading > 0 ? "passage" : "rest" }, ...pieces);
  });
}

/** A bar for each token that was sampled, as high as its surprisal; 3.5 nats reach the top. */
function tokenStrip(tokens) {
  const levels = [...tokens].map((digit) => parseInt(digit, 36) / 10);
  const bars = levels.map((nats) => make("i", { style: { "--nats": nats }, title: `${nats} nats` }));
  const most = Math.max(...levels);
  const label = `Surprisal of each of ${levels.length} tokens, at most ${most.toFixed(1)} nats`;
  return make("figure", {}, make("div", { class: "tokens", role: "img", "aria-label": label }, ...bars),
    make("figcaption", { class: "note", "aria-hidden": "true" }, label));
}

/** A number with its sign, by characters as wide as each other. */
function signed(number) {
  return (number < 0 ? "−" : "+") + Math.abs(number).toFixed(2);
}

/** A turn's figures in words. */
function figures(node) {
  const facts = [];
  if (node.advantage !== undefined) facts.push(`advantage ${signed(node.advantage)}`);
  if (node.value !== undefined) facts.push(`value ${signed(node.value)}`);
  if (node.surprisal !== undefined) facts.push(`surprisal ${node.surprisal.toFixed(2)} nats`);
  if (node.reward !== undefined) facts.push(`reward ${signed(node.reward)}`);
  if (node.tokens !== undefined) facts.push(`${node.tokens.length} tokens written`);
  if (node.read !== undefined) facts.push(`${node.read} read`);
  return facts;
}

/** What became of the episode that ends with a turn, and what was odd about it. */
function verdict(node) {
  const words = node.right === undefined ? [] : [node.right ? "right" : "wrong"];
  return [...words, ...(node.fork ? ["fork"] : []), ...(node.notes || [])];
}

/** A turn to read; the turns before the chosen one are folded. */
function turn(node, chosen, difference) {
  const [kind, what] = gist(node.action);
  const differs = difference && difference.turns.includes(node);
  const from = (text) => (differs && difference.what === text ? difference.from : Infinity);
  const chips = verdict(node).map((word) => make("span", { class: `chip ${word}` }, word));
  const seen = node.observation ? passages(node.observation, from("observation")) : [];
  return make("details", { class: "turn", open: node === chosen },
    make("summary", {}, make("b", {}, `Turn ${node.depth}`), " ", make("em", {}, kind), " ",
      make("span", { class: "said" }, what), ...chips),
    figures(node).length ? make("p", { class: "facts" }, figures(node).join(" · ")) : "",
    make("div", { class: "own" }, ...painted(node.action, from("action"))),
    node.tokens ? tokenStrip(node.tokens) : "",
    seen.length ? make("div", { class: "tool" }, ...seen) : "");
}

/** All turns up to the chosen one; the prompt where that was chosen. */
function reading(node, difference) {
  if (node.above) return pathTo(node).map((each) => turn(each, node, difference));
  return [make("div", { class: "own" }, node.observation || "The episode has no turn."),
    make("p", { class: "facts" }, [...figures(node), ...verdict(node)].join(" · "))];
}
