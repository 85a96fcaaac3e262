"""Exact match, cover match and F1 of an episode, judged on the agent's own text only."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from fractions import Fraction
from types import MappingProxyType

from at2po_envs.dialects import At2poTags, Dialect, HowRead
from at2po_envs.errors import check_known
from at2po_envs.scoring.typesetting import without_typesetting
from retrieval.text import to_nfc

SCORER_VERSION = 2
"""Raised whenever the same texts would get another score; evaluations put it on record.

2: texts are compared in NFC and without typesetting, an empty answer is never right, golden answers
of nothing but articles or signs can be given, tags that are only mentioned break no format, a
`\\boxed` that holds nothing is passed over.
"""

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
    r"""Reduce an answer to what is compared: its words.

    Unicode is composed (NFC), LaTeX that only sets the type (`\text{}`, `\,`) is taken away,
    the case is lowered, ASCII punctuation deleted (not replaced by a space), articles are dropped
    and white space is collapsed. Words stay where all are articles, signs where there are no
    words: only an empty text is empty afterwards.
    """
    lowered = without_typesetting(to_nfc(text)).lower()
    bare = lowered.translate(_DELETE_PUNCTUATION)
    return _words(_ARTICLE.sub(" ", bare)) or _words(bare) or _words(lowered)


def squad_normalize_answer(text: str) -> str:
    """Lower the case, delete ASCII punctuation, drop articles, collapse white space.

    Source: `normalize_answer` in SQuAD's evaluate-v1.1.py (arXiv 1606.05250), as FlashRAG,
    Search-R1 and AT²PO's release have it.
    """
    return _words(_ARTICLE.sub(" ", text.lower().translate(_DELETE_PUNCTUATION)))


def _words(text: str) -> str:
    return " ".join(text.split())


@dataclass(frozen=True, slots=True)
class Scorer:
    """A way of comparing an answer with the golden ones.

    Attributes:
        name: What settings call it.
        version: What evaluations put on record; another one means other scores.
        normalize: What is done to both sides first.
        empty_counts: Whether texts that are empty afterwards agree.
        reading: How an ended episode is read, in dialects that have a choice.
    """

    name: str
    version: int | str
    normalize: Callable[[str], str]
    empty_counts: bool = False
    reading: HowRead = "structure"

    def exact_match(self, prediction: str, golds: Sequence[str]) -> bool:
        """Return whether the normalised prediction equals any normalised golden answer."""
        normal = self.normalize(prediction)
        counts = bool(normal) or self.empty_counts
        return counts and any(normal == self.normalize(gold) for gold in golds)

    def cover_exact_match(self, prediction: str, golds: Sequence[str]) -> bool:
        """Return whether the normalised prediction contains any normalised golden answer.

        Characters are compared, not words: "George III" covers "George II". A prediction that says
        everything covers everything, so this is to be read beside exact match, never alone.

        Source: `Sub_ExactMatch` in flashrag/evaluator/metrics.py of github.com/RUC-NLPIR/FlashRAG,
        which recorded rollouts call `acc`.
        """
        normal, wanted = self.normalize(prediction), map(self.normalize, golds)
        return any(gold in normal for gold in wanted if gold or self.empty_counts)

    def f1_score(self, prediction: str, golds: Sequence[str]) -> float:
        """Return the best token F1 of the prediction over the golden answers.

        Args:
            prediction: The answer given.
            golds: The golden answers.

        Returns:
            A number in [0, 1]; 0 where one side is yes, no or noanswer and the other is not the
            same, and where nothing is left of either.

        Source: `f1_score` in hotpot_evaluate_v1.py of github.com/hotpotqa/hotpot, as FlashRAG has
        it.
        """
        normal = self.normalize(prediction)
        return max((_f1(normal, self.normalize(gold)) for gold in golds), default=0.0)


OURS = Scorer("at2po-envs", SCORER_VERSION, normalize_answer)
SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {
        scorer.name: scorer
        for scorer in (
            OURS,
            Scorer("flashrag", "flashrag", squad_normalize_answer, empty_counts=True),
            Scorer(
                "released",
                "released",
                squad_normalize_answer,
                empty_counts=True,
                reading="released",
            ),
        )
    }
)
"""By name: our own; FlashRAG's, which is Search-R1's too; and that of AT²PO's release, which
compares likewise and reads episodes in its own way."""

exact_match, f1_score = OURS.exact_match, OURS.f1_score
cover_exact_match = OURS.cover_exact_match


def make_scorer(name: str) -> Scorer:
    """Return a scorer by its name.

    Raises:
        UnknownNameError: If there is none of this name in `SCORERS`.
    """
    check_known("a scorer", name, SCORERS)
    return SCORERS[name]


def _f1(prediction: str, gold: str) -> float:
    if prediction != gold and (prediction in _CLOSED_CLASS or gold in _CLOSED_CLASS):
        return 0.0
    said, wanted = prediction.split(), gold.split()
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def numeric_match(prediction: str, golds: Sequence[str]) -> bool:
    """Return whether the prediction is the same number as a golden answer, exactly.

    Args:
        prediction: Decimal or fraction; a thousands comma, a leading `$` and a trailing `%`
            are ignored.
        golds: Golden answers, written likewise.
    """
    number = _number(prediction)
    return number is not None and any(number == _number(gold) for gold in golds)


def _number(text: str) -> Fraction | None:
    bare = without_typesetting(text).replace("{", "").replace("}", "").strip()
    bare = bare.removeprefix("$").removesuffix("$").removesuffix("%").strip()
    bare = _THOUSANDS.sub("", bare)
    if not _NUMBER.fullmatch(bare):
        return None
    above, _, below = bare.replace(" ", "").partition("/")
    try:
        return Fraction(above) / Fraction(below or 1)
    except ZeroDivisionError:
        return None


Match = Callable[[str, Sequence[str]], bool]
"""Says whether a prediction agrees with one of the golden answers."""


def judge(
    turns: Sequence[str],
    golds: Sequence[str],
    dialect: Dialect | None = None,
    match: Match | None = None,
    scorer: Scorer = OURS,
) -> Judgement:
    """Score an episode by what the agent wrote.

    Args:
        turns: The agent's texts in order, without anything that the environment inserted.
        golds: The golden answers.
        dialect: How the turns are written; None for AT²PO's tags.
        match: What counts as a right answer instead of the scorer's exact match; its F1 is 1.
        scorer: How the answer is compared with the golden ones.

    Returns:
        The judgement; `em` and `f1` disregard the format. F1 is 1 wherever EM is, but with
        published scorers, where empty texts agree.

    Source: AT²PO (arXiv 2601.04767), Eq. 16. Two departures: retrieved text is never judged, and a
    right answer after the tool limit earns its reward.
    """
    answer, format_ok = astuple((dialect or _AT2PO).read(turns))
    if answer is None:
        return Judgement(None, False, 0.0, format_ok)
    f1 = scorer.f1_score(answer, golds)
    if match is None:
        return Judgement(answer, scorer.exact_match(answer, golds), f1, format_ok)
    right = bool(match(answer, golds))
    return Judgement(answer, right, 1.0 if right else f1, format_ok)


_AT2PO = At2poTags()
