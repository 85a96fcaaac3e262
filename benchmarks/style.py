"""The look of reports: one style sheet, light and dark, wide and narrow."""

CSS = """
:root { color-scheme: light dark;
  --page: #ffffff; --box: #f6f8fa; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0;
  --accent: #0969da; --second: #bc4c00; --good: #1a7f37; --bad: #cf222e;
  --think: #59636e; --search: #0550ae; --answer: #1a7f37; --tool: #fff8e5; --tool-line: #d4a72c; }
@media (prefers-color-scheme: dark) { :root {
  --page: #0d1117; --box: #161b22; --ink: #e6edf3; --soft: #9198a1; --line: #3d444d;
  --accent: #58a6ff; --second: #f0883e; --good: #3fb950; --bad: #f85149;
  --think: #9198a1; --search: #79c0ff; --answer: #56d364; --tool: #1d1a12; --tool-line: #9e6a03; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; }
h2 { margin: 3rem 0 .25rem; font-size: 1.25rem; }
p { margin: .25rem 0 1rem; max-width: 46rem; }
.lead, .note, .facts { color: var(--soft); }
code, pre, .own, .tool { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code { font-size: .9em; }
summary { cursor: pointer; }
.tiles { display: grid; gap: .75rem; margin-top: .75rem;
  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.tile { padding: .75rem 1rem; background: var(--box); border: 1px solid var(--line);
  border-radius: 10px; }
.tile.main { grid-column: span 2; border-color: var(--accent); }
.tile b { display: block; font-size: 1.3rem; line-height: 1.25; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.tile.main b { font-size: 2rem; }
.tile span { color: var(--soft); font-size: .85rem; }
.charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
.charts svg { width: 100%; height: auto; }
.charts svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child { text-align: left; }
h3 { margin: 2rem 0 .5rem; font-size: 1rem; }
.card { margin: .75rem 0; padding: .75rem 1rem; border: 1px solid var(--line);
  border-radius: 10px; }
.asked { font-weight: 600; }
.gold { color: var(--soft); font-size: .9rem; }
.pair { display: grid; gap: .5rem 1rem; margin-top: .5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.pair > * { min-width: 0; }
.episode { padding: .4rem .75rem; background: var(--box); border-left: 4px solid var(--bad);
  border-radius: 6px; }
.episode.right { border-left-color: var(--good); }
.when { color: var(--soft); font-size: .85rem; }
.said { font-weight: 600; overflow-wrap: anywhere; }
.facts { font-size: .85rem; }
.badge { display: inline-block; padding: 0 .5rem; border-radius: 1rem; color: var(--page);
  background: var(--soft); font-size: .8rem; font-weight: 600; }
.badge.right { background: var(--good); }
.badge.wrong { background: var(--bad); }
.own, .tool { margin: .5rem 0; padding: .5rem .75rem; border-radius: 6px; font-size: .82rem;
  line-height: 1.45; white-space: pre-wrap; overflow-wrap: anywhere; }
.own { background: var(--page); border: 1px solid var(--line); }
.tool { margin-left: 1.25rem; background: var(--tool); border-left: 3px solid var(--tool-line);
  max-height: 20rem; overflow-y: auto; }
.own b, .tool b { font-weight: 400; opacity: .6; }
.think { color: var(--think); font-style: italic; }
.search { color: var(--search); font-weight: 600; }
.answer { color: var(--answer); font-weight: 600; }
.tree ul { margin: 0; padding-left: 1.1rem; list-style: none; }
.tree > ul { padding-left: 0; }
.tree li { position: relative; }
.tree ul ul > li::before { content: ""; position: absolute; left: -.7rem; top: 0; height: 1.05rem;
  width: .6rem; border: solid var(--line); border-width: 0 0 2px 2px; border-radius: 0 0 0 6px; }
.tree ul ul > li:not(:last-child)::after { content: ""; position: absolute; left: -.7rem; top: 0;
  bottom: 0; border-left: 2px solid var(--line); }
.tree > ul > li { margin-top: .5rem; padding-top: .4rem; border-top: 1px solid var(--line); }
.tree summary, .columns { display: flex; flex-wrap: wrap; gap: .1rem .75rem; align-items: center;
  padding: .15rem .4rem; border-radius: 6px; list-style: none; }
.tree summary::-webkit-details-marker { display: none; }
.tree summary:hover, .tree details[open] > summary { background: var(--box); }
.tree details > div { margin-left: .4rem; }
.does { flex: 1 1 12rem; min-width: 0; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; font-size: .92rem; }
details[open] > summary .does { white-space: normal; overflow-wrap: anywhere; }
.does em { color: var(--soft); font-style: normal; }
.chip { padding: 0 .4rem; border: 1px solid var(--second); border-radius: 4px;
  color: var(--second); font-size: .75rem; }
.chip.fault { border-color: var(--bad); color: var(--bad); }
.figures { display: grid; grid-template-columns: 5rem 4rem 4rem 3.6rem; gap: .4rem;
  text-align: right; font-size: .85rem; font-variant-numeric: tabular-nums; }
.figures > * { padding: 0 .35rem; border-radius: 4px; }
.figures .end { padding: 0; }
.columns { color: var(--soft); font-size: .85rem; }
.bar { background: linear-gradient(90deg, color-mix(in srgb, var(--second) 35%, transparent)
  calc(var(--share) * 100%), transparent 0); }
.pos { background: color-mix(in srgb, var(--good) calc(var(--share) * 45%), transparent); }
.neg { background: color-mix(in srgb, var(--bad) calc(var(--share) * 45%), transparent); }
pre { padding: .75rem 1rem; overflow-x: auto; background: var(--box); border-radius: 8px;
  font-size: .85rem; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line);
  color: var(--soft); font-size: .85rem; }
@media (max-width: 38rem) { .tiles { grid-template-columns: 1fr 1fr; }
  .tile.main { grid-column: 1 / -1; } .tile b { font-size: 1.1rem; }
  .tool { margin-left: .25rem; } .tree ul ul { padding-left: .8rem; }
  .does { flex-basis: 100%; } .columns .does { display: none; } }
@media print { .episode, .tile, .card { break-inside: avoid; } }
"""
