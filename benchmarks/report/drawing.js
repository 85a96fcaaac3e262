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
  const shown = [
    ["A", node.advantage, signed],
    ["V", node.value, signed],
    ["H", node.surprisal, (nats) => nats.toFixed(2)],
  ];
  return shown
    .filter(([, number]) => number !== undefined)
    .map(([letter, number, text]) => make("span", {}, make("i", {}, letter), text(number)));
}

/** The box of a turn: what it does, its figures, and what became of its episode. */
function box(node, scale) {
  const [kind, what] = node.depth ? gist(node.action) : ["", node.observation ? "prompt" : "no turn"];
  const { side, style } = coloured(node.advantage, scale);
  const ends = node.right === undefined ? [] : [node.right ? "✓" : "✗", node.right ? "right" : "wrong"];
  const title = `${kind} ${what}`.trim();
  const spoken = [node.depth ? `Turn ${node.depth}` : "", title, ...figures(node), ...verdict(node)];
  const siblings = node.above ? node.above.children : [node];
  const properties = {
    class: ["node", side, ends[1]].filter(Boolean).join(" "),
    role: "treeitem",
    tabindex: -1,
    title,
    "aria-label": spoken.filter(Boolean).join(", "),
    "aria-level": node.depth + 1,
    "aria-setsize": siblings.length,
    "aria-posinset": siblings.indexOf(node) + 1,
    "aria-selected": "false",
    style: {
      ...style,
      left: `${node.x}px`,
      top: `${node.y}px`,
      width: `${node.width}px`,
      height: `${SIZE.height}px`,
      "--surprisal": (node.surprisal || 0) / scale.surprisal,
    },
  };
  const does = make("span", { class: "does" }, kind ? make("em", {}, kind) : "", kind ? " " : "", what);
  const end = ends.length ? make("span", { class: "end" }, node.notes ? "! " : "", ends[0]) : "";
  return make("div", properties, does, make("span", { class: "few" }, ...letters(node)), end);
}

/** The drawing of a tree: lines below, boxes above. */
function canvasOf(nodes, boxes, name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.append(...nodes.filter((node) => nodes.includes(node.above)).map(connection));
  const wide = Math.max(...nodes.map((node) => node.x + node.width));
  const high = Math.max(...nodes.map((node) => node.y)) + SIZE.height;
  const style = { width: `${wide}px`, height: `${high}px` };
  const properties = { class: "canvas", role: "tree", "aria-label": `Turns, ${name}`, style };
  const canvas = make("div", properties, ...boxes);
  canvas.prepend(svg);
  return canvas;
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
  if (has("surprisal")) {
    const most = ` ${scale.surprisal.toFixed(2)}`;
    parts.push(make("span", {}, "H surprisal, nats ", make("span", { class: "bar" }), most));
  }
  if (has("fork")) parts.push(make("span", {}, make("span", { class: "dash" }), " fork"));
  parts.push(make("span", {}, "✓ right"), make("span", {}, "✗ wrong"));
  if (has("notes")) parts.push(make("span", {}, "! see its notes"));
  return make("p", { class: "legend note" }, ...parts);
}
