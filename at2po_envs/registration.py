"""Gymnasium ids."""

from __future__ import annotations

import gymnasium

from at2po_envs.question_sets.questions import QUESTION_SETS

_WORLDS = {
    "MiniWiki": ("at2po_envs.miniwiki:MiniWikiEnv", "miniwiki"),
    "Calculator": ("at2po_envs.calculator:CalculatorEnv", "calculator"),
    "Household": ("at2po_envs.household:HouseholdEnv", "household"),
    "Replay": ("at2po_envs.forking.replay:ReplayFork", "replay"),
}


def register_all() -> None:
    """Register `at2po/<name>-v0`: the seven question sets, the other worlds, and the wrapper."""
    for name, question_set in QUESTION_SETS.items():
        gymnasium.register(
            id=f"at2po/{name}-v0",
            entry_point="at2po_envs.search_qa.env:SearchQAEnv",
            vector_entry_point="at2po_envs.episode.vector:search_qa",
            kwargs={"question_set": question_set},
        )
    for name, (entry_point, vector) in _WORLDS.items():
        gymnasium.register(
            id=f"at2po/{name}-v0",
            entry_point=entry_point,
            vector_entry_point=f"at2po_envs.episode.vector:{vector}",
        )
