"""What an algorithm is: how to grow a tree, how to credit it, what to minimise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_origin, get_type_hints

from at2po_agents.errors import ConfigError
from at2po_agents.objective.advantages import check
from at2po_agents.objective.loss_options import Aggregation, Ratio, Shared
from at2po_agents.rollout.expansion import Entropy, Expansion
from at2po_agents.settings import Fraction, Range, Settings
from at2po_agents.tree import RolloutTree

if TYPE_CHECKING:  # torch takes seconds, and settings do without it
    from torch import Tensor

    from at2po_agents.objective.losses import LossOutput
    from at2po_agents.objective.rows import Rows


class Algorithm(ABC):
    """One reinforcement-learning algorithm, stateless: three questions, and what the rest may ask.

    Subclasses are frozen dataclasses all of whose fields have defaults; a field may take the place
    of a default here.
    """

    name: ClassVar[str]
    """Name for summaries."""
    learns: ClassVar[bool] = True
    """Whether there is anything to train."""
    oversample: int = 1
    """Questions rolled out at a time, in multiples of those a step learns from."""
    max_resample_rounds: int = 1
    """Most times per step that questions are rolled out, to find informative trees."""
    kl_coef: float = 0.0
    """Where it is not 0, the learner keeps a reference policy and fills `rows.ref_logprobs`."""
    entropy: Entropy | None = None
    """The estimate that expansion or loss look at; for "full" the engine keeps more."""
    importance_cap: float | None = None
    """Upper limit of weights for trees from older weights; 0: uncorrected, None: not known."""

    @abstractmethod
    def expansion(self) -> Expansion:
        """Return the strategy that grows the trees."""

    @abstractmethod
    def assign_credit(self, tree: RolloutTree) -> None:
        """Write `advantage` on every turn, or `row_advantage` on every leaf.

        Args:
            tree: A complete tree; every leaf has a reward.
        """

    @abstractmethod
    def loss(self, rows: Rows, logp: Tensor, old: Tensor) -> LossOutput:
        """Return the rows' share of the mini-batch loss.

        A tree whose advantages are all 0 must contribute no loss and no gradient (but for a KL
        term): the learner leaves it out and keeps its rows in `rows.total_rows`.

        Args:
            rows: The rows.
            logp: [R, T] log-probabilities under the policy being trained, differentiable.
            old: [R, T] log-probabilities under the policy before the first mini-batch.
        """

    def informative(self, tree: RolloutTree) -> bool:
        """Whether the tree is worth learning from; the others make room for further questions."""
        return True


@dataclass(frozen=True, kw_only=True)
class ClippedLoss(Algorithm, Settings):
    """The clipped surrogate that all algorithms here share, and its settings."""

    ratio: Ratio = "token"
    """Level of the importance ratio."""
    clip_low: Fraction = 0.2
    """How far the ratio may fall below 1, in [0, 1]."""
    clip_high: Annotated[float, Range(0)] = 0.2
    """How far the ratio may rise above 1, at least 0."""
    soft_upper_clip: bool = False
    """Keep a bounded gradient above the upper bound."""
    dual_clip: float = 0.0
    """Largest ratio that counts where the advantage is negative, above 1; 0 is no such limit."""
    aggregation: Aggregation = "token-mean"
    """How token terms become one loss."""
    shared: Shared = "leaves"
    """Weight of a turn that several rows share: once per leaf, or once."""
    kl_coef: Annotated[float, Range(0)] = 0.0
    """Weight of the KL term towards the starting policy; at 0 there is no reference pass."""
    mask_truncated: bool = False
    """Leave the tokens of rows that were cut off out of the loss."""
    importance_cap: float = 0.0
    """Upper limit of the weight pi_old/mu that corrects for trees from older weights; 0 is no
    correction, usual is 2."""

    def __post_init__(self) -> None:
        """Check all settings now rather than after the first rollout."""
        super().__post_init__()
        hints = get_type_hints(type(self))
        for name, value in vars(self).items():
            if get_origin(hints.get(name)) is Literal:
                check(hints[name], name, value)
        if not (self.dual_clip == 0 or self.dual_clip > 1):
            raise ConfigError(f"dual_clip must be 0 or above 1, found {self.dual_clip}; usual is 3")
        if not self.importance_cap >= 0:
            raise ConfigError(
                f"importance_cap must be at least 0, found {self.importance_cap}; usual is "
                "2, and 0 is no correction"
            )
        self.expansion()  # which checks the settings of trees

    def loss(self, rows: Rows, logp: Tensor, old: Tensor) -> LossOutput:
        """Return the rows' share of the mini-batch loss, see `Algorithm.loss`."""
        from at2po_agents.objective import losses, ratios
        from at2po_agents.objective.diagnostics import measure_importance

        if self.mask_truncated:
            # Denominators keep the tokens that the loss leaves out.
            rows = replace(rows, mask=rows.mask & ~rows.truncated[:, None])
        ratio = ratios.RATIOS[self.ratio](rows, logp, old)
        bounds = {"low": self.clip_low, "high": self.clip_high}
        if self.soft_upper_clip:
            terms = losses.soft_clipped(ratio, rows.advantages, **bounds, logp=logp)
        else:
            terms = losses.clipped(ratio, rows.advantages, **bounds)
        if self.dual_clip:
            terms = losses.dual_clipped(terms, rows.advantages, self.dual_clip)
        if self.importance_cap:
            importance = ratios.importance_weights(rows, old, self.ratio)
            terms = terms * importance.clamp(max=self.importance_cap)
        per_row = self.averaged(rows, terms)
        if self.kl_coef:
            per_row = per_row + self.kl_coef * self.averaged(rows, losses.kl_terms(rows, logp))
        found = losses.output(rows, per_row, ratio=ratio, logp=logp, old=old, **bounds)
        if self.importance_cap:
            weights = measure_importance(rows, importance, self.importance_cap)
            found = replace(found, metrics=found.metrics | weights)
        return found

    def averaged(self, rows: Rows, terms: Tensor) -> Tensor:
        """Return [R] each row's share of the mean of [R, T] terms, of the KL estimate as well."""
        from at2po_agents.objective import losses

        if self.shared == "once":
            terms = terms / rows.row_count.clamp(min=1)
        return losses.AGGREGATIONS[self.aggregation](rows, terms)
