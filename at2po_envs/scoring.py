"""Exact match, F1 and the reward of an episode, judged on the agent's own text only."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_CLOSING = re.compile("</search>|</answer>")
_CLOSED_CLASS = frozenset({"yes", "no", "noanswer"})


@dataclass(frozen=True, slots=True)
class Judgement:
    """What an episode was worth.

    Attributes:
        answer: The boxed answer as written, None if there is none.
        em: Whether it equals a golden answer after normalisation.
        f1: Best token F1 over the golden answers, in [0, 1].
        format_ok: Whether all tags are as the format asks.
        reward: -1 (bad format or no answer), 0 (wrong) or 1 (right).
    """

    answer: str | None
    em: bool
    f1: float
    format_ok: bool
    reward: float


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


def extract_boxed(text: str) -> str | None:
    r"""Return the content of the last ``\boxed{...}``, None if there is none or it never closes.

    Where ``\boxed`` is followed by a space, everything behind its last such use counts, up to the
    first ``$``.

    Source: algorithms.md section 2.2.
    """
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    _, box, rest = text.rpartition("\\boxed{")
    if not box:
        return None
    depth = 1
    for position, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[:position]
    return None


def judge(turns: Sequence[str], golds: Sequence[str]) -> Judgement:
    """Score an episode by what the agent wrote.

    Every turn but the last was answered by the environment; whatever it answered (a result, an
    error, the limit notice) counts as the ``<result>`` that a search must be followed by.

    Args:
        turns: The agent's texts in order, without anything that the environment inserted.
        golds: The golden answers.

    Returns:
        The judgement; ``em`` and ``f1`` disregard the format, ``reward`` does not.

    Source: algorithms.md section 2, with deviations 4 and 5 of section 9: retrieved text is never
    judged, and a right answer after the tool limit earns its reward.
    """
    answer = _answer(turns)
    format_ok = _format_ok(turns)
    em = answer is not None and exact_match(answer, golds)
    f1 = 0.0 if answer is None else f1_score(answer, golds)
    if answer is None or not format_ok:
        reward = -1.0
    else:
        reward = float(em and f1 > 0)
    return Judgement(answer, em, f1, format_ok, reward)


def _answer(turns: Sequence[str]) -> str | None:
    """Return the boxed answer of the first turn whose first closing tag is ``</answer>``."""
    for turn in turns:
        closing = _CLOSING.search(turn)
        if closing and closing.group() == "</answer>":
            _, opening, inside = turn[: closing.start()].partition("<answer>")
            return extract_boxed(inside) if opening else None
    return None


def _format_ok(turns: Sequence[str]) -> bool:
    whole = "\n".join(turns)
    if not 1 <= whole.count("<think>") == whole.count("</think>"):
        return False
    if whole.count("<answer>") != 1 or whole.count("</answer>") != 1:
        return False
    if not all(
        _calls_ok(turn, answered=turn_number < len(turns))
        for turn_number, turn in enumerate(turns, start=1)
    ):
        return False
    inside, closing, _ = whole.partition("<answer>")[2].partition("</answer>")
    return bool(closing) and "\\boxed{" in inside and "}" in inside


def _calls_ok(turn: str, *, answered: bool) -> bool:
    """Return whether every call opened in a turn was closed and got its result."""
    if "<python>" in turn:  # there is no such tool, so such a call never gets a result
        return False
    _, opening, rest = turn.partition("<search>")
    if not opening:
        return True
    query, closing, after = rest.partition("</search>")
    return answered and bool(closing) and "<search>" not in query + after
