"""Tools that environments call on behalf of the agent, a whole batch at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from at2po_envs.core import ToolResult
from retrieval import Passage, RetrievalError, Retriever

_log = logging.getLogger(__name__)


class Tool(Protocol):
    """Anything that turns a batch of arguments into as many results."""

    def __call__(self, arguments: Sequence[str]) -> list[ToolResult]:
        """Return one result per argument, in order."""
        ...


@dataclass(frozen=True)
class SearchTool:
    """Search for passages and write them out as the agent reads them.

    Args:
        retriever: What is searched.
        top_k: Passages per query, >= 1.
        passage_chars: Characters shown of a passage, its title line included, >= 1.

    Raises:
        ValueError: If a number is below 1.

    Source: algorithms.md section 6 (both defaults and the layout).
    """

    retriever: Retriever
    top_k: int = 3
    passage_chars: int = 1000

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        if self.top_k < 1 or self.passage_chars < 1:
            raise ValueError(
                "expected top_k >= 1 and passage_chars >= 1, "
                f"found {self.top_k} and {self.passage_chars}"
            )

    def __call__(self, arguments: Sequence[str]) -> list[ToolResult]:
        """Search for all queries in one call of the retriever.

        Args:
            arguments: The queries.

        Returns:
            A result for each query; all of them failed ones where the retriever failed.

        Raises:
            RetrievalError: If the corpus itself is missing or malformed: no episode could go well.
        """
        try:
            found = self.retriever.search(arguments, self.top_k)
        except RetrievalError:
            raise
        except Exception:  # a retriever may be remote and fail in any way; the episode goes on
            _log.warning("search failed for %d queries", len(arguments), exc_info=True)
            failed = ToolResult(ok=False, text="", error="The search tool failed. Try again.")
            return [failed] * len(arguments)
        return [self._result(passages) for passages in found]

    def _result(self, passages: Sequence[Passage]) -> ToolResult:
        # A dict keeps the first of equal passages, and the order.
        unique = {text: p.title for p in passages if (text := p.contents.strip())}
        pages = (f"Page {i}: {text[: self.passage_chars]}" for i, text in enumerate(unique, 1))
        text = "\n".join(pages) or "No search results found."
        return ToolResult(ok=True, text=text, titles=tuple(unique.values()))
