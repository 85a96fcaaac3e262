"""The Gymnasium environment of Calculator."""

from __future__ import annotations

from at2po_envs.calculator.experts import StepByStepAgent
from at2po_envs.calculator.problems import draw_problems
from at2po_envs.scoring.answers import numeric_match
from at2po_envs.seeds import Split
from at2po_envs.tool_env import ToolEnv
from at2po_envs.tools.calculator import CalculatorTool


class CalculatorEnv(ToolEnv):
    """Solve word problems of several steps with a calculator; answers are checked exactly.

    Args:
        level: 1 to 5: up to `level + 1` operations, from 3 on with numbers that do not matter.
        split: `"train"` or `"test"`; they share no name and no sequence of events and numbers.
        seed: Which problems.
        questions: Number of problems, 1 to 100,000.
        dialect: `"at2po"` or `"tool-calls"`.
        prompt: `"tools"`, which explains the tool, or `"brief"`.
        max_tool_calls: Calculations per episode, >= 0.
        render_mode: None or `"ansi"`.

    Raises:
        UnknownNameError: If there is no such dialect, prompt or render mode.
        ValueError: If a number is out of range or there is no such split.
    """

    def __init__(
        self,
        level: int = 3,
        split: Split = "train",
        seed: int = 0,
        *,
        questions: int = 500,
        dialect: str = "at2po",
        prompt: str = "tools",
        max_tool_calls: int = 8,
        render_mode: str | None = None,
    ) -> None:
        """Draw the problems."""
        super().__init__(
            draw_problems(level, split, seed, questions),
            [CalculatorTool()],
            dialect=dialect,
            prompt=prompt,
            max_tool_calls=max_tool_calls,
            match=numeric_match,
            render_mode=render_mode,
        )

    def expert(self, *, error_rate: float = 0.0, seed: int = 0) -> StepByStepAgent:
        """Return the scripted agent of these problems; it writes the tags of AT²PO.

        Args:
            error_rate: Chance that one of its turns goes wrong; 0 solves every problem.
            seed: Seed of the errors.

        Returns:
            An agent that knows every problem of this environment.
        """
        return StepByStepAgent(self.questions, self.core, error_rate=error_rate, seed=seed)
