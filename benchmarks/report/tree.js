"use strict";
// A tree that can be walked, and the reader below it that shows the turn that is open.

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

/** Scroll a box into sight within its tree, and nothing else. */
function reveal(box) {
  const [tree, margin] = [box.closest(".tree"), 16];
  const within = (now, start, size, room) =>
    Math.min(start - margin, Math.max(start + size + 2 * margin - room, now));
  tree.scrollLeft = within(tree.scrollLeft, box.offsetLeft, box.offsetWidth, tree.clientWidth);
  tree.scrollTop = within(tree.scrollTop, box.offsetTop, box.offsetHeight, tree.clientHeight);
}

class TreeView {
  /** Draw turns, given the width there is, and what to do when the tree is left by Esc. */
  constructor(turns, { scale, name, room, difference, leave }) {
    const nodes = place(turns, room);
    this.boxes = new Map(nodes.map((node) => [node, box(node, scale)]));
    Object.assign(this, { nodes, difference, leave, current: nodes[0], opened: null });
    const label = `Chosen turn, ${name}`;
    this.reader = make("section", { class: "reader", tabindex: -1, "aria-label": label });
    const canvas = canvasOf(nodes, this.boxes.values(), name);
    this.element = make("div", {}, make("div", { class: "tree" }, canvas), this.reader);
    if (difference) difference.turns.forEach((node) => this.boxes.get(node)?.classList.add("differs"));
    this.boxes.forEach((element, node) => element.addEventListener("click", () => this.open(node)));
    canvas.addEventListener("keydown", (event) => onKey(event, (key) => this.pressed(key)));
    this.reader.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  /** Make a turn the one that Tab leads to. */
  move(node) {
    this.boxes.get(this.current).tabIndex = -1;
    this.boxes.get(node).tabIndex = 0;
    this.current = node;
  }

  /** Show a turn, and those before it. */
  open(node) {
    this.move(node);
    this.opened = node;
    const path = pathTo(node);
    this.boxes.forEach((element, each) => {
      element.setAttribute("aria-selected", String(each === node));
      element.classList.toggle("path", path.includes(each));
    });
    const properties = { class: "close", type: "button", "aria-label": "Close the turn" };
    const close = make("button", { ...properties, onclick: () => this.close() }, "×");
    this.reader.replaceChildren(close, ...reading(node, this.difference));
    this.reader.hidden = false;
    reveal(this.boxes.get(node));
  }

  close() {
    this.boxes.get(this.opened)?.setAttribute("aria-selected", "false");
    this.opened = null;
    this.reader.hidden = true;
    this.focus();
  }

  focus() {
    this.boxes.get(this.current).focus();
  }

  /** React to a key; false if it means nothing here. */
  pressed(key) {
    const next = neighbour(this.nodes, this.current, key);
    if (next) {
      if (this.opened) this.open(next);
      else this.move(next);
      this.focus();
    } else if (key === "Enter" || key === " ") {
      this.open(this.current);
      this.reader.focus();
    } else if (key === "Escape") {
      if (this.opened) this.close();
      else this.leave();
    } else return false;
    return true;
  }
}
