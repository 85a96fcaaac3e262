"use strict";
// The page's data: an index of all questions, read at once, and packed blocks of turns.

const collections = JSON.parse(document.getElementById("index").textContent);
const packed = document.getElementsByClassName("block");

/** Blocks unpacked lately, by number; a few suffice, as neighbours share a block. */
const unpacked = new Map();
const BLOCKS_KEPT = 4;

/** Unpack the text of an element: base64 of gzipped JSON. */
async function unpack({ textContent }) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser is too old to unpack this page: take one of 2024 or later.");
  }
  const bytes = Uint8Array.from(atob(textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** The turns of a question, one list a side, null where a side lacks it. */
async function turnsOf(entry) {
  const [number, place] = entry.at;
  if (!unpacked.has(number)) unpacked.set(number, unpack(packed[number]));
  if (unpacked.size > BLOCKS_KEPT) unpacked.delete(unpacked.keys().next().value);
  const { lines, pairs } = await unpacked.get(number);
  const text = (numbers) => (numbers || []).map((i) => lines[i]).join("\n");
  return pairs[place].map((nodes) => nodes && layOut(nodes.map((node) =>
    ({ ...node, action: text(node.action), observation: text(node.observation) }))));
}

/** Link turns to each other; give each its depth and its row: a chain stays on one row. */
function layOut(nodes) {
  nodes.forEach((node, number) => {
    node.number = number;
    node.children = [];
    node.above = number ? nodes[node.parent] : null;
    if (node.above) node.above.children.push(node);
  });
  const ordered = [];
  let row = 0;
  const visit = (node, depth) => {
    Object.assign(node, { depth, row });
    ordered.push(node);
    node.children.forEach((child, place) => {
      if (place) row += 1;
      visit(child, depth + 1);
    });
  };
  visit(nodes[0], 0);
  return ordered;
}

/** The turns from the first one to this one. */
function pathTo(node) {
  return node.above ? [...pathTo(node.above), node] : [];
}

/** The last turn of the first chain. */
function lastTurn(node) {
  return node.children.length ? lastTurn(node.children[0]) : node;
}

/** Where two runs first differ along their first chains: the turns there, and in what. */
function firstDifference([one, other]) {
  let [a, b] = [one[0], other[0]];
  for (;;) {
    [a, b] = [a.children[0], b.children[0]];
    if (!a || !b) return a || b ? { turns: [a, b], what: "length" } : null;
    for (const what of ["action", "observation"]) {
      if (a[what] !== b[what]) return { turns: [a, b], what, from: sharedStart(a[what], b[what]) };
    }
  }
}

/** How many characters two texts begin with in common, up to a word's start. */
function sharedStart(a, b) {
  let end = 0;
  while (end < a.length && a[end] === b[end]) end += 1;
  while (end > 0 && /[\p{L}\p{N}]/u.test(a[end - 1])) end -= 1;
  return end;
}

/** Make an element; strings become text, never markup. */
function make(tag, properties = {}, ...content) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "style") Object.entries(value).forEach(([k, v]) => element.style.setProperty(k, v));
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...content.filter((part) => part !== null && part !== undefined && part !== ""));
  return element;
}

/** Hand a key to what reacts to it; keys with modifiers are the browser's. */
function onKey(event, react) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (react(event.key) !== false) event.preventDefault();
}
