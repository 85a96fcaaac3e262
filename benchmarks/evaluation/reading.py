"""Finished evaluations, read from their folders: one set, a suite of sets, or several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import ComparisonError
from benchmarks.evaluation.records import EPISODE, SUMMARY, check, read_json
from benchmarks.evaluation.suite import set_name
from retrieval.corpus.jsonl import read_objects
from retrieval.storage.files import require_file


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One finished evaluation of one set.

    Attributes:
        folder: Where it was read from.
        summary: Content of `summary.json`.
        right: Whether each question's answer matched exactly, by question key.
    """

    folder: Path
    summary: Mapping[str, Any]
    right: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Method:
    """What is compared: one agent, evaluated once for each training seed.

    Attributes:
        name: Name for tables.
        folders: For each seed where it was read from.
        runs: For each seed the evaluations by the name of their set.
    """

    name: str
    folders: Sequence[Path]
    runs: Sequence[Mapping[str, Evaluation]]


def read_methods(words: Sequence[str]) -> list[Method]:
    """Read what is to be compared.

    Args:
        words: A folder each, or `name=folder,folder,…` for the seeds of one method; a folder holds
            an evaluation or a suite of them. Without a name the folder's own is taken.

    Returns:
        The methods, in this order.

    Raises:
        ComparisonError: If there are fewer than two, two have one name, seeds have other sets, or
            a folder holds no finished evaluation.
    """
    if len(words) < 2:
        raise ComparisonError(
            f"expected at least two evaluations, found {len(words)}; name their folders"
        )
    methods = [_method(word) for word in words]
    names = [method.name for method in methods]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ComparisonError(
            f"expected another name for each method, found {', '.join(sorted(twice))} more than "
            "once; write name=folder"
        )
    return methods


def read_folder(folder: Path) -> dict[str, Evaluation]:
    """Read an evaluation, or a suite of them.

    Args:
        folder: Holds `episodes.jsonl`, or folders that do.

    Returns:
        The evaluations by the name of their set.

    Raises:
        ComparisonError: If there is none, or one is not finished.
    """
    found = [folder, *sorted(folder.iterdir())] if folder.is_dir() else []
    read = [_evaluation(each) for each in found if (each / "episodes.jsonl").exists()]
    if not read:
        raise ComparisonError(
            f"{folder}: expected an evaluation (episodes.jsonl) or folders with one each, found "
            "none; make one with at2po eval --out"
        )
    sets = {set_name(each.summary["env"]): each for each in read}
    if len(sets) < len(read):
        raise ComparisonError(
            f"{folder}: expected one evaluation of each set, found {len(read)} of {len(sets)} "
            "sets; name the folders of single evaluations instead"
        )
    return sets


def _method(word: str) -> Method:
    name, equals, folders = word.partition("=")
    if not equals or Path(word).is_dir():
        name, folders = Path(word).resolve().name, word
    # Sorted, so that the order in which seeds are named changes nothing.
    paths = [Path(word)] if Path(word).is_dir() else sorted(map(Path, folders.split(",")))
    if len({path.resolve() for path in paths}) < len(paths):
        raise ComparisonError(f"{name}: expected other folders for other seeds, found one twice")
    runs = [read_folder(path) for path in paths]
    for path, run in zip(paths, runs, strict=True):
        if run.keys() != runs[0].keys():
            raise ComparisonError(
                f"{path}: expected the sets of the method's first seed ({', '.join(runs[0])}), "
                f"found {', '.join(run)}; evaluate all seeds on the same sets"
            )
    return Method(name, paths, runs)


def _evaluation(folder: Path) -> Evaluation:
    if not (folder / "summary.json").exists():
        raise ComparisonError(
            f"{folder}: expected a finished evaluation, found no summary.json; run it to its end "
            "with the command that began it"
        )
    path = folder / "summary.json"
    summary = read_json(path, ComparisonError, SUMMARY.name)
    check(SUMMARY, summary, ("env",), str(path), ComparisonError)
    right: dict[str, bool] = {}
    path = folder / "episodes.jsonl"
    require_file(path)
    for number, record in read_objects(path, EPISODE.name, ComparisonError):
        check(EPISODE, record, ("question_key", "em"), f"{path}:{number}", ComparisonError)
        key = record["question_key"]
        if key in right:
            raise ComparisonError(
                f"{path}:{number}: expected each question once, found {key} again; run the "
                "evaluation again in another folder"
            )
        right[key] = bool(record["em"])
    asked = summary.get("questions", len(right))
    if len(right) != asked:
        raise ComparisonError(
            f"{folder}: expected a finished evaluation, found {len(right)} episodes beside a "
            f"summary of {asked}; run it to its end with the command that began it"
        )
    return Evaluation(folder, summary, right)
