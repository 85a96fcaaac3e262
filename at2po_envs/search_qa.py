"""Question answering with a search tool, over real question sets and real passages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from at2po_envs.core import SearchQA
from at2po_envs.dialects import At2poTags
from at2po_envs.env import ForkableTextEnv
from at2po_envs.errors import DataNotFoundError
from at2po_envs.questions import load_questions
from at2po_envs.tools import SearchTool
from retrieval import BM25, Passage, Passages, Retriever


class SearchQAEnv(ForkableTextEnv):
    """Answer a question of a set by searching a corpus.

    Args:
        question_set: A value of ``QUESTION_SETS``.
        split: ``"train"`` or ``"test"``.
        questions_path: FlashRAG-format file to read instead of the set.
        corpus_path: wiki-18-format file to search; the default is the data pack's.
        retriever: What is searched instead of a corpus file.
        top_k: Passages per search, >= 1.
        prompt: ``"paper"`` or ``"brief"``.
        max_tool_calls: Searches per episode, >= 0.
        passage_chars: Characters shown of a passage, >= 1.
        render_mode: None or ``"ansi"``.

    Raises:
        DataNotFoundError: If the questions or the corpus are nowhere.
        DataFormatError: If a question is malformed.

    Source: algorithms.md sections 0 and 6 for the defaults.
    """

    core: SearchQA

    def __init__(
        self,
        question_set: str = "hotpotqa",
        split: str = "train",
        *,
        questions_path: str | None = None,
        corpus_path: str | None = None,
        retriever: Retriever | None = None,
        top_k: int = 3,
        prompt: str = "paper",
        max_tool_calls: int = 6,
        passage_chars: int = 1000,
        render_mode: str | None = None,
    ) -> None:
        """Find the corpus and load the questions; the corpus is read at the first search."""
        searched = retriever or CorpusFile(find_corpus(corpus_path))
        super().__init__(
            SearchQA(At2poTags(prompt), max_tool_calls),
            load_questions(question_set, split, questions_path),
            {"search": SearchTool(searched, top_k, passage_chars)},
            render_mode=render_mode,
        )


def find_corpus(path: str | Path | None = None) -> Path:
    """Return the corpus file: the path given, or the data pack's.

    Args:
        path: The file; None for ``$AT2PO_DATA/corpus/passages.jsonl``.

    Returns:
        The path of an existing file.

    Raises:
        DataNotFoundError: If it is not there.
    """
    data = os.environ.get("AT2PO_DATA")
    place = Path(data or "$AT2PO_DATA") / "corpus" / "passages.jsonl"
    file = place if path is None else Path(path)
    if not file.is_file():
        raise DataNotFoundError(
            "expected a corpus in one of three places, found none:\n"
            "  1. a retriever object: not given\n"
            f"  2. an explicit path: {path if path is not None else 'not given'}\n"
            f"  3. $AT2PO_DATA/corpus/passages.jsonl: {place}\n"
            "Fix: pass corpus_path=..., or export AT2PO_DATA=<folder of the data pack>."
        )
    return file


@dataclass(frozen=True)
class CorpusFile:
    """BM25 over a corpus file, indexed at the first search and once per process.

    It holds a path only, so that environments are made, copied and pickled quickly.
    """

    path: Path

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Return, for each query, at most ``k`` passages, the best first."""
        stat = self.path.stat()
        return _index(self.path.resolve(), stat.st_mtime_ns, stat.st_size).search(queries, k)


@lru_cache(maxsize=4)
def _index(path: Path, modified_ns: int, size: int) -> BM25:
    return BM25(Passages.from_jsonl(path))
