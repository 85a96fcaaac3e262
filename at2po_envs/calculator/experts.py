"""A scripted agent for Calculator: one call of the tool for each operation."""

from __future__ import annotations

import re
from typing import ClassVar

import numpy as np

from at2po_envs.calculator.problems import Step, solution_of
from at2po_envs.episode.core import ToolQA
from at2po_envs.errors import At2poEnvError
from at2po_envs.question_sets.questions import Question
from at2po_envs.scripted import Script, Scripted
from at2po_envs.seeds import choose
from at2po_envs.tools.calculator import calculate, written

ERRORS = ("wrong number", "wrong operation", "bad format")

_RESULT = re.compile(r"-?\d+(?:[./]\d+)?")


class StepByStepAgent(Scripted):
    """Solves word problems one operation a turn, and goes on with what the tool returned.

    A turn that goes wrong misreads a number, takes a wrong operation, or forgets a tag or the box.
    """

    asked: ClassVar[str] = "problems"
    core: ToolQA

    def play(self, question: Question, seed: int | None = None) -> Script:
        """Start the script of one problem; it ends itself with an answer."""
        rng = self._generator(question, seed)
        results: list[str] = []
        thought = ""
        for step in solution_of(question):
            error = self._error(rng)
            expression = _mistaken(step, error, rng).filled(results)
            result = _worked_out(expression)
            if len(results) < self.core.max_tool_calls:  # else it calculates by itself
                close = "" if error == "bad format" else " </think>"
                said = f"<think> {thought}{step.reason[0].upper()}{step.reason[1:]}.{close}"
                observation = yield f"{said} <calculator> {expression} </calculator>"
                found = _RESULT.search(observation)
                result = found.group() if found else result
            results.append(result)
            thought = f"That makes {result}. "
        box = f"\\boxed{{ {results[-1]} }}"
        while True:
            shown = results[-1] if self._error(rng) == "bad format" else box
            yield f"<think> {thought}This is the answer. </think> <answer> {shown} </answer>"

    def _error(self, rng: np.random.Generator) -> str:
        if rng.random() >= self.error_rate:
            return ""
        return choose(ERRORS, rng)


def _mistaken(step: Step, error: str, rng: np.random.Generator) -> Step:
    """The step as an error has it."""
    first, operator, second = step.expression.split()
    if error == "wrong operation":
        operator = "+" if operator != "+" else "-"
    elif error == "wrong number" and not second.startswith("#"):
        second = str(int(rng.integers(2, 100)))
    return Step(f"{first} {operator} {second}", step.reason)


def _worked_out(expression: str) -> str:
    try:
        return written(calculate(expression))
    except At2poEnvError:
        return "0"
