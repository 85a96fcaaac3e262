"use strict";
// Drawing a tree of turns: time goes right, a chain stays on its row, forks branch off downwards.

// In pixels: what a box measures (one without figures may be narrower) and what lies between two.
const SIZE = { bare: 110, narrowest: 150, widest: 250, height: 40, gapX: 28, gapY: 8, prompt: 64 };

/** Give every turn its place and width: boxes as wide as they can be without scrolling sideways. */
function place(nodes, room) {
  const [root, ...turns] = nodes;
  const shown = root.observation || !turns.length; // an episode does not know its prompt
  const first = shown ? SIZE.prompt + SIZE.gapX : 0;
  const columns = Math.max(1, ...turns.map((node) => node.depth));
  const fitting = (room - first + SIZE.gapX) / columns - SIZE.gapX;
  const least = turns.some((node) => node.surprisal !== undefined) ? SIZE.narrowest : SIZE.bare;
  const width = Math.floor(Math.min(SIZE.widest, Math.max(least, fitting)));
  Object.assign(root, { x: 0, y: 0, width: SIZE.prompt });
  for (const node of turns) {
    node.x = first + (node.depth - 1) * (width + SIZE.gapX);
    node.y = node.row * (SIZE.height + SIZE.gapY);
    node.width = width;
  }
  return shown ? nodes : turns;
}

/** The line from the turn before; those of one turn share the way down. */
function connection(node) {
  const [start, from] = [node.above.x + node.above.width, node.above.y + SIZE.height / 2];
  const [end, to] = [node.x, node.y + SIZE.height / 2];
  const bend = from === to ? "" : `H${end - SIZE.gapX / 2 - 8}q8 0 8 8V${to - 8}q0 8 8 8`;
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", `M${start} ${from}${bend}H${end}`);
  if (node.fork) path.setAttribute("class", "fork");
  return path;
}

/** The largest advantage and surprisal of some turns: a full colour, and a full bar. */
function scaleOf(nodes) {
  const most = (name) => Math.max(0, ...nodes.map((node) => Math.abs(node[name] || 0))) || 1;
  return { advantage: most("advantage"), surprisal: most("surprisal") };
}

/** The colour of an advantage; the root keeps small ones apart from none. */
function coloured(advantage, scale) {
  const style = { "--advantage": Math.sqrt(Math.abs(advantage || 0) / scale.advantage).toFixed(3) };
  return { side: advantage > 0 ? "plus" : advantage < 0 ? "minus" : "", style };
}

/** The figures that a box has room for. */
function letters(node) {
  const shown = [["A", node.advantage, signed], ["V", node.value, signed], ["H", node.surprisal, (nats) => nats.toFixed(2)]];
  return shown.filter(([, number]) => number !== undefined)
    .map(([letter, number, text]) => make("span", {}, make("i", {}, letter), text(number)));
}

/** The box of a turn: what it does, its figures, and what became of its episode. */
function box(node, scale) {
  const [kind, what] = node.depth ? gist(node.action) : ["", node.observation ? "prompt" : "no turn"];
  const { side, style } = coloured(node.advantage, scale);
  const ends = node.right === undefined ? [] : [node.right ? "✓" : "✗", node.right ? "right" : "wrong"];
  const spoken = [node.depth ? `Turn ${node.depth}` : "", `${kind} ${what}`.trim(), ...figures(node), ...verdict(node)];
  const siblings = node.above ? node.above.children : [node];
  return make("div", { class: ["node", side, ends[1]].filter(Boolean).join(" "), role: "treeitem", tabindex: -1,
    "data-number": node.number, title: `${kind} ${what}`.trim(), "aria-label": spoken.filter(Boolean).join(", "),
    "aria-level": node.depth + 1, "aria-setsize": siblings.length, "aria-posinset": siblings.indexOf(node) + 1,
    "aria-selected": "false",
    style: { ...style, left: `${node.x}px`, top: `${node.y}px`, width: `${node.width}px`, height: `${SIZE.height}px`,
      "--surprisal": (node.surprisal || 0) / scale.surprisal } },
    make("span", { class: "does" }, kind ? make("em", {}, kind) : "", kind ? " " : "", what),
    make("span", { class: "few" }, ...letters(node)),
    ends.length ? make("span", { class: "end" }, node.notes ? "! " : "", ends[0]) : "");
}

/** The turn that an arrow key leads to: along the branch, or to the next one at the same depth. */
function neighbour(nodes, node, key) {
  const level = nodes.filter((each) => each.depth === node.depth);
  const steps = {
    ArrowLeft: () => nodes.find((each) => each === node.above),
    ArrowRight: () => node.children[0],
    ArrowDown: () => level[level.indexOf(node) + 1],
    ArrowUp: () => level[level.indexOf(node) - 1],
    Home: () => nodes[0],
    End: () => nodes[nodes.length - 1],
  };
  return steps[key] ? steps[key]() || node : null;
}

/** The drawing of a tree: lines below, boxes above. */
function canvasOf(nodes, boxes, name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.append(...nodes.filter((node) => nodes.includes(node.above)).map(connection));
  const wide = Math.max(...nodes.map((node) => node.x + node.width));
  const high = Math.max(...nodes.map((node) => node.y)) + SIZE.height;
  const canvas = make("div", { class: "canvas", role: "tree", "aria-label": `Turns, ${name}`,
    style: { width: `${wide}px`, height: `${high}px` } }, ...boxes);
  canvas.prepend(svg);
  return canvas;
}

/** Scroll a box into sight within its tree, and nothing else. */
function reveal(element) {
  const tree = element.closest(".tree");
  const margin = 16;
  const [right, bottom] = [element.offsetLeft + element.offsetWidth + margin, element.offsetTop + element.offsetHeight + margin];
  tree.scrollLeft = Math.min(element.offsetLeft - margin, Math.max(right - tree.clientWidth + margin, tree.scrollLeft));
  tree.scrollTop = Math.min(element.offsetTop - margin, Math.max(bottom - tree.clientHeight + margin, tree.scrollTop));
}

/** Draw a tree above its reader; returns the element, and functions that open a turn and take the focus. */
function drawTree(all, { scale, name, room, difference, leave }) {
  const nodes = place(all, room);
  const boxes = new Map(nodes.map((node) => [node, box(node, scale)]));
  const canvas = canvasOf(nodes, boxes.values(), name);
  let [current, opened] = [nodes[0], null];
  const reader = make("section", { class: "reader", tabindex: -1, "aria-label": `Chosen turn, ${name}` });

  const move = (node) => {
    boxes.get(current).tabIndex = -1;
    boxes.get(node).tabIndex = 0;
    current = node;
  };
  const open = (node) => {
    move(node);
    opened = node;
    const onPath = new Set(pathTo(node));
    boxes.forEach((element, each) => {
      element.setAttribute("aria-selected", String(each === node));
      element.classList.toggle("path", onPath.has(each));
    });
    reader.replaceChildren(close, ...reading(node, difference));
    reader.hidden = false;
    reveal(boxes.get(node));
  };
  const shut = () => {
    boxes.forEach((element) => element.setAttribute("aria-selected", "false"));
    opened = null;
    reader.hidden = true;
    boxes.get(current).focus();
  };
  const close = make("button", { class: "close", type: "button", "aria-label": "Close the turn", onclick: shut }, "×");
  if (difference) difference.turns.forEach((node) => boxes.get(node)?.classList.add("differs"));

  canvas.addEventListener("click", (event) => {
    const element = event.target.closest(".node");
    if (element) open(nodes.find((node) => node.number === Number(element.dataset.number)));
  });
  canvas.addEventListener("keydown", (event) => {
    const next = neighbour(nodes, current, event.key);
    if (next) {
      if (opened) open(next);
      else move(next);
      boxes.get(next).focus();
    } else if (event.key === "Enter" || event.key === " ") {
      open(current);
      reader.focus();
    } else if (event.key === "Escape") {
      if (opened) shut();
      else leave();
    } else return;
    event.preventDefault();
  });
  reader.addEventListener("keydown", (event) => {
    if (event.key === "Escape") shut();
  });
  const element = make("div", { class: "run" }, make("div", { class: "tree" }, canvas), reader);
  return { element, open, focus: () => boxes.get(current).focus() };
}

/** What the colours and letters of a tree mean. */
function legend(nodes, scale) {
  const has = (name) => nodes.some((node) => node[name] !== undefined);
  const parts = [];
  if (has("advantage")) {
    const swatches = [-1, -0.25, 0, 0.25, 1].map((share) => {
      const { side, style } = coloured(share * scale.advantage, scale);
      return make("span", { class: `swatch ${side}`, style }, share ? signed(share * scale.advantage) : "0");
    });
    parts.push(make("span", {}, "A advantage ", ...swatches));
  }
  if (has("value")) parts.push(make("span", {}, "V value"));
  if (has("surprisal")) parts.push(make("span", {}, "H surprisal, nats ", make("span", { class: "bar" }), ` ${scale.surprisal.toFixed(2)}`));
  if (has("fork")) parts.push(make("span", {}, make("span", { class: "dash" }), " fork"));
  parts.push(make("span", {}, "✓ right"), make("span", {}, "✗ wrong"));
  if (has("notes")) parts.push(make("span", {}, "! see its notes"));
  return make("p", { class: "legend note" }, ...parts);
}
