"""Small workloads and costs that the tests of the simulation share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from at2po_agents.tree import Node, RolloutTree
from benchmarks.scale.costs import Costs
from benchmarks.scale.workload import Plan, Turn, Workload
from benchmarks.speed.step_cost import PaperStep

SMALL = Workload(PaperStep(prompts=4, chains=3, beam=2, mean_turns=2.5, turn=9), most_turns=4)
SOME = Costs(
    decode_step=0.05,
    decode_token=0.002,
    decode_pair=1e-6,
    prefill_token=1e-4,
    prefill_pair=1e-8,
    turn=0.001,
    train_token=1e-3,
    train_pair=1e-7,
    train_logit=1e-4,
    optimizer=0.1,
    exchanged=0.5,
    publish=0.3,
    load=0.2,
    switch=0.1,
)


def draw(seed: int, questions: int = 4, workload: Workload = SMALL) -> list[Plan]:
    return workload.draw(questions, np.random.default_rng(seed))


def real(plan: Plan) -> RolloutTree:
    """Build the tree that a plan grows, children in the order in which they start."""
    tree = RolloutTree("q", [0] * plan.prompt)
    made: dict[Turn, Node] = {}

    def grow(turn: Turn | None) -> None:
        while turn is not None:
            above = made[turn.parent] if turn.parent else tree.root
            ids = {"sampled": [0] * turn.sampled, "inserted": [0] * turn.inserted}
            made[turn] = tree.add(above, **ids)
            turn = turn.follows

    for wave in plan.waves:
        for first in wave:
            grow(first)
    return tree


def chain(*turns: tuple[int, int, float], prompt: int = 10) -> Plan:
    """Build a tree of one chain, by sampled and inserted tokens and seconds of the tool."""
    plan = Plan(prompt)
    before: Turn | None = None
    for sampled, inserted, tool in turns:
        turn = plan.add(before, sampled)
        turn.inserted, turn.fresh, turn.tool = inserted, inserted + 1, tool
        if before:
            before.follows = turn
        before = turn
    plan.waves = [[plan.turns[0]]]
    return plan


def chains_of(firsts: Sequence[Turn]) -> list[Turn]:
    """All turns of chains, by their first turns."""
    turns: list[Turn] = []
    for first in firsts:
        turn: Turn | None = first
        while turn is not None:
            turns.append(turn)
            turn = turn.follows
    return turns


def steps_of(seed: int, count: int = 3, questions: int = 8) -> list[list[Plan]]:
    rng = np.random.default_rng(seed)
    return [SMALL.draw(questions, rng) for _ in range(count)]
