"""The Gymnasium environment of Household."""

from __future__ import annotations

from at2po_envs.dialects import make_dialect
from at2po_envs.episode.env import ForkableTextEnv
from at2po_envs.household.core import ACT, HouseholdRules, HouseholdTags
from at2po_envs.household.experts import PlannerAgent
from at2po_envs.household.tasks import SIZES, draw_questions
from at2po_envs.seeds import Split


class HouseholdEnv(ForkableTextEnv):
    """Find things in a house, clean, heat or cool them, and bring them where they belong.

    A long horizon with one sparse reward: 1 in the turn that reaches the goal, else 0. The house is
    seen in part: the room one is in, without what closed furniture hides.

    Args:
        preset: `"small"` (3 rooms, 8 things, 20 turns) or `"standard"` (6 rooms, one of them
            locked, 20 things and the key, 50 turns).
        split: `"train"` or `"test"`; their goals differ.
        seed: Which households.
        questions: Number of tasks, >= 1.
        dialect: `"at2po"` or `"tool-calls"`.
        prompt: `"tools"`, which explains the commands, or `"brief"`.
        max_turns: Turns per episode, >= 1; the preset's by default.
        render_mode: None or `"ansi"`.

    Raises:
        UnknownNameError: If there is no such preset, dialect, prompt or render mode.
        ValueError: If a number is out of range or there is no such split.
    """

    core: HouseholdRules

    def __init__(
        self,
        preset: str = "small",
        split: Split = "train",
        seed: int = 0,
        *,
        questions: int = 200,
        dialect: str = "at2po",
        prompt: str = "tools",
        max_turns: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Draw the tasks; each is solved once to know its length."""
        tasks = draw_questions(preset, split, seed, questions)
        turns = SIZES[preset].turns if max_turns is None else max_turns
        tags = dialect == "at2po"
        spoken = HouseholdTags(prompt) if tags else make_dialect(dialect, prompt, (ACT,))
        super().__init__(HouseholdRules(spoken, turns), tasks, render_mode=render_mode)

    def expert(self, *, error_rate: float = 0.0, seed: int = 0) -> PlannerAgent:
        """Return a demonstrator that sees the whole house; it writes the tags of AT²PO.

        Args:
            error_rate: Chance that one of its turns goes wrong; 0 takes a shortest way to the goal.
            seed: Seed of the errors.

        Returns:
            An agent for the tasks of this environment.
        """
        return PlannerAgent(self.questions, self.core, error_rate=error_rate, seed=seed)
