"""The dialect of chat models with tools: `<tool_call>` JSON out, tool messages in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from at2po_envs.dialects.arguments import argument_problem
from at2po_envs.dialects.base import Action, Reading
from at2po_envs.dialects.messages import Messages
from at2po_envs.dialects.tags import enclosed
from at2po_envs.dialects.tool_calls_text import TurnText, WrittenCall, take_apart
from at2po_envs.errors import check_known
from at2po_envs.tools import SEARCH, ToolCall, ToolResult, ToolSpec

PROMPTS = ("tools", "brief")

_INSTRUCTION = (
    "Solve the task step by step. Reason inside <think> </think>, then call tools as often as you "
    "need. When you know, give the answer and nothing else inside <answer> </answer>."
)

_LIMIT = "The limit of tool calls is reached; no call was made. Give the final answer."


@dataclass(frozen=True)
class ToolCalls:
    """Tool calls as Qwen3 and Hermes write them, and messages that go through a chat template.

    A turn is thinking, then any number of `<tool_call>{"name": ..., "arguments": {...}}
    </tool_call>` or an answer. What stands in `<think> </think>` is neither. The answer is what
    `<answer> </answer>` holds, or else all of a turn without calls. There are no stop strings:
    a turn ends with the model's end-of-turn token.

    Args:
        prompt_name: `"tools"` for a system message that says how to answer, `"brief"` for the
            bare question.
        tools: The tools that can be called, at least one.

    Raises:
        UnknownNameError: If there is no such prompt.
        ValueError: If there are no tools.
    """

    prompt_name: str = "tools"
    tools: tuple[ToolSpec, ...] = (SEARCH,)

    stop: ClassVar[tuple[str, ...]] = ()
    limit_notice: ClassVar[Messages] = Messages(_LIMIT, [{"role": "tool", "content": _LIMIT}])

    def __post_init__(self) -> None:
        """Refuse a prompt that does not exist, and a dialect of calls with nothing to call."""
        check_known("the prompt", self.prompt_name, PROMPTS)
        if not self.tools:
            raise ValueError("expected at least one tool, found none; pass tools=(...)")

    @cached_property
    def templates(self) -> tuple[str, ...]:
        """A call of each tool that takes one text, and an answer."""
        calls = tuple(
            f'<tool_call>\n{{{{"name": "{tool.name}", "arguments": {{{{"{tool.argument}": "{{}}"'
            "}}}}\n</tool_call>"
            for tool in self.tools
            if tool.argument
        )
        return (*calls, "<answer> {} </answer>")

    def prompt(self, question: str) -> Messages:
        """Return the first messages, with the tools' schemas.

        Args:
            question: The question, as the user asks it.
        """
        messages = [{"role": "user", "content": question}]
        if self.prompt_name != "brief":
            messages.insert(0, {"role": "system", "content": _INSTRUCTION})
        schemas = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": dict(tool.parameters),
                },
            }
            for tool in self.tools
        ]
        listed = (f"Tool {tool.name}: {tool.description}" for tool in self.tools)
        text = "\n".join([*listed, *(message["content"] for message in messages)]) + "\n"
        return Messages(text, messages, schemas)

    def parse(self, text: str) -> Action:
        """Read a turn.

        Args:
            text: The agent's own text of this turn, without the end-of-turn token.

        Returns:
            All calls in order, the malformed ones with their problem; without calls an answer; or
            neither where there is nothing but thinking.
        """
        return self._action(take_apart(text))

    def _action(self, turn: TurnText) -> Action:
        if turn.calls:
            return Action("tool", tuple(self._call(written) for written in turn.calls))
        return Action("answer" if turn.said.strip() else "none")

    def _call(self, written: WrittenCall) -> ToolCall:
        if written.problem:
            return _problem("", written.problem)
        call = written.content
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return _problem("", 'expected {"name": ..., "arguments": {...}} in <tool_call>')
        name = call["name"]
        tool = next((tool for tool in self.tools if tool.name == name), None)
        if tool is None:
            known = ", ".join(tool.name for tool in self.tools)
            return _problem(name[:80], f"there is no tool {name[:80]!r}, only {known}")
        arguments = call.get("arguments", {})
        if problem := argument_problem(tool, arguments):
            return _problem(name, problem)
        return ToolCall(name, arguments)

    def render(self, results: Sequence[ToolResult]) -> Messages:
        """Return one message of role `tool` for each result, the reason for a failed one."""
        texts = [result.shown for result in results]
        return Messages("\n".join(texts), [{"role": "tool", "content": text} for text in texts])

    def read(self, turns: Sequence[str]) -> Reading:
        """Read an ended episode.

        Args:
            turns: The agent's texts in order, without anything that the environment inserted.

        Returns:
            The answer of the last turn: the last `<answer> </answer>`, or without one everything
            that is not thinking, if the turn has no calls. The format is right if thinking comes
            first in every turn, once at most, and ends; every turn but the last has calls, all of
            them well-formed; and the last has one `<answer> </answer>` and no call.
        """
        if not turns:
            return Reading(None, False)
        *before, last = map(take_apart, turns)
        said, answered = last.said.strip(), self._action(last).kind == "answer"
        answers = [answer for _, answer in enclosed(said, "answer")]
        answer = answers[-1].strip() if answers else said if answered else None
        format_ok = (
            all(turn.thinks_well for turn in (*before, last))
            and all(map(self._calls_well, before))
            and answered
            and said.count("<answer>") == said.count("</answer>") == len(answers) == 1
        )
        return Reading(answer, format_ok)

    def _calls_well(self, turn: TurnText) -> bool:
        action = self._action(turn)
        return action.kind == "tool" and not any(call.problem for call in action.calls)


def _problem(name: str, reason: str) -> ToolCall:
    return ToolCall(name, problem=f"The tool was not called: {reason}.")
