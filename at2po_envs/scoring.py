"""Exact match, cover match and F1 of an episode, judged on the agent's own text only."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from fractions import Fraction

from at2po_envs.dialects import At2poTags, Dialect

SCORER_VERSION = 1
"""Raised whenever the same texts would get another score; evaluations put it on record."""

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_NUMBER = re.compile(r"[-+]?\d{1,30}(\.\d{0,30})?( ?/ ?\d{1,30})?|[-+]?\.\d{1,30}", re.ASCII)
_CLOSED_CLASS = frozenset({"yes", "no", "noanswer"})


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an episode was worth.

    Attributes:
        answer: The final answer as written, None if there is none.
        em: Whether it agrees with a golden answer.
        f1: Best token F1 over the golden answers, in [0, 1].
        format_ok: Whether everything is written as the dialect asks.
    """

    answer: str | None
    em: bool
    f1: float
    format_ok: bool


def normalize_answer(text: str) -> str:
    """Lower the case, delete ASCII punctuation, drop articles, collapse white space.

    The order matters: punctuation is deleted, not replaced by a space.

    Source: algorithms.md section 2.3 (the SQuAD normalisation).
    """
    bare = text.lower().translate(_DELETE_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


def exact_match(prediction: str, golds: Sequence[str]) -> bool:
    """Return whether the normalised prediction equals any normalised golden answer."""
    normal = normalize_answer(prediction)
    return any(normal == normalize_answer(gold) for gold in golds)


def cover_exact_match(prediction: str, golds: Sequence[str]) -> bool:
    """Return whether the normalised prediction contains any normalised golden answer.

    Characters are compared, not words: "George III" covers "George II" and anything covers an
    answer that normalises to nothing. A prediction that says everything covers everything, so
    this is to be read beside exact match, never alone.

    Source: FlashRAG's sub-EM, which recorded rollouts call ``acc``.
    """
    normal = normalize_answer(prediction)
    return any(normalize_answer(gold) in normal for gold in golds)


def f1_score(prediction: str, golds: Sequence[str]) -> float:
    """Return the best token F1 of the prediction over the golden answers.

    Args:
        prediction: The answer given.
        golds: The golden answers.

    Returns:
        A number in [0, 1]; 0 where one side is yes, no or noanswer and the other is not the same.

    Source: algorithms.md section 2.3.
    """
    return max((_f1(normalize_answer(prediction), normalize_answer(g)) for g in golds), default=0.0)


def _f1(prediction: str, gold: str) -> float:
    if prediction != gold and (prediction in _CLOSED_CLASS or gold in _CLOSED_CLASS):
        return 0.0
    said, wanted = prediction.split(), gold.split()
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def numeric_match(prediction: str, golds: Sequence[str]) -> bool:
    """Return whether the prediction is the same number as a golden answer, exactly.

    Args:
        prediction: Decimal or fraction; a thousands comma, a leading ``$`` and a trailing ``%``
            are ignored.
        golds: Golden answers, written likewise.
    """
    number = _number(prediction)
    return number is not None and any(number == _number(gold) for gold in golds)


def _number(text: str) -> Fraction | None:
    bare = _THOUSANDS.sub("", text.strip().removeprefix("$").removesuffix("%").strip())
    if not _NUMBER.fullmatch(bare):
        return None
    try:
        return Fraction(bare.replace(" ", ""))
    except ZeroDivisionError:
        return None


Match = Callable[[str, Sequence[str]], bool]
"""Says whether a prediction agrees with one of the golden answers."""


def judge(
    turns: Sequence[str],
    golds: Sequence[str],
    dialect: Dialect | None = None,
    match: Match = exact_match,
) -> Judgement:
    """Score an episode by what the agent wrote.

    Args:
        turns: The agent's texts in order, without anything that the environment inserted.
        golds: The golden answers.
        dialect: How the turns are written; None for AT²PO's tags.
        match: What counts as a right answer.

    Returns:
        The judgement; ``em`` and ``f1`` disregard the format.

    Source: algorithms.md section 2, with deviations 4 and 5 of section 9: retrieved text is never
    judged, and a right answer after the tool limit earns its reward.
    """
    answer, format_ok = astuple((dialect or _AT2PO).read(turns))
    em = answer is not None and match(answer, golds)
    f1 = 0.0 if answer is None else f1_score(answer, golds)
    return Judgement(answer, em, f1, format_ok)


_AT2PO = At2poTags()
