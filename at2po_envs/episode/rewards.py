"""Rewards: what a turn earns, in named terms that add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from at2po_envs.episode.state import State
from at2po_envs.scoring.answers import Judgement, squad_normalize_answer
from retrieval.text import to_nfc


class Reward(Protocol):
    """Says what a turn earns."""

    def __call__(
        self, before: State, after: State, judgement: Judgement | None
    ) -> Mapping[str, float]:
        """Return the terms of a turn's reward by name; their sum is the reward.

        Args:
            before: The episode before the turn.
            after: The episode after it.
            judgement: The whole episode's judgement at its end, else None.
        """
        ...


@dataclass(frozen=True)
class PaperReward:
    """-1 for a bad format or no answer, else 0 for a wrong answer and 1 for a right one.

    Source: AT²PO (arXiv 2601.04767), Eq. 16;
    ATPO/verl_atpo/verl/utils/reward_score/deep_research_em.py of github.com/zzfoutofspace/ATPO at
    98e60f6.
    """

    def __call__(
        self, before: State, after: State, judgement: Judgement | None
    ) -> Mapping[str, float]:
        """Return the term `paper`."""
        if judgement is None:
            return {"paper": 0.0}
        if judgement.answer is None or not judgement.format_ok:
            return {"paper": -1.0}
        # As released: published scorers let empty texts agree, with F1 0, and pay nothing for it.
        return {"paper": float(judgement.em and judgement.f1 > 0)}


@dataclass(frozen=True)
class EMReward:
    """1 for a right answer, else 0; the format does not matter.

    Source: verl/utils/reward_score/qa_em.py of github.com/PeterGriffinJin/Search-R1 at a14dc3a.
    """

    def __call__(
        self, before: State, after: State, judgement: Judgement | None
    ) -> Mapping[str, float]:
        """Return the term `em`."""
        return {"em": float(judgement is not None and judgement.em)}


@dataclass(frozen=True)
class F1Reward:
    """The answer's token F1; the format does not matter."""

    def __call__(
        self, before: State, after: State, judgement: Judgement | None
    ) -> Mapping[str, float]:
        """Return the term `f1`."""
        return {"f1": judgement.f1 if judgement is not None else 0.0}


@dataclass(frozen=True)
class FormatReward:
    """Search-R1's format variant: the format counts a little, whether the answer is right or not.

    Args:
        structure: Earned by a wrong or missing answer in the right format, and lost by a right
            one in a wrong format.
        retrieval: Earned on top by a wrong answer in the right format if a golden answer stood in
            an observation.
        final: Earned by an answer in a wrong format that is wrong.

    Source: Search-R1 v0.3 (arXiv 2505.15117), format and intermediate retrieval rewards;
    verl/utils/reward_score/qa_em_format.py of github.com/PeterGriffinJin/Search-R1 at a14dc3a,
    whose scripts set 0.2, 0 and 0.1.
    """

    structure: float = 0.2
    retrieval: float = 0.0
    final: float = 0.1

    def __call__(
        self, before: State, after: State, judgement: Judgement | None
    ) -> Mapping[str, float]:
        """Return the terms `em`, `structure`, `retrieval` and `final`."""
        terms = dict.fromkeys(("em", "structure", "retrieval", "final"), 0.0)
        if judgement is None:
            return terms
        if judgement.em:
            terms["em"] = 1.0
            terms["structure"] = 0.0 if judgement.format_ok else -self.structure
        elif judgement.format_ok:
            terms["structure"] = self.structure
            terms["retrieval"] = self.retrieval if _retrieved(after) else 0.0
        elif judgement.answer is not None:
            terms["final"] = self.final
        return terms


@dataclass(frozen=True)
class ToolCost:
    """A price for each tool call, paid in the turn that makes it.

    Args:
        per_call: What a call costs, >= 0.
    """

    per_call: float = 0.01

    def __call__(
        self, before: State, after: State, judgement: Judgement | None
    ) -> Mapping[str, float]:
        """Return the term `tool_cost`."""
        return {"tool_cost": -self.per_call * (after.tool_calls - before.tool_calls)}


@dataclass(frozen=True)
class WeightedSum:
    """A weighted sum of rewards.

    Args:
        terms: Pairs of weight and reward.

    Raises:
        ValueError: When called, if two of the rewards have terms of the same name.
    """

    terms: tuple[tuple[float, Reward], ...]

    def __call__(
        self, before: State, after: State, judgement: Judgement | None
    ) -> Mapping[str, float]:
        """Return all terms, each times its reward's weight."""
        total: dict[str, float] = {}
        for weight, reward in self.terms:
            for name, value in reward(before, after, judgement).items():
                if name in total:
                    raise ValueError(
                        f"expected reward terms of different names, found {name!r} twice"
                    )
                total[name] = weight * value
        return total


def _retrieved(state: State) -> bool:
    """Whether a golden answer stood in anything that the agent was shown."""
    golds = [squad_normalize_answer(to_nfc(gold)) for gold in state.question.golden_answers]
    shown = [squad_normalize_answer(to_nfc(turn.observation)) for turn in state.turns]
    # As released: inside a word too. A golden answer that is empty once normalised is left out.
    return any(gold in text for gold in golds for text in shown if gold)
