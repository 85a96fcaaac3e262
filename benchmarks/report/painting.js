"use strict";
// Painting a time line on a canvas: only the lanes and the time in sight; what is narrower than a
// pixel becomes a column that is filled by the share of each stage.

// In pixels: the height of a lane, of a bar of work and of one of waiting, and of the axes above; what
// lies between a name and its lane, and the room that a step's number and a time need.
const LANE = { height: 22, work: 16, wait: 4, axes: 40, gap: 10, step: 34, time: 80 };

/** The page's colours and letters, as its style sheet gives them. */
function looksOf(canvas, stages) {
  const style = getComputedStyle(canvas);
  const colour = (name) => style.getPropertyValue(`--${name}`);
  const context = canvas.getContext("2d");
  context.font = `12px ${style.fontFamily}`;
  const known = stages.map((name) => (/^\w+$/.test(name) && colour(`stage-${name}`)) || colour("soft"));
  const widths = stages.map((name) => context.measureText(name).width);
  const [ink, soft, line, page] = ["ink", "soft", "line", "page"].map(colour);
  return { font: context.font, ink, soft, line, page, stages: known, widths };
}

/** How wide names are. */
function widest(canvas, names) {
  const context = canvas.getContext("2d");
  context.font = `12px ${getComputedStyle(canvas).fontFamily}`;
  return Math.ceil(Math.max(...names.map((name) => context.measureText(name).width)));
}

/** Paint what is in sight of a time line. */
function paint(canvas, { stages, steps, lanes }, view) {
  const density = window.devicePixelRatio || 1;
  canvas.width = Math.round(view.width * density);
  canvas.height = Math.round(view.height * density);
  const context = canvas.getContext("2d");
  const looks = looksOf(canvas, stages);
  context.scale(density, density);
  Object.assign(context, { font: looks.font, textBaseline: "middle" });
  context.save();
  context.beginPath();
  context.rect(0, LANE.axes, view.width, view.height);
  context.clip();
  const first = Math.floor(view.top / LANE.height);
  const after = Math.ceil((view.top + view.height) / LANE.height);
  lanes.slice(first, after).forEach((lane, i) => {
    const y = LANE.axes + (first + i + 0.5) * LANE.height - view.top;
    context.fillStyle = looks.soft;
    context.fillText(lane.name, 0, y, view.left - LANE.gap);
    paintLane(context, { stages, lane, view, looks }, y);
  });
  context.restore();
  paintSteps(context, steps, view, looks);
  paintTimes(context, view, looks);
}

/** Paint the pieces of a lane around a height. */
function paintLane(context, { stages, lane, view, looks }, y) {
  let [column, shares] = [-1, stages.map(() => 0)];
  const flush = () => {
    let bottom = y + LANE.work / 2;
    shares.forEach((share, stage) => {
      if (!share) return;
      context.fillStyle = looks.stages[stage];
      context.fillRect(column, bottom - share * LANE.work, 1, share * LANE.work);
      bottom -= share * LANE.work;
    });
    shares.fill(0);
  };
  for (const i of within(lane, view.from, view.to)) {
    const stage = lane.stage[i];
    const start = Math.max(view.left, view.x(lane.start[i]));
    const end = Math.min(view.width, view.x(lane.end[i]));
    if (end - start >= 1) {
      const height = stages[stage] === "wait" ? LANE.wait : LANE.work;
      context.fillStyle = looks.stages[stage];
      context.fillRect(start, y - height / 2, end - start - (end - start > 4 ? 1 : 0), height);
      if (height === LANE.work && end - start > looks.widths[stage] + 8) {
        context.fillStyle = looks.page;
        context.fillText(stages[stage], start + 4, y);
      }
      continue;
    }
    for (let at = Math.floor(start); at < end; at += 1) {
      if (at !== column) flush();
      column = at;
      shares[stage] += Math.min(end, at + 1) - Math.max(start, at);
    }
  }
  flush();
}

/** Paint where steps begin, and their numbers: every one, or round ones where they are many. */
function paintSteps(context, steps, view, looks) {
  const seen = steps.filter(({ from, to }) => to > view.from && from < view.to);
  const most = (view.width - view.left) / LANE.step;
  let [every, after] = [1, -Infinity];
  while (seen.length / every > most) every *= String(every)[0] === "2" ? 2.5 : 2;
  context.fillStyle = looks.soft;
  context.fillText("step", 0, 10);
  for (const { number, from } of seen.filter((step) => step.number % every === 0)) {
    const x = Math.max(view.left, view.x(from));
    context.fillStyle = looks.ink;
    context.globalAlpha = 0.35;
    context.fillRect(x, 0, 1, 18);
    context.fillRect(x, LANE.axes, 1, view.height);
    context.globalAlpha = 1;
    if (x < after) continue; // short steps beside each other
    context.fillText(number, x + 4, 10);
    after = x + LANE.step;
  }
}

/** Paint the axis of seconds. */
function paintTimes(context, view, looks) {
  const { times, decimals } = roundTimes(view.from, view.to, (view.width - view.left) / LANE.time);
  context.fillStyle = looks.soft;
  context.fillText("seconds", 0, 28);
  context.fillRect(view.left, LANE.axes - 1, view.width - view.left, 1);
  for (const time of times) {
    const [x, label] = [view.x(time), written(time, decimals)];
    context.fillRect(x, LANE.axes - 5, 1, 5);
    const room = view.width - context.measureText(label).width;
    context.fillText(label, Math.min(room, x + 3), 28);
  }
}
