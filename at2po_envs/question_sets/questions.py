"""Questions with their golden answers, and where question sets are found."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import Any

from at2po_envs.errors import (
    DataFormatError,
    DataNotFoundError,
    UnknownNameError,
    check_known,
)
from retrieval.corpus.jsonl import name_of, read_objects, text_of
from retrieval.errors import nearest

HUB_REPOSITORY = "RUC-NLPIR/FlashRAG_datasets"

# Name in an environment's id -> name of the set (folder of the data pack, config on the hub).
# Source: configurations of the hub data set RUC-NLPIR/FlashRAG_datasets.
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

# Set -> split -> number of questions in the hub's repository.
# Source: the hub data set RUC-NLPIR/FlashRAG_datasets, and the table of data sets in README.md of
# github.com/RUC-NLPIR/FlashRAG.
PUBLISHED: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "hotpotqa": MappingProxyType({"train": 90_447, "dev": 7_405}),
        "2wikimultihopqa": MappingProxyType({"train": 15_000, "dev": 12_576}),
        "musique": MappingProxyType({"train": 19_938, "dev": 2_417}),
        "bamboogle": MappingProxyType({"test": 125}),
        "nq": MappingProxyType({"train": 79_168, "dev": 8_757, "test": 3_610}),
        "triviaqa": MappingProxyType({"train": 78_785, "dev": 8_837, "test": 11_313}),
        "popqa": MappingProxyType({"test": 14_267}),
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


def data_pack() -> Path:
    """Return the folder of the data pack, or its variable's name where that is unset."""
    return Path(os.environ.get("AT2PO_DATA") or "$AT2PO_DATA")


def questions_folder(root: str | Path | None = None) -> Path:
    """Return the folder of the question sets under a root.

    Args:
        root: The root; None for `$AT2PO_DATA`.

    Returns:
        The existing folder `<root>/questions`.

    Raises:
        DataNotFoundError: If there is no root or no such folder.
    """
    folder = (Path(root) if root else data_pack()) / "questions"
    if not folder.is_dir():
        raise DataNotFoundError(
            f"expected question sets in {folder}, found no such folder; pass its parent as root, "
            "or export AT2PO_DATA=<that parent>"
        )
    return folder


def load_questions(
    set_name: str, split: str = "train", path: str | Path | None = None
) -> tuple[Question, ...]:
    """Load a question set from the first place that has it, all of it or nothing.

    The places: `path`; `$AT2PO_DATA/questions/<set>/<split>.jsonl`; the Hugging Face hub.

    Args:
        set_name: One of the values of `QUESTION_SETS`; not looked at where `path` is given.
        split: `"train"`, `"dev"` or `"test"`; a set published without a test split gives its
            dev split for it, as the papers evaluate.
        path: A file in the FlashRAG format; nothing else is tried then.

    Returns:
        The questions in file order.

    Raises:
        UnknownNameError: If there is no such set.
        DataNotFoundError: If none of the places has it.
        DataFormatError: If a record is malformed or repeats an id.
    """
    if path is not None and Path(path).is_file():
        return _from_file(Path(path))
    if path is None:
        check_known("the name of a question set", set_name, PUBLISHED)
    folder = data_pack() / "questions" / set_name
    hub_problem = "not tried, because a path was given"
    if path is None:
        splits = _stand_ins(set_name, split)
        for file in (folder / f"{name}.jsonl" for name in splits):
            if file.is_file():
                return _from_file(file)
        try:
            return _from_hub(set_name, splits)
        except DataNotFoundError as error:
            hub_problem = str(error)
    raise DataNotFoundError(
        f"expected the {split} questions of {set_name!r} in one of three places, found none:\n"
        f"  1. an explicit path: {path if path is not None else 'not given'}\n"
        f"  2. $AT2PO_DATA/questions/<set>/<split>.jsonl: {folder / f'{split}.jsonl'}\n"
        f"  3. {HUB_REPOSITORY} on the Hugging Face hub: {hub_problem}\n"
        "Fix: pass questions_path=..., or export AT2PO_DATA=<folder of the data pack>, "
        "or go online "
        "(or, with the set in the hub's cache, export HF_HUB_OFFLINE=1)."
    )


def _stand_ins(set_name: str, split: str) -> tuple[str, ...]:
    """The splits to take for one, in order; no split that is not the published one's equal.

    Source: scripts/data_process/qa_search_test_merge.py of github.com/PeterGriffinJin/Search-R1 at
    a14dc3a: test if present, else dev, else train.
    """
    if split != "test":
        return (split,)
    published = next(name for name in ("test", "dev", "train") if name in PUBLISHED[set_name])
    return tuple(dict.fromkeys(("test", published)))  # a sample has a test split of its own


def _from_file(file: Path) -> tuple[Question, ...]:
    rows = ((f"{file}:{n}", row) for n, row in read_objects(file, _EXPECTED, DataFormatError))
    return _collect(rows, str(file))


def _from_hub(set_name: str, splits: Sequence[str]) -> tuple[Question, ...]:
    """Load a set through `datasets`, with DataNotFoundError for whatever keeps it away."""
    try:
        import datasets  # here, because both are slow to import and seldom needed
        import huggingface_hub
        from huggingface_hub.errors import OfflineModeIsEnabled

        if not Path(HUB_REPOSITORY).is_dir():  # it may be a local copy of the repository
            with contextlib.suppress(OfflineModeIsEnabled):  # then the cache may have the set
                # Asked first, because load_dataset retries for half a minute without a network.
                huggingface_hub.HfApi().dataset_info(HUB_REPOSITORY, timeout=_HUB_TIMEOUT_S)
        sets = datasets.load_dataset(HUB_REPOSITORY, set_name)
    except Exception as error:  # the hub client raises errors of many libraries
        _log.debug("hub access failed", exc_info=True)
        raise DataNotFoundError(f"{type(error).__name__}: {error}"[:200]) from error
    for name in splits:
        if name in sets:
            source = f"{HUB_REPOSITORY}/{set_name}/{name}"
            return _collect(((f"{source} row {n}", r) for n, r in enumerate(sets[name])), source)
    raise DataNotFoundError(f"the set has the splits {', '.join(sets)}, not {splits[0]}")


def select_questions(
    questions: Sequence[Question], wanted: Iterable[str | int]
) -> tuple[Question, ...]:
    """Return some of the questions.

    Args:
        questions: Questions with unique ids.
        wanted: Ids and indices, in the order in which the questions are returned.

    Returns:
        The questions wanted, each once.

    Raises:
        UnknownNameError: If an id or index is not there, is repeated, or nothing is wanted.
    """
    if isinstance(wanted, str):
        raise UnknownNameError(f"expected ids or indices in a list, found the text {wanted!r}")
    by_id = {question.id: question for question in questions}
    chosen: dict[str, Question] = {}
    for name in wanted:
        question = by_id.get(name) if isinstance(name, str) else None
        if isinstance(name, Integral) and 0 <= int(name) < len(questions):
            question = questions[int(name)]
        if question is None or question.id in chosen:
            problem = "twice" if question else nearest(str(name), by_id)
            raise UnknownNameError(
                f"expected ids of {len(questions)} questions or indices below that, each once, "
                f"found {name!r}: {problem}"
            )
        chosen[question.id] = question
    if not chosen:
        raise UnknownNameError("expected ids or indices of questions, found none; leave it out")
    return tuple(chosen.values())


def with_question_mark(question: Question) -> Question:
    """Strip a question and let it end in a question mark, as Search-R1 does.

    Source: data_process/hotpotqa_multihop_train.py of github.com/zzfoutofspace/ATPO at 98e60f6.
    """
    text = question.question.strip()
    return replace(question, question=text if text.endswith("?") else text + "?")


def _collect(rows: Iterable[tuple[str, dict[str, Any]]], source: str) -> tuple[Question, ...]:
    questions: list[Question] = []
    places: dict[str, str] = {}
    for where, row in rows:
        questions.append(question_of(row, where))
        name = questions[-1].id
        earlier = places.setdefault(name, where)
        if earlier != where:
            raise DataFormatError(f"{where}: expected a new id, found {name!r} of {earlier} again")
    if not questions:
        raise DataFormatError(f"{source}: expected at least one question, found an empty file")
    return tuple(questions)


def question_of(row: Any, where: str) -> Question:
    """Read a row in the FlashRAG format.

    Args:
        row: The row. Its id and its answers may be numbers, its answers an array.
        where: File and line, or the like, for the error message.

    Returns:
        The question.

    Raises:
        DataFormatError: If the row is malformed, or none of its answers can be given.
    """
    if not isinstance(row, Mapping):
        raise DataFormatError(f"{where}: expected {_EXPECTED}, found a JSON {type(row).__name__}")
    question_id, question = name_of(row.get("id")), text_of(row.get("question"))
    answers, metadata = _answers(row.get("golden_answers")), row.get("metadata")
    checks = {
        "id": question_id,
        "question": question and question.strip(),
        "golden_answers": any(answer.strip() for answer in answers),
        "metadata": metadata is None or isinstance(metadata, dict),
    }
    for name, fine in checks.items():
        if not fine:
            found = f"{where}: expected {_EXPECTED}, found {name} = {row.get(name)!r}"
            raise DataFormatError(f"{found[:500]}; mend the row, or leave it out")
    return Question(str(question_id), str(question), answers, dict(metadata or {}))


def _answers(cell: Any) -> tuple[str, ...]:
    """The texts in a list, a tuple or an array; none if the cell holds something else."""
    if hasattr(cell, "tolist"):
        cell = cell.tolist()
    if not isinstance(cell, list | tuple):
        return ()
    answers = [name_of(answer) for answer in cell]
    return () if None in answers else tuple(answer for answer in answers if answer is not None)
