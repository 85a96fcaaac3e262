"""One collector at work, simulated: continuous batching, tools, trees that fork."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

from at2po_agents.tree import Node
from benchmarks.scale.costs import Costs
from benchmarks.speed.paper_step import TOOL_SECONDS, Plan
from benchmarks.speed.step_cost import stretch


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection took.

    Attributes:
        trees: How many were grown.
        parts: Seconds by what they went to: decode, prefill, host (after turns), tools (nothing
            could be sampled meanwhile).
        engine_steps: Steps of the engine.
        prefilled: Tokens whose keys and values were computed before their turns.
        pairs: Tokens that these and sampled ones attended to.
    """

    trees: int
    parts: dict[str, float]
    engine_steps: int
    prefilled: int
    pairs: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.parts.values())


def collect(
    trees: Sequence[Plan],
    costs: Costs,
    *,
    rounds: bool = False,
    reuse: bool = True,
    max_batch: int = 256,
) -> Collected:
    """Grow trees on one collector.

    Args:
        trees: The trees, which are not changed.
        costs: What everything takes.
        rounds: Wait at barriers: for all turns of a round, then for all of their tools, and for all
            chains before any tree forks. Otherwise everything goes on as soon as it can.
        reuse: Keep keys and values for later turns and forks; otherwise every turn computes its
            whole context.
        max_batch: Most turns that are sampled at a time, at least 1.
    """
    return _Collection(trees, costs, rounds, reuse, max_batch).run()


class _Collection:
    """The state of a collection between two events."""

    def __init__(
        self, trees: Sequence[Plan], costs: Costs, rounds: bool, reuse: bool, max_batch: int
    ) -> None:
        self.costs, self.rounds, self.reuse, self.max_batch = costs, rounds, reuse, max_batch
        self.parts = dict.fromkeys(("decode", "prefill", "host", "tools"), 0.0)
        self.clock, self.steps, self.prefilled, self.pairs = 0.0, 0, 0, 0
        self.order = count()  # ties go by order of arrival
        self.waiting: deque[Node] = deque()
        self.running: list[tuple[int, int, Node]] = []  # by the engine's step that ends them
        self.context = 0  # tokens that the running turns attend to
        self.tools: list[tuple[float, int, Node]] = []  # by the time at which they answer
        self.held: list[Node] = []  # forks that wait for all other chains
        self.known: set[Node] = set()  # whose keys and values are there
        self.waves = {plan.tree.root: iter(plan.waves) for plan in trees}
        self.open: dict[Node, int] = {}  # chains of a tree that have not ended
        self.ends: dict[Node | None, int] = {}  # tokens from the prompt on
        for root in self.waves:
            self.ends[root] = len(root.inserted)
            self._fork(root, self.waiting)

    def run(self) -> Collected:
        while self.waiting or self.running or self.tools or self.held:
            if self.waiting or self.running:
                self._admit()
                self._decode()
            self._release()
        return Collected(len(self.waves), self.parts, self.steps, self.prefilled, self.pairs)

    def _spend(self, part: str, seconds: float) -> None:
        self.parts[part] += seconds
        self.clock += seconds

    def _fork(self, root: Node, queue: deque[Node] | list[Node]) -> None:
        """Queue the next chains of a tree, if there are any."""
        firsts = next(self.waves[root], [])
        self.open[root] = len(firsts)
        queue.extend(firsts)

    def _admit(self) -> None:
        """Start turns while there is room, each after the prefill that it needs."""
        while self.waiting and len(self.running) < self.max_batch:
            turn = self.waiting.popleft()
            before = self.ends[turn.parent]
            work = stretch(before - self._unknown(turn), before)
            self.prefilled += work.tokens
            self.pairs += work.pairs
            tokens, pairs = self.costs.prefill_token, self.costs.prefill_pair
            self._spend("prefill", work.tokens * tokens + work.pairs * pairs)
            heappush(self.running, (self.steps + len(turn.sampled), next(self.order), turn))
            self.context += before

    def _unknown(self, turn: Node) -> int:
        """Tokens of a turn's context whose keys and values are not there.

        The last token that the turn before sampled has not been through the model yet.
        """
        source = turn.parent
        if source is None or source in self.known:
            return 0
        if not self.reuse:
            return self.ends[turn.parent]
        self.known.add(source)
        return len(source.inserted) + (source.parent is not None)

    def _decode(self) -> None:
        """Take steps until a turn ends or a tool answers that a turn could start with."""
        costs, n = self.costs, len(self.running)
        steps = self.running[0][0] - self.steps
        # Seconds of j steps: j * first + j * (j - 1) / 2 * growth, as contexts grow by n a step.
        first = costs.decode_step + n * costs.decode_token + self.context * costs.decode_pair
        growth = n * costs.decode_pair
        if self.tools and not self.rounds and n < self.max_batch:
            steps = min(steps, _steps(self.tools[0][0] - self.clock, first, growth))
        self.pairs += steps * self.context + steps * (steps - 1) // 2 * n
        self._spend("decode", steps * first + steps * (steps - 1) / 2 * growth)
        self.steps += steps
        self.context += n * steps
        while self.running and self.running[0][0] == self.steps:
            turn = heappop(self.running)[2]
            spoken = self.ends[turn.parent] + len(turn.sampled)
            self.context -= spoken
            self.ends[turn] = spoken + len(turn.inserted)
            self._spend("host", costs.turn)
            self._ended(turn)

    def _ended(self, turn: Node) -> None:
        if turn.children:
            answered = self.clock + turn.info.get(TOOL_SECONDS, 0.0)
            heappush(self.tools, (answered, next(self.order), turn.children[0]))
            return
        root = turn.path()[0]
        self.open[root] -= 1
        if not self.open[root]:
            self._fork(root, self.held if self.rounds else self.waiting)

    def _release(self) -> None:
        """Queue turns whose tools have answered; wait for these if nothing else can be done."""
        busy = bool(self.waiting or self.running)
        if self.rounds and busy:
            return
        if self.tools and not busy:
            times = [time for time, _, _ in self.tools]
            until = max(times) if self.rounds else min(times)
            self._spend("tools", max(0.0, until - self.clock))
            self.clock = max(self.clock, until)  # not a rounding error before it
        while self.tools and self.tools[0][0] <= self.clock:
            self.waiting.append(heappop(self.tools)[2])
        if self.rounds and not self.waiting:
            self.waiting.extend(self.held)
            self.held.clear()


def _steps(seconds: float, first: float, growth: float) -> int:
    """The least number of steps, at least 1, that take at least so long."""
    if growth:
        linear = first - growth / 2
        root = (math.sqrt(linear**2 + 2 * growth * max(seconds, 0.0)) - linear) / growth
    else:
        root = max(seconds, 0.0) / first if first else math.inf
    return max(1, math.ceil(root)) if math.isfinite(root) else 1 << 62
