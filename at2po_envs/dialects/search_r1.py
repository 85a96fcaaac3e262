"""The dialect of Search-R1: think, search and answer in tags, passages as `<information>`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from at2po_envs.dialects.arguments import is_blank
from at2po_envs.dialects.base import READINGS, Action, HowRead, Reading
from at2po_envs.dialects.messages import Messages
from at2po_envs.dialects.tags import enclosed, enclosed_outside_thoughts
from at2po_envs.errors import check_integer, check_known
from at2po_envs.tools import SEARCH, ToolCall, ToolResult, ToolSpec

PROMPTS = ("paper", "brief")

# Source: scripts/data_process/nq_search.py of github.com/PeterGriffinJin/Search-R1 at a14dc3a; one
# message of role "user", which ends in a newline.
_PAPER_PROMPT = (
    "Answer the given question. You must conduct reasoning inside <think> and </think> first "
    "every time you get new information. After reasoning, if you find you lack some knowledge, "
    "you can call a search engine by <search> query </search> and it will return the top searched "
    "results between <information> and </information>. You can search as many times as your want. "
    "If you find no further external knowledge needed, you can directly provide the answer inside "
    "<answer> and </answer>, without detailed illustrations. For example, <answer> Beijing "
    "</answer>. Question: {}\n"
)

# Source: `execute_predictions` in search_r1/llm_agent/generation.py of
# github.com/PeterGriffinJin/Search-R1 at a14dc3a: what a turn without search and answer is replied.
_INVALID = (
    "\nMy previous action is invalid. If I want to search, I should put the query between <search> "
    "and </search>. If I want to give the final answer, I should put the answer between <answer> "
    "and </answer>. Let me try again.\n"
)

_TAG = re.compile(r"(</?(?:think|search|information|answer)>)")


@dataclass(frozen=True)
class SearchR1Tags:
    """The tags of Search-R1: `<think>`, `<search>`, `<information>`, `<answer>`.

    A turn with neither a search nor an answer is told so and the episode goes on; it counts as a
    tool call, so that it cannot go on for ever. An empty query is told so too, where Search-R1
    searches for it.

    Args:
        prompt_name: `"paper"` for the published instruction, `"brief"` for the bare question.
        information_chars: Most characters between `<information>` and its closing tag, >= 1.
        reading: How an ended episode is read: by its `"structure"`, or as the `"released"`
            scorer does, which takes tags that are only mentioned for tags.

    Raises:
        UnknownNameError: If there is no such prompt or reading.
        ValueError: If `information_chars` is below 1.

    Source: Search-R1 (arXiv 2503.09516); search_r1/llm_agent/generation.py of
    github.com/PeterGriffinJin/Search-R1 at a14dc3a. It cuts what it inserts to 500 tokens, closing
    tag included; without a tokenizer, characters stand in for them: recorded rollouts have 1900 to
    2300 in a full one. Search-R1 has no limit notice: its last turn simply cannot search.
    """

    prompt_name: str = "paper"
    information_chars: int = 2200
    reading: HowRead = "structure"

    tools: ClassVar[tuple[ToolSpec, ...]] = (SEARCH,)
    stop: ClassVar[tuple[str, ...]] = ("</search>", "</answer>")
    limit_notice: ClassVar[str] = (
        "\n\n<information>The limit of searches is reached. Give the final answer.</information>"
        "\n\n"
    )
    templates: ClassVar[tuple[str, ...]] = (
        "<think> I should look this up. </think> <search> {} </search>",
        "<think> I know. </think> <answer> {} </answer>",
    )

    def __post_init__(self) -> None:
        """Refuse a prompt or reading that does not exist and a limit that shows nothing."""
        check_known("the reading", self.reading, READINGS)
        check_known("the prompt", self.prompt_name, PROMPTS)
        check_integer("information_chars", self.information_chars, 1)

    def prompt(self, question: str) -> str:
        """Return the prompt of a question, a message of role `user` for models with a chat."""
        template = "Question: {}\n" if self.prompt_name == "brief" else _PAPER_PROMPT
        text = template.format(question)
        return Messages(text, [{"role": "user", "content": text}])

    def parse(self, text: str) -> Action:
        """Read a turn: its first complete pair of search or answer tags decides.

        Args:
            text: The agent's own text of this turn; what follows the first `</search>`, or else
                the first `</answer>`, is ignored.

        Returns:
            A search, an answer, or a call whose problem is that there is neither.
        """
        text = _cut(text)
        pairs = [
            (*found, tag)
            for tag in ("search", "answer")
            for found in enclosed_outside_thoughts(text, tag)
        ]
        if not pairs:
            return Action("tool", (ToolCall("search", problem=_INVALID),))
        _, query, tag = min(pairs)
        if tag == "answer":
            return Action("answer")
        problem = "The query is empty." if is_blank(query) else ""
        arguments = {} if problem else {"query": query.strip()}
        return Action("tool", (ToolCall("search", arguments, problem),))

    def render(self, results: Sequence[ToolResult]) -> str:
        """Return the `<information>` block of each result, or the reply to an invalid turn."""
        return "".join(self._block(result) for result in results)

    def _block(self, result: ToolResult) -> str:
        if result.error == _INVALID:
            return _INVALID
        documents = [
            f"Doc {number}(Title: {title}) {text}"
            for number, passage in enumerate(result.passages, start=1)
            for title, _, text in [passage.partition("\n")]
        ]
        text = "\n".join(documents) or result.shown
        return f"\n\n<information>{text.strip()[: self.information_chars]}</information>\n\n"

    def read(self, turns: Sequence[str]) -> Reading:
        """Read an ended episode.

        Args:
            turns: The agent's texts in order, without anything that the environment inserted.

        Returns:
            The last answer of the last turn, and whether every turn thinks and then searches, the
            last one answers, and there is nothing but white space between the tags. Tags that a
            thought, a query or the answer mentions do not count, but in the released reading; a
            thought in a thought does.

        Source: `is_valid_sequence` and `extract_solution` in
        verl/utils/reward_score/qa_em_format.py of github.com/PeterGriffinJin/Search-R1 at a14dc3a,
        on the agent's own text.
        """
        released = self.reading == "released"
        find, well = (enclosed, _is_released) if released else (enclosed_outside_thoughts, _is)
        cut = [_cut(turn) for turn in turns]
        answers = [answer for _, answer in find(cut[-1] if cut else "", "answer")]
        format_ok = (
            bool(cut) and all(well(turn, "search") for turn in cut[:-1]) and well(cut[-1], "answer")
        )
        return Reading(answers[-1].strip() if answers else None, format_ok)


def _cut(text: str) -> str:
    """Drop what follows the first `</search>`, or without one the first `</answer>`."""
    for tag in ("</search>", "</answer>"):
        before, closing, _ = text.partition(tag)
        if closing:
            return before + closing
    return text


def _is(turn: str, last: str) -> bool:
    """Whether a turn that was cut is a thought and then the other tag, and nothing else."""
    before, opening, rest = turn.partition("<think>")
    thought, closing, said = rest.partition("</think>")
    said = said.strip()
    tagged = said.startswith(f"<{last}>") and said.endswith(f"</{last}>")
    return bool(opening and closing and tagged) and not before.strip() and "<think>" not in thought


def _is_released(turn: str, last: str) -> bool:
    """Whether a turn has the tags of a thought and the other one, whatever stands in them."""
    between, tags = _TAG.split(turn)[::2], _TAG.split(turn)[1::2]
    outside = between[::2]
    return tags == ["<think>", "</think>", f"<{last}>", f"</{last}>"] and not any(
        text.strip() for text in outside
    )
