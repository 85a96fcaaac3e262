"""A scripted agent for Household that plans with full sight of the house."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from at2po_envs.episode.core import state_of
from at2po_envs.household.core import HouseholdRules, HouseholdState
from at2po_envs.household.house import HANDS, World
from at2po_envs.household.planner import plan
from at2po_envs.question_sets.questions import Question
from at2po_envs.scripted import Script, Scripted
from at2po_envs.seeds import stable_hash


class PlannerAgent(Scripted):
    """Takes a shortest way to each goal; it knows what furniture hides, so it never searches.

    A turn that goes wrong gives a needless command or forgets a tag. It plans again after each, so
    it recovers where turns are left.
    """

    asked: ClassVar[str] = "tasks"
    core: HouseholdRules

    def play(self, question: Question, seed: int | None = None) -> Script:
        """Start the script of one task; it goes on as long as it is asked."""
        seed = self.seed if seed is None else seed
        state = self.core.begin(question)[0]
        while not state.done:
            action = self._write(state, seed)
            yield action
            state = state_of(self.core.transition(state, action).state, HouseholdState)

    def _next(self, question: Question, transcript: Sequence[str]) -> str:
        # The household follows from the actions, so the episode is played again up to here.
        state = self.core.begin(question)[0]
        for action in transcript[1::2]:
            state = state_of(self.core.transition(state, action).state, HouseholdState)
        return self._write(state, self.seed)

    def _write(self, state: HouseholdState, seed: int) -> str:
        rng = np.random.default_rng(stable_hash(seed, state.question.key, len(state.turns)))
        command = plan(state.world, state.goal)[0]
        if rng.random() < self.error_rate:
            others = needless(state.world)
            choice = int(rng.integers(len(others) + 1))
            if choice == len(others):
                return f"<think> {_thought(command)} </think> <act> {command}"
            command = others[choice]
        return f"<think> {_thought(command)} </think> <act> {command} </act>"


def _thought(command: str) -> str:
    """Why one would give a command, in a few words."""
    verb, _, rest = command.partition(" ")
    if not rest:
        return "Let me see."
    return {
        "go": f"On to the {rest}.",
        "open": f"I look into the {rest}.",
        "take": f"I need the {rest}.",
        "put": f"Now the {rest.replace(' in ', ' goes in the ').replace(' on ', ' goes on the ')}.",
        "unlock": f"My key opens the {rest}.",
        "switch": f"The {rest.removeprefix('on ')} has to be on.",
    }.get(verb, f"I {verb} the {rest}.")


def needless(world: World) -> list[str]:
    """Commands that can be carried out here and now, whatever the goal."""
    return [
        "look",
        "inventory",
        *(f"go {room}" for room in world.house.exits(world.room)),
        *(f"take {thing.name}" for thing in world.visible()),
        *(
            f"put {thing.name} {piece.preposition} {piece.name}"
            for thing in world.at(HANDS)
            for piece in world.here()
            if world.shows(piece)
        ),
    ]
