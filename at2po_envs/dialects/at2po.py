r"""The dialect of AT²PO: think, call and answer in tags, the answer in a `\boxed{}`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from at2po_envs.dialects.arguments import argument_problem, is_blank, read_json
from at2po_envs.dialects.base import READINGS, Action, HowRead, Reading
from at2po_envs.dialects.boxes import extract_boxed, released_boxed
from at2po_envs.dialects.released import released_format_ok
from at2po_envs.dialects.tags import outside_thoughts
from at2po_envs.errors import check_known
from at2po_envs.tools import SEARCH, ToolCall, ToolResult, ToolSpec

PROMPTS = ("paper", "brief", "tools")

_THINK = re.compile("(</?think>)")

# Source: data_process/hotpotqa_multihop_train.py of github.com/zzfoutofspace/ATPO at 98e60f6, the
# text as the authors meant it (Python reads the \b of their \boxed as a backspace character).
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
    r"""The tags of AT²PO: `<think>`, one tag a tool, `<result>`, `<answer>` with a box.

    A tag holds the tool's only required argument as plain text; a tool with several, or with
    optional ones, takes a JSON object.

    Args:
        prompt_name: `"paper"` for the paper's instruction (search only), `"brief"` for the bare
            question, which suits a small context, `"tools"` for one that explains every tool.
        tools: The tools that can be called.
        reading: How an ended episode is read: by its `"structure"`, or as the `"released"`
            scorer does, which takes tags that are only mentioned for tags.

    Raises:
        UnknownNameError: If there is no such prompt or reading.
        ValueError: If the paper's prompt is asked for with other tools than search.

    Source: AT²PO (arXiv 2601.04767); data_process/hotpotqa_multihop_train.py and
    ATPO/verl_atpo/verl/utils/reward_score/deep_research_em.py of github.com/zzfoutofspace/ATPO at
    98e60f6.
    """

    prompt_name: str = "paper"
    tools: tuple[ToolSpec, ...] = (SEARCH,)
    reading: HowRead = "structure"

    limit_notice: ClassVar[str] = (
        " I have reached the tool call limit and cannot make further tool calls. Let me provide "
        "the final answer based on the information I have gathered so far. \n\n"
    )

    def __post_init__(self) -> None:
        """Refuse a prompt that does not exist or does not fit the tools, and an unknown reading."""
        check_known("the reading", self.reading, READINGS)
        check_known("the prompt", self.prompt_name, PROMPTS)
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
            question: The question; the paper's prompt strips it and lets it end in `?`.

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
            if is_blank(content):
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
        r"""Return ` <result>\n...\n</result>` for each result, the reason for a failed one."""
        return "".join(f" <result>\n{result.shown}\n</result>" for result in results)

    def read(self, turns: Sequence[str]) -> Reading:
        """Read an ended episode.

        Args:
            turns: The agent's texts in order, without anything that the environment inserted.

        Returns:
            The boxed answer of the first turn whose first closing tag is `</answer>`, and
            whether the whole is in the format: as `released_format_ok` asks, where tags that a
            thought, a query or the answer mentions do not count; but a thought in a thought does.
        """
        if self.reading == "released":
            answer = self._answered(turns, lambda text: text.find("<answer>"))
            box = None if answer is None else released_boxed(answer)
            return Reading(box, released_format_ok(turns, self._by_name))
        answer = self._answered(turns, _answer_start)
        box = None if answer is None else extract_boxed(answer)
        return Reading(box, released_format_ok(self._skeletons(turns), self._by_name))

    def _answered(self, turns: Sequence[str], start_of: Callable[[str], int]) -> str | None:
        """What the first turn that answers has between its tags."""
        for turn in turns:
            closing = self._closing.search(turn)
            if closing and closing.group() == "</answer>":
                before = turn[: closing.start()]
                start = start_of(before)
                return before[start + len("<answer>") :] if start >= 0 else None
        return None

    def _skeletons(self, turns: Sequence[str]) -> list[str]:
        """The turns without what stands in thoughts, in calls and, but for a box, in the answer."""
        skeletons, thinking = [], False
        for turn in turns:
            head, block, tail = self._parts(turn)
            head, thinking = _without_thoughts(head, thinking)
            tail, thinking = _without_thoughts(tail, thinking)
            skeletons.append(head + block + tail)
        return skeletons

    def _parts(self, turn: str) -> tuple[str, str, str]:
        """What stands before the call or answer, its tags, and what stands behind it."""
        closing = self._closing.search(turn)
        if closing is None:
            return turn, "", ""
        name, before, tail = closing.group(1), turn[: closing.start()], turn[closing.end() :]
        start = _answer_start(before) if name == "answer" else before.rfind(f"<{name}>")
        if start < 0:
            return before, closing.group(), tail
        inside = before[start:]
        box = "\\boxed{}" if "\\boxed{" in inside and "}" in inside else ""
        return before[:start], f"<{name}>{box}</{name}>", tail


def _answer_start(text: str) -> int:
    """Where `<answer>` stands outside thoughts, or else anywhere; -1 if nowhere."""
    start = outside_thoughts(text).find("<answer>")
    return start if start >= 0 else text.find("<answer>")


def _without_thoughts(text: str, thinking: bool) -> tuple[str, bool]:
    """Take out of a text what stands in thoughts, the first of which may have begun before it.

    Returns:
        Think tags and what stands outside them, and whether a thought goes on behind the text.
    """
    shown = []
    for piece in _THINK.split(text):
        # A thought that begins within a thought is no mention: where models write this, they have
        # made up a result and gone on from it.
        keep = not thinking or piece in ("<think>", "</think>")
        thinking = piece == "<think>" or (thinking and piece != "</think>")
        shown += [piece] * keep
    return "".join(shown), thinking


def _holds(tool: ToolSpec) -> str:
    """What to write into a tool's tag."""
    if tool.argument:
        return tool.argument
    return json.dumps({name: "..." for name in tool.parameters.get("properties", {})})


def _problem(tool: ToolSpec, reason: str) -> ToolCall:
    fix = f"Write <{tool.name}> {_holds(tool)} </{tool.name}>."
    return ToolCall(tool.name, problem=f"The {tool.name} tool was not called: {reason}. {fix}")
