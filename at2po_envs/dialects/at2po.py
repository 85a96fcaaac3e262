r"""The dialect of AT²PO: think, call and answer in tags, the answer in a ``\boxed{}``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from at2po_envs.dialects.arguments import argument_problem, read_json
from at2po_envs.dialects.base import Action, Reading
from at2po_envs.errors import UnknownNameError, nearest
from at2po_envs.tools import SEARCH, ToolCall, ToolResult, ToolSpec

PROMPTS = ("paper", "brief", "tools")

# Source: algorithms.md section 7.2, the text as the authors meant it (the released script turns
# the \b of \boxed into a backspace character).
_PAPER_PROMPT = (
    "You are a helpful assistant that can solve the given question step by step with the help of "
    "the wikipedia search tool. Given a question, you need to first think about the reasoning "
    "process in the mind and then provide the answer. During thinking, you can invoke the "
    "wikipedia search tool to search for fact information about specific topics if needed. You "
    "can search as many times as your want. The reasoning process and answer are enclosed within "
    "<think> </think> and <answer> </answer> tags respectively, and the search query and result "
    "are enclosed within <search> </search> and <result> </result> tags respectively. For "
    "example, <think> This is the reasoning process. </think> <search> search query here "
    "</search> <result> search result here </result>  <think> This is the reasoning process. "
    r"</think> <answer> The final answer is \[ \boxed{answer here} \] </answer>. In the last part "
    r"of the answer, the final exact answer is enclosed within \boxed{} with latex format."
)


@dataclass(frozen=True)
class At2poTags:
    r"""The tags of AT²PO: ``<think>``, one tag a tool, ``<result>``, ``<answer>`` with a box.

    A tag holds the tool's only required argument as plain text; a tool with several, or with
    optional ones, takes a JSON object.

    Args:
        prompt_name: ``"paper"`` for the paper's instruction (search only), ``"brief"`` for the bare
            question, which suits a small context, ``"tools"`` for one that explains every tool.
        tools: The tools that can be called.

    Raises:
        UnknownNameError: If there is no such prompt.
        ValueError: If the paper's prompt is asked for with other tools than search.

    Source: algorithms.md sections 1.3, 2.1, 2.2 and 7.2.
    """

    prompt_name: str = "paper"
    tools: tuple[ToolSpec, ...] = (SEARCH,)

    limit_notice: ClassVar[str] = (
        " I have reached the tool call limit and cannot make further tool calls. Let me provide "
        "the final answer based on the information I have gathered so far. \n\n"
    )

    def __post_init__(self) -> None:
        """Refuse a prompt that does not exist or does not fit the tools."""
        if self.prompt_name not in PROMPTS:
            raise UnknownNameError(
                f"expected the prompt to be one of {', '.join(PROMPTS)}, found "
                f"{self.prompt_name!r}; {nearest(self.prompt_name, PROMPTS)}"
            )
        names = [tool.name for tool in self.tools]
        if self.prompt_name == "paper" and names != ["search"]:
            raise ValueError(
                f"the paper's prompt speaks of search alone, found the tools {names}; "
                "choose the prompt 'tools'"
            )

    @cached_property
    def stop(self) -> tuple[str, ...]:
        """The closing tags of all tools and of the answer."""
        return (*(f"</{tool.name}>" for tool in self.tools), "</answer>")

    @cached_property
    def templates(self) -> tuple[str, ...]:
        """A call of each tool that takes plain text, and an answer."""
        calls = tuple(
            f"<think> I should look this up. </think> <{tool.name}> {{}} </{tool.name}>"
            for tool in self.tools
            if tool.argument
        )
        answer = (
            r"<think> I know. </think> <answer> The final answer is \[ \boxed{{{}}} \] </answer>"
        )
        return (*calls, answer)

    @cached_property
    def _closing(self) -> re.Pattern[str]:
        return re.compile(f"</({'|'.join([*self._by_name, 'answer'])})>")

    @cached_property
    def _by_name(self) -> dict[str, ToolSpec]:
        return {tool.name: tool for tool in self.tools}

    def prompt(self, question: str) -> str:
        """Return the prompt of a question.

        Args:
            question: The question; the paper's prompt strips it and lets it end in ``?``.

        Returns:
            The text that an episode starts with.
        """
        if self.prompt_name == "brief":
            return f"Question: {question}\n"
        if self.prompt_name == "tools":
            return f"{self._instruction}\nQuestion: {question}\n"
        question = question.strip()
        return f"{_PAPER_PROMPT}\nuser\n{question}{'' if question.endswith('?') else '?'}"

    @cached_property
    def _instruction(self) -> str:
        return "\n".join(
            [
                "Solve the task step by step. Reason inside <think> </think>, then call one tool "
                "by writing its tag; what it returns follows inside <result> </result>.",
                *(f"<{t.name}> {_holds(t)} </{t.name}>: {t.description}" for t in self.tools),
                r"When you know, end with <answer> \boxed{the answer and nothing else} </answer>.",
            ]
        )

    def parse(self, text: str) -> Action:
        """Read a turn; its first closing tag decides and what follows that tag is ignored.

        Args:
            text: The agent's own text of this turn.

        Returns:
            One call with the text behind the last opening tag, an answer, or neither.
        """
        closing = self._closing.search(text)
        if closing is None:
            return Action("none")
        name = closing.group(1)
        if name == "answer":
            return Action("answer")
        _, opening, content = text[: closing.start()].rpartition(f"<{name}>")
        return Action("tool", (self._call(self._by_name[name], bool(opening), content.strip()),))

    def _call(self, tool: ToolSpec, opened: bool, content: str) -> ToolCall:
        if not opened:
            return _problem(tool, f"</{tool.name}> has no <{tool.name}> before it")
        several = len(tool.parameters.get("properties", {})) > 1
        if tool.argument and not (several and content.startswith("{")):
            # A query of nothing but quotation marks is empty too.
            if not content.replace('"', "").strip():
                return _problem(tool, f"the {tool.argument} is empty")
            return ToolCall(tool.name, {tool.argument: content})
        try:
            arguments = read_json(content)
        except ValueError as error:
            return _problem(tool, f"its arguments are not JSON: {error}")
        if problem := argument_problem(tool, arguments):
            return _problem(tool, problem)
        return ToolCall(tool.name, arguments)

    def render(self, results: Sequence[ToolResult]) -> str:
        r"""Return `` <result>\n...\n</result>`` for each result, the reason for a failed one."""
        texts = (result.text if result.ok else result.error for result in results)
        return "".join(f" <result>\n{text}\n</result>" for text in texts)

    def read(self, turns: Sequence[str]) -> Reading:
        """Read an ended episode.

        Every turn but the last was answered by the environment; whatever it answered (a result,
        an error, the limit notice) counts as the ``<result>`` that a call must be followed by.

        Args:
            turns: The agent's texts in order, without anything that the environment inserted.

        Returns:
            The boxed answer of the first turn whose first closing tag is ``</answer>``, and
            whether the whole is in the format.
        """
        return Reading(self._answer(turns), self._format_ok(turns))

    def _answer(self, turns: Sequence[str]) -> str | None:
        for turn in turns:
            closing = self._closing.search(turn)
            if closing and closing.group() == "</answer>":
                _, opening, inside = turn[: closing.start()].partition("<answer>")
                return extract_boxed(inside) if opening else None
        return None

    def _format_ok(self, turns: Sequence[str]) -> bool:
        whole = "\n".join(turns)
        if not 1 <= whole.count("<think>") == whole.count("</think>"):
            return False
        if whole.count("<answer>") != 1 or whole.count("</answer>") != 1:
            return False
        if not all(
            self._calls_ok(turn, answered=number < len(turns))
            for number, turn in enumerate(turns, start=1)
        ):
            return False
        inside, closing, _ = whole.partition("<answer>")[2].partition("</answer>")
        return bool(closing) and "\\boxed{" in inside and "}" in inside

    def _calls_ok(self, turn: str, *, answered: bool) -> bool:
        """Return whether every call opened in a turn was closed and got its result."""
        # Source: algorithms.md section 2.1: <python> is a call too; where there is no such tool
        # it never gets a result.
        if "python" not in self._by_name and "<python>" in turn:
            return False
        opened = [name for name in self._by_name if f"<{name}>" in turn]
        if len(opened) > 1:
            return False  # one result cannot answer two calls
        for name in opened:
            query, closing, after = turn.partition(f"<{name}>")[2].partition(f"</{name}>")
            if not (answered and closing) or f"<{name}>" in query + after:
                return False
        return True


def extract_boxed(text: str) -> str | None:
    r"""Return the content of the last ``\boxed{...}``, None if there is none or it never closes.

    Where ``\boxed`` is followed by a space, everything behind its last such use counts, up to the
    first ``$``.

    Source: algorithms.md section 2.2.
    """
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    _, box, rest = text.rpartition("\\boxed{")
    if not box:
        return None
    depth = 1
    for position, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[:position]
    return None


def _holds(tool: ToolSpec) -> str:
    """What to write into a tool's tag."""
    if tool.argument:
        return tool.argument
    return json.dumps({name: "..." for name in tool.parameters.get("properties", {})})


def _problem(tool: ToolSpec, reason: str) -> ToolCall:
    fix = f"Write <{tool.name}> {_holds(tool)} </{tool.name}>."
    return ToolCall(tool.name, problem=f"The {tool.name} tool was not called: {reason}. {fix}")
