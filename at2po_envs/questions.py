"""Questions with their golden answers, and where question sets are found."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from at2po_envs.errors import DataFormatError, DataNotFoundError, UnknownNameError, nearest
from retrieval.jsonl import read_objects

HUB_REPOSITORY = "RUC-NLPIR/FlashRAG_datasets"

# Name in an environment's id -> name of the set (folder of the data pack, config on the hub).
# Source: algorithms.md section 7.1.
QUESTION_SETS: Mapping[str, str] = MappingProxyType(
    {
        "HotpotQA": "hotpotqa",
        "2WikiMultiHopQA": "2wikimultihopqa",
        "MuSiQue": "musique",
        "Bamboogle": "bamboogle",
        "NQ": "nq",
        "TriviaQA": "triviaqa",
        "PopQA": "popqa",
    }
)

_EXPECTED = (
    '{"id": "...", "question": "...", "golden_answers": ["...", ...], "metadata": {...} (optional)}'
)
_HUB_TIMEOUT_S = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """A question and the answers that count as right.

    Attributes:
        id: Name of the question, unique in its set.
        question: The question itself.
        golden_answers: At least one right answer.
        metadata: Whatever else the data set says.
    """

    id: str
    question: str
    golden_answers: tuple[str, ...]
    metadata: dict[str, Any] = field(default_factory=dict, hash=False, repr=False)

    @cached_property
    def key(self) -> str:
        """SHA-256 in hex of id, question and golden answers; seeds are derived from it."""
        content = json.dumps([self.id, self.question, list(self.golden_answers)])
        return hashlib.sha256(content.encode("ascii")).hexdigest()


def load_questions(
    set_name: str, split: str = "train", path: str | Path | None = None
) -> tuple[Question, ...]:
    """Load a question set from the first place that has it, all of it or nothing.

    The places: ``path``; ``$AT2PO_DATA/questions/<set>/<split>.jsonl``; the Hugging Face hub.

    Args:
        set_name: One of the values of ``QUESTION_SETS``; not looked at where ``path`` is given.
        split: ``"train"`` or ``"test"``; on the hub a set without a test split gives its dev split.
        path: A file in the FlashRAG format; nothing else is tried then.

    Returns:
        The questions in file order.

    Raises:
        UnknownNameError: If there is no such set.
        DataNotFoundError: If none of the places has it.
        DataFormatError: If a record is malformed or repeats an id.
    """
    if path is None and set_name not in QUESTION_SETS.values():
        raise UnknownNameError(
            f"expected the name of a question set, found {set_name!r}; "
            + nearest(set_name, QUESTION_SETS.values())
        )
    data = os.environ.get("AT2PO_DATA")
    place = Path(data or "$AT2PO_DATA") / "questions" / set_name / f"{split}.jsonl"
    file = place if path is None else Path(path)
    if file.is_file():
        rows = ((f"{file}:{n}", row) for n, row in read_objects(file, _EXPECTED, DataFormatError))
        return _collect(rows, str(file))
    hub_problem = "not tried, because a path was given"
    if path is None:
        try:
            return _from_hub(set_name, split)
        except DataNotFoundError as error:
            hub_problem = str(error)
    raise DataNotFoundError(
        f"expected the {split} questions of {set_name!r} in one of three places, found none:\n"
        f"  1. an explicit path: {path if path is not None else 'not given'}\n"
        f"  2. $AT2PO_DATA/questions/<set>/<split>.jsonl: {place}\n"
        f"  3. {HUB_REPOSITORY} on the Hugging Face hub: {hub_problem}\n"
        "Fix: pass questions_path=..., or export AT2PO_DATA=<folder of the data pack>, "
        "or go online "
        "(or, with the set in the hub's cache, export HF_HUB_OFFLINE=1)."
    )


def _from_hub(set_name: str, split: str) -> tuple[Question, ...]:
    """Load a set through ``datasets``, with DataNotFoundError for whatever keeps it away."""
    try:
        import datasets  # here, because both are slow to import and seldom needed
        import huggingface_hub
        from huggingface_hub.errors import OfflineModeIsEnabled

        with contextlib.suppress(OfflineModeIsEnabled):  # then the cache may have the set
            # Asked first, because load_dataset retries for half a minute without a network.
            huggingface_hub.HfApi().dataset_info(HUB_REPOSITORY, timeout=_HUB_TIMEOUT_S)
        sets = datasets.load_dataset(HUB_REPOSITORY, set_name)
    except Exception as error:  # the hub client raises errors of many libraries
        _log.debug("hub access failed", exc_info=True)
        raise DataNotFoundError(f"{type(error).__name__}: {error}"[:200]) from error
    # Source: algorithms.md section 7.1: test if present, else dev.
    for name in (split, "dev") if split == "test" else (split,):
        if name in sets:
            rows = (
                (f"{HUB_REPOSITORY}/{set_name}/{name} row {n}", row)
                for n, row in enumerate(sets[name])
            )
            return _collect(rows, f"{HUB_REPOSITORY}/{set_name}/{name}")
    raise DataNotFoundError(f"the set has the splits {', '.join(sets)}, not {split}")


def _collect(rows: Iterable[tuple[str, dict[str, Any]]], source: str) -> tuple[Question, ...]:
    questions = tuple(_unique(rows))
    if not questions:
        raise DataFormatError(f"{source}: expected at least one question, found an empty file")
    return questions


def _unique(rows: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Question]:
    places: dict[str, str] = {}
    for where, row in rows:
        question = _question(row, where)
        earlier = places.setdefault(question.id, where)
        if earlier != where:
            raise DataFormatError(
                f"{where}: expected a new id, found {question.id!r} of {earlier} again"
            )
        yield question


def _question(row: Mapping[str, Any], where: str) -> Question:
    answers, metadata = row.get("golden_answers"), row.get("metadata")
    checks = {
        "id": isinstance(row.get("id"), str) and row["id"],
        "question": isinstance(row.get("question"), str) and row["question"].strip(),
        "golden_answers": isinstance(answers, list | tuple)
        and answers
        and all(isinstance(answer, str) for answer in answers),
        "metadata": metadata is None or isinstance(metadata, dict),
    }
    for name, fine in checks.items():
        if not fine:
            raise DataFormatError(
                f"{where}: expected {_EXPECTED}, found {name} = {row.get(name)!r}"[:500]
            )
    return Question(row["id"], row["question"], tuple(answers or ()), dict(metadata or {}))
