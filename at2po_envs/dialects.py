"""Dialects: how a turn is written, what the agent is shown, where generation stops."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from at2po_envs.errors import UnknownNameError, nearest

if TYPE_CHECKING:
    from at2po_envs.core import ToolResult

_CLOSING = re.compile("</(search|answer)>")

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


@dataclass(frozen=True, slots=True)
class Action:
    """What a turn asks for.

    Attributes:
        kind: A search, an answer, or neither.
        content: The query or the text of the answer, stripped; empty if there is none.
        problem: What is wrong with the request, empty if nothing is.
    """

    kind: Literal["search", "answer", "none"]
    content: str
    problem: str = ""


class Dialect(Protocol):
    """The language in which agent and environment speak."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings at which generation of a turn stops."""
        ...

    @property
    def limit_notice(self) -> str:
        """Observation that answers the first tool call over the limit."""
        ...

    @property
    def templates(self) -> tuple[str, ...]:
        """Well-formed turns with one ``{}`` where free text goes, for sampling actions."""
        ...

    def prompt(self, question: str) -> str:
        """Return the first observation of an episode."""
        ...

    def parse(self, text: str) -> Action:
        """Read a turn; never raises."""
        ...

    def render(self, results: Sequence[ToolResult]) -> str:
        """Return the observation that shows tool results, failed ones included."""
        ...


@dataclass(frozen=True, init=False)
class At2poTags:
    r"""The tags of AT²PO: ``<think>``, ``<search>``, ``<result>``, ``<answer>`` with a ``\boxed``.

    Args:
        prompt: ``"paper"`` for the paper's instruction, ``"brief"`` for a single line that suits
            a small context.

    Raises:
        UnknownNameError: If the prompt is neither.

    Source: algorithms.md sections 1.3 and 7.2.
    """

    prompt_name: str

    stop: ClassVar[tuple[str, ...]] = ("</search>", "</answer>")
    limit_notice: ClassVar[str] = (
        " I have reached the tool call limit and cannot make further tool calls. Let me provide "
        "the final answer based on the information I have gathered so far. \n\n"
    )
    templates: ClassVar[tuple[str, ...]] = (
        "<think> I should look this up. </think> <search> {} </search>",
        r"<think> I know. </think> <answer> The final answer is \[ \boxed{{{}}} \] </answer>",
    )

    def __init__(self, prompt: str = "paper") -> None:
        """Choose the prompt."""
        if prompt not in ("paper", "brief"):
            raise UnknownNameError(
                f"expected the prompt to be 'paper' or 'brief', found {prompt!r}; "
                + nearest(prompt, ("paper", "brief"))
            )
        object.__setattr__(self, "prompt_name", prompt)

    def prompt(self, question: str) -> str:
        """Return the prompt of a question.

        Args:
            question: The question; the paper's prompt strips it and lets it end in ``?``.

        Returns:
            The text that an episode starts with.
        """
        if self.prompt_name == "brief":
            return f"Question: {question}\n"
        question = question.strip()
        return f"{_PAPER_PROMPT}\nuser\n{question}{'' if question.endswith('?') else '?'}"

    def parse(self, text: str) -> Action:
        """Read a turn; its first closing tag decides and what follows that tag is ignored.

        Args:
            text: The agent's own text of this turn.

        Returns:
            A search for the text behind the last opening tag, an answer, or neither.
        """
        closing = _CLOSING.search(text)
        if closing is None:
            return Action("none", "", "the turn has neither a search nor an answer")
        before, kind = text[: closing.start()], closing.group(1)
        if kind == "answer":
            _, opening, content = before.partition("<answer>")
            problem = "" if opening else "</answer> has no <answer> before it"
            return Action("answer", content.strip() if opening else "", problem)
        _, opening, content = before.rpartition("<search>")
        if not opening:
            return Action("search", "", "</search> has no <search> before it")
        # Source: algorithms.md section 6: quotation marks are removed from the query.
        query = content.replace('"', "").strip()
        return Action("search", query, "" if query else "the search query is empty")

    def render(self, results: Sequence[ToolResult]) -> str:
        r"""Return `` <result>\n...\n</result>`` for each result, the reason for a failed one."""
        texts = (result.text if result.ok else result.error for result in results)
        return "".join(f" <result>\n{text}\n</result>" for text in texts)
