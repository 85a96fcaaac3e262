"""Question answering with a search tool, over real question sets and real passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from at2po_envs.dialects import make_dialect
from at2po_envs.episode.core import ToolQA
from at2po_envs.episode.env import ForkableTextEnv
from at2po_envs.episode.rewards import PaperReward, Reward
from at2po_envs.errors import DataNotFoundError
from at2po_envs.question_sets.questions import (
    data_pack,
    load_questions,
    select_questions,
    with_question_mark,
)
from at2po_envs.scoring.answers import make_scorer
from at2po_envs.search_qa.experts import TitleAgent
from at2po_envs.tools import SearchTool
from retrieval import Passage, Retriever, open_retriever
from retrieval.http.errors import TemporaryRemoteError

SERVER_TIMEOUT_S = 600.0
"""Seconds that a retrieval server may take to load its index."""


class SearchQAEnv(ForkableTextEnv):
    """Answer a question of a set by searching a corpus.

    Args:
        question_set: A value of `QUESTION_SETS`.
        split: `"train"`, `"dev"` or `"test"`; see `load_questions`.
        questions_path: FlashRAG-format file to read instead of the set.
        questions: Ids or indices of the questions to keep, in that order; None for all.
        append_question_mark: Whether to strip questions and let them end in `?`, as Search-R1.
        corpus_path: wiki-18-format file to search; the default is the data pack's.
        retriever: What is searched instead of a corpus file: an object, or a text that
            `retrieval.open_retriever` understands (`corpus_path` is then its corpus).
        top_k: Passages per search, >= 1.
        passage_chars: Characters shown of a passage, >= 1.
        dialect: `"at2po"`, `"search-r1"` or `"tool-calls"`.
        prompt: Name of a prompt of the dialect; None for its own.
        max_tool_calls: Searches per episode, >= 0.
        reward: What turns earn; None for the paper's reward.
        scorer: What compares answers, a name in `scoring.SCORERS`: `"at2po-envs"`, or as
            published `"flashrag"` or `"released"`, which reads episodes as released, too.
        tool_timeout_s: Seconds that a search may take; None waits.
        render_mode: None or `"ansi"`.

    Raises:
        DataNotFoundError: If the questions or the corpus are nowhere.
        DataFormatError: If a question is malformed.
        UnknownNameError: If a name or an id is not known.
        ValueError: If a retriever object and a corpus are given, or the dialect has no released
            reading and the scorer asks for it.

    Source: AT²PO (arXiv 2601.04767), section 4.1, for the defaults.
    """

    core: ToolQA

    def __init__(
        self,
        question_set: str = "hotpotqa",
        split: str = "train",
        *,
        questions_path: str | None = None,
        questions: Sequence[str | int] | None = None,
        append_question_mark: bool = False,
        corpus_path: str | None = None,
        retriever: Retriever | str | None = None,
        top_k: int = 3,
        passage_chars: int = 1000,
        dialect: str = "at2po",
        prompt: str | None = None,
        max_tool_calls: int = 6,
        reward: Reward | None = None,
        scorer: str = "at2po-envs",
        tool_timeout_s: float | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Find the corpus and load the questions; the corpus is read at the first search."""
        asked = load_questions(question_set, split, questions_path)
        if questions is not None:
            asked = select_questions(asked, questions)
        if append_question_mark:
            asked = tuple(map(with_question_mark, asked))
        super().__init__(
            ToolQA(
                make_dialect(dialect, prompt, reading=make_scorer(scorer).reading),
                max_tool_calls,
                reward or PaperReward(),
                scorer=make_scorer(scorer),
            ),
            asked,
            [SearchTool(_searched(retriever, corpus_path), top_k, passage_chars)],
            tool_timeout_s=tool_timeout_s,
            render_mode=render_mode,
        )

    def expert(self, *, error_rate: float = 0.0, seed: int = 0) -> TitleAgent:
        """Return the scripted agent of question sets, which no more than searches once.

        Args:
            error_rate: Chance that one of its turns goes wrong.
            seed: Seed of the errors.
        """
        return TitleAgent(self.questions, self.core, error_rate=error_rate, seed=seed)


def _searched(retriever: Retriever | str | None, corpus_path: str | None) -> Retriever:
    if retriever is None:
        return LazyRetriever(f"bm25:{find_corpus(corpus_path).resolve()}")
    if isinstance(retriever, str):
        return LazyRetriever(retriever, corpus_path)
    if corpus_path is not None:
        raise ValueError(
            f"expected a retriever object or a corpus, found both (corpus_path {corpus_path!r}); "
            "leave one out"
        )
    return retriever


def find_corpus(path: str | Path | None = None) -> Path:
    """Return the corpus file: the path given, or the data pack's.

    Args:
        path: The file; None for `$AT2PO_DATA/corpus/passages.jsonl`.

    Returns:
        The path of an existing file.

    Raises:
        DataNotFoundError: If it is not there.
    """
    place = data_pack() / "corpus" / "passages.jsonl"
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
class LazyRetriever:
    """What `retrieval.open_retriever` makes of a text, at the first search and once per process.

    A server is waited for then, and the index that it names is checked. A corpus file that has
    changed is indexed again. It holds the text only, so that environments are made, copied and
    pickled quickly.
    """

    name: str
    corpus: str | None = None

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Return, for each query, at most `k` passages, the best first."""
        return self.opened().search(queries, k)

    def opened(self) -> Retriever:
        """Return the retriever itself, opened now if it was not."""
        file = Path(self.name.partition(":")[2])
        stat = file.stat() if file.is_file() else None
        return _opened(self.name, self.corpus, stat and (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=4)
def _opened(name: str, corpus: str | None, version: tuple[int, int] | None) -> Retriever:
    retriever: Any = open_retriever(name, corpus=corpus)
    if hasattr(retriever, "wait_until_ready"):
        try:
            retriever.wait_until_ready(SERVER_TIMEOUT_S)
        except TemporaryRemoteError as error:
            # In the midst of a run it may pass; at the first search nothing is lost by ending.
            raise DataNotFoundError(f"{name}: expected a server that is ready; {error}") from error
    return retriever  # type: ignore[no-any-return]
