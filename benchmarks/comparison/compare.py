"""Two or more agents on the same questions: `at2po compare A B …`.

This compares finished evaluations; `benchmarks.methods.study` is another thing, the training of all
methods at an equal budget.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.errors import ComparisonError
from benchmarks.evaluation.reading import Method
from benchmarks.statistics.intervals import Scores, interval, resample, wilson
from benchmarks.statistics.significance import (
    bootstrap_p,
    detectable,
    detectable_paired,
    holm,
    mcnemar,
)

MICRO, MACRO = "all questions (micro)", "mean of sets (macro)"
DRAWS = 10_000  # more than an interval needs, so that small p-values can be told apart

MUST_AGREE = (
    "split",
    "scorer_version",
    "prompt_hash",
    "max_tool_calls",
    "retriever",
    "index_hash",
    "corpus_hash",
    "top_k",
    "passage_chars",
    "agent_settings.max_prompt_tokens",
    "agent_settings.max_response_tokens",
)
"""Parts of the cards in which evaluations should agree, for their agents to be what differs."""


def compare(methods: Sequence[Method], *, common: bool = False) -> dict[str, Any]:
    """Compare each method with the first, question by question.

    Single evaluations are tested with McNemar's test, several seeds with the bootstrap over seeds
    and questions. Holm's correction is over all tests that are made: of each method on each set,
    and on all questions together.

    Args:
        methods: At least two, on the same sets.
        common: Leave out questions that not all of them answered, rather than refuse.

    Returns:
        The content of `comparison.json`: `reference`, `methods`, `rows` (sets, then averages, each
        with every method's figures), `tests`, `draws`, `warnings`.

    Raises:
        ComparisonError: If sets differ, questions do without `common`, or none is left.
    """
    sets = _sets(methods)
    keys = {name: _keys(name, methods, common) for name in sets}
    scores = [[_scores(method, name, keys[name]) for name in sets] for method in methods]
    rows = _rows(sets, [method.name for method in methods], scores)
    tests = [figures for row in rows for figures in row["methods"].values() if "p" in figures]
    for figures, adjusted in zip(tests, holm([each["p"] for each in tests]), strict=True):
        figures["p_holm"] = adjusted
    return {
        "reference": methods[0].name,
        "methods": {method.name: [str(folder) for folder in method.folders] for method in methods},
        "rows": rows,
        "tests": len(tests),
        "draws": DRAWS,
        "warnings": [*_left_out(methods, keys), *_disagreements(methods), *_failures(methods)],
    }


def _sets(methods: Sequence[Method]) -> list[str]:
    """Return the names of the sets, which must be the same for all methods."""
    first = methods[0].runs[0]
    for method in methods:
        if (found := method.runs[0].keys()) != first.keys():
            raise ComparisonError(
                f"{method.name}: expected the sets of {methods[0].name} ({', '.join(first)}), "
                f"found {', '.join(found)}; compare evaluations of the same sets"
            )
    return list(first)


def _keys(name: str, methods: Sequence[Method], common: bool) -> list[str]:
    """Return the keys of a set's questions, sorted: the order of episodes changes nothing."""
    runs = [run[name].right.keys() for method in methods for run in method.runs]
    shared, every = set(runs[0]).intersection(*runs), set(runs[0]).union(*runs)
    if not shared:
        raise ComparisonError(
            f"{name}: expected evaluations on the same questions, found none that all answered; "
            "evaluate them on the same split"
        )
    if len(shared) < len(every) and not common:
        counts = ", ".join(str(len(run)) for run in runs)
        raise ComparisonError(
            f"{name}: expected evaluations on the same questions, found {counts}, and "
            f"{len(shared)} that all answered; evaluate the rest, or compare on those: --common"
        )
    return sorted(shared)


def _scores(method: Method, name: str, keys: Sequence[str]) -> Scores:
    """[seeds, questions], 0 or 1."""
    return np.array([[run[name].right[key] for key in keys] for run in method.runs], dtype=float)


def _rows(
    sets: Sequence[str], names: Sequence[str], scores: Sequence[Sequence[Scores]]
) -> list[dict[str, Any]]:
    """Return a row for each set and, where there are several, for both averages."""
    draws = resample(scores, draws=DRAWS)
    sizes = np.array([array.shape[1] for array in scores[0]])
    rows = [
        _row(name, names, own, draws[:, :, number])
        for number, (name, own) in enumerate(zip(sets, zip(*scores, strict=True), strict=True))
    ]
    if len(sets) > 1:
        together = [np.concatenate(of_method, axis=1) for of_method in scores]
        rows.append(_row(MICRO, names, together, draws @ (sizes / sizes.sum())))
        means = [float(np.mean([own.mean() for own in of_method])) for of_method in scores]
        rows.append(_row(MACRO, names, together, draws.mean(axis=2), means))
    return rows


def _row(
    name: str,
    names: Sequence[str],
    scores: Sequence[Scores],
    draws: NDArray[np.float64],
    means: Sequence[float] = (),
) -> dict[str, Any]:
    """Compare on some questions.

    Args:
        name: Of the row.
        names: Of the methods.
        scores: Each method's, [seeds, questions].
        draws: [draws, methods], of `resample`.
        means: What is compared instead of the means of the scores, such as means of sets; no test
            of pairs fits these, so they have intervals alone.
    """
    row: dict[str, Any] = {"name": name, "questions": scores[0].shape[1], "methods": {}}
    ems = means or [float(own.mean()) for own in scores]
    for number, (method, own) in enumerate(zip(names, scores, strict=True)):
        figures: dict[str, Any] = {"em": ems[number], "interval": interval(draws[:, number])}
        if not means and len(own) == 1:
            figures["interval"] = wilson(ems[number], own.shape[1])
        if number:
            apart = draws[:, number] - draws[:, 0]
            figures["difference"] = ems[number] - ems[0]
            figures["difference_interval"] = interval(apart)
            figures |= {} if means else _test(scores[0], own, apart)
        row["methods"][method] = figures
    return row


def _test(first: Scores, second: Scores, draws: NDArray[np.float64]) -> dict[str, Any]:
    """Test for a difference; the bootstrap takes over where questions are not all there is."""
    if len(first) > 1 or len(second) > 1:
        return {
            "test": "bootstrap over seeds and questions",
            "p": bootstrap_p(draws),
            "detectable": detectable(float(draws.std())),
        }
    lost, won = int((first > second).sum()), int((first < second).sum())
    questions = first.shape[1]
    return {
        "test": "McNemar, mid-p",
        "lost": lost,  # questions that the reference alone has right
        "won": won,
        "p": mcnemar(lost, won),
        "detectable": detectable_paired(questions, (lost + won) / questions),
    }


def _left_out(methods: Sequence[Method], keys: Mapping[str, Collection[str]]) -> Iterator[str]:
    for name, shared in keys.items():
        runs = [run[name].right.keys() for method in methods for run in method.runs]
        if dropped := len(set().union(*runs)) - len(shared):
            yield f"{name}: {dropped} questions left out, which not all evaluations answered"


def _disagreements(methods: Sequence[Method]) -> Iterator[str]:
    """Name the parts of cards that differ."""
    # A part that one lacks says nothing: an agent that never searches has no retriever.
    for name, first in methods[0].runs[0].items():
        card = first.summary.get("card", {})
        for part in MUST_AGREE:
            for method in methods:
                cards = [run[name].summary.get("card", {}) for run in method.runs]
                found = {str(value) for each in cards if (value := _part(each, part)) is not None}
                expected = _part(card, part)
                if expected is not None and found - {str(expected)}:
                    yield (
                        f"{name}: {part} is {expected!s:.80} for {methods[0].name}, "
                        f"{', '.join(sorted(found)):.80} for {method.name}"
                    )


def _part(card: Mapping[str, Any], name: str) -> Any:
    outer, _, inner = name.partition(".")
    value = card.get(outer)
    if not inner:
        return value
    return value.get(inner) if isinstance(value, Mapping) else None


def _failures(methods: Sequence[Method]) -> Iterator[str]:
    for method in methods:
        for run in method.runs:
            for name, each in run.items():
                if failed := len(each.summary.get("failures", ())):
                    share = f"{failed} of {len(each.right)} episodes"
                    yield f"{name}: {share} of {method.name} failed and count as wrong"
