"""Small workloads and costs that the tests of the simulation share."""

from __future__ import annotations

import numpy as np

from at2po_agents.tree import RolloutTree
from benchmarks.scale.costs import Costs
from benchmarks.speed.paper_step import TOOL_SECONDS, PaperStep, Plan

SMALL = PaperStep(prompts=4, chains=3, beam=2, mean_turns=2.5, most_turns=4, turn=9)
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


def draw(seed: int, questions: int = 4, step: PaperStep = SMALL) -> list[Plan]:
    return step.draw(questions, np.random.default_rng(seed))


def steps_of(seed: int, count: int = 3, questions: int = 8) -> list[list[Plan]]:
    rng = np.random.default_rng(seed)
    return [SMALL.draw(questions, rng) for _ in range(count)]


def chain(*turns: tuple[int, int, float], prompt: int = 10) -> Plan:
    """Build a tree of one chain, by sampled and inserted tokens and seconds of the tool."""
    tree = RolloutTree("", [0] * prompt)
    node = tree.root
    for sampled, inserted, tool in turns:
        ids = {"sampled": [0] * sampled, "inserted": [0] * inserted}
        node = tree.add(node, **ids, info={TOOL_SECONDS: tool})
    return Plan(tree, [tree.root.children[:]])


def star(*sampled: int, prompt: int = 10) -> Plan:
    """Build a tree of chains of one turn each, by sampled tokens."""
    tree = RolloutTree("", [0] * prompt)
    return Plan(tree, [[tree.add(tree.root, sampled=[0] * count) for count in sampled]])
