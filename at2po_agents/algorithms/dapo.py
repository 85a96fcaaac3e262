"""DAPO: decoupled clip and dynamic sampling policy optimization (Yu et al., arXiv 2503.14476)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from at2po_agents.algorithms.base import ClippedLoss
from at2po_agents.objective import advantages
from at2po_agents.rollout.expansion import Chains, Expansion
from at2po_agents.rollout.expansion.base import at_least
from at2po_agents.tree import Node, RolloutTree, leaf_outcome, leaf_reward

Metric = Literal["em", "reward"]


@dataclass(frozen=True, kw_only=True)
class DAPO(ClippedLoss):
    """GRPO with a wider upper clip, a penalty on long rows, and questions that teach something.

    Source: DAPO (arXiv 2503.14476), section 3, and the runs of AT2PO (arXiv 2601.04767): clip 0.2
    and 0.28, three times as many questions rolled out as learned from, penalty over the last 2000
    of 6192 tokens; no KL term. The released script rolls out a second time where too few questions
    are left (`max_resample_rounds` 2). Its responses hold as much of a result that is too long as
    there is room for, so they count as full; here the result is not inserted, but counted.
    """

    chains: int = 16
    """Chains per question, the group."""
    clip_high: float = 0.28
    dual_clip: float = 3.0
    oversample: int = 3
    """Questions rolled out at a time, in multiples of those a step learns from."""
    max_resample_rounds: int = 1
    """Most times per step that questions are rolled out."""
    metric: Metric = "em"
    """What must differ within a group: exact match, or (released) reward with the penalty."""
    max_length: int = 6192
    """Most tokens of a response, tool results included: from there on the penalty is 1."""
    buffer: int = 2000
    """Tokens below `max_length` over which the penalty rises from 0."""

    name: ClassVar[str] = "dapo"

    def __post_init__(self) -> None:
        """Check all settings now rather than after the first rollout."""
        super().__post_init__()
        at_least("oversample", self.oversample, 1)
        at_least("max_resample_rounds", self.max_resample_rounds, 1)
        at_least("buffer", self.buffer, 1)
        at_least("max_length", self.max_length, self.buffer)

    def expansion(self) -> Expansion:
        """Return independent chains."""
        return Chains(self.chains)

    def assign_credit(self, tree: RolloutTree) -> None:
        """Write A_i = (R_i - mean) / std of the group on the rows."""
        advantages.assign_row_advantages(tree, self.shaped)

    def shaped(self, leaf: Node) -> float:
        """Return the reward less the overlong penalty; a result that did not fit has its length."""
        prompt, *turns = leaf.path()
        dropped = leaf.outcome.dropped_tokens if leaf.outcome else 0
        length = dropped + sum(len(turn.sampled) + len(turn.inserted) for turn in turns)
        excess = min(length, self.max_length) - (self.max_length - self.buffer)
        return leaf_reward(leaf) + min(-excess / self.buffer, 0.0)

    def informative(self, tree: RolloutTree) -> bool:
        """Whether the group's rows differ, so that they have advantages at all."""
        measure = (lambda leaf: leaf_outcome(leaf).em) if self.metric == "em" else self.shaped
        return len({measure(leaf) for leaf in tree.leaves()}) > 1
