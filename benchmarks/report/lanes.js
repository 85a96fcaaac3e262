"use strict";
// The time line's data: a lane for each process with its pieces of work in order of time, and the steps.

const TICKS = 10000; // in a second, as the page was written

/** Unpack the time line of the page. */
async function timeLine() {
  const { stages, steps, lanes } = await unpack(part("timeline"));
  const inSeconds = ([number, from, to]) => ({ number, from: from / TICKS, to: to / TICKS });
  return { stages, steps: steps.map(inSeconds), lanes: lanes.map(laneOf) };
}

/** Give a lane's pieces their times; `reach` is how far it has come by each, and never falls. */
function laneOf({ later, length, ...lane }) {
  let [ticks, reached] = [0, -Infinity];
  const start = later.map((more) => {
    ticks += more;
    return ticks / TICKS;
  });
  const end = start.map((time, i) => time + length[i] / TICKS);
  const reach = end.map((time) => {
    reached = Math.max(reached, time);
    return reached;
  });
  return { ...lane, start, end, reach };
}

/** The numbers of a lane's pieces within a stretch of time. */
function* within(lane, from, to) {
  let [first, after] = [0, lane.reach.length];
  while (first < after) {
    const middle = (first + after) >> 1;
    if (lane.reach[middle] < from) first = middle + 1;
    else after = middle;
  }
  for (let i = first; i < lane.start.length && lane.start[i] <= to; i += 1) {
    if (lane.end[i] >= from) yield i;
  }
}

/** The piece of a lane at a time, or the nearest no further away than so many seconds; -1 if none. */
function nearest(lane, time, slack = Infinity) {
  let [best, least] = [-1, slack];
  for (const i of within(lane, time - slack, time + slack)) {
    const away = Math.max(lane.start[i] - time, time - lane.end[i], 0);
    if (away <= least) [best, least] = [i, away];
  }
  return best;
}

/** Round times within a stretch, at most so many, and how many decimals tell them apart. */
function roundTimes(from, to, most) {
  const least = (to - from) / Math.max(1, most);
  const power = Math.floor(Math.log10(least));
  const gap = [1, 2, 5, 10].find((n) => n * 10 ** power >= least) * 10 ** power;
  const count = Math.floor(to / gap) - Math.ceil(from / gap) + 1;
  const times = Array.from({ length: count }, (_, i) => (Math.ceil(from / gap) + i) * gap);
  return { times, decimals: Math.max(0, -power) };
}

/** A number for people. */
function written(number, decimals) {
  return number.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

/** A piece in words. */
function told(stages, lane, i) {
  const length = lane.end[i] - lane.start[i];
  const times = [lane.start[i], lane.end[i]].map((time) => written(time, 2));
  const facts = [lane.name, stages[lane.stage[i]], `step ${lane.step[i]}`];
  facts.push(`${written(length, length < 1 ? 4 : 2)} s, from ${times[0]} to ${times[1]} s`);
  if (lane.tokens[i] && length) facts.push(`${written(lane.tokens[i] / length, 1)} tokens/s`);
  return facts.join(" · ");
}
