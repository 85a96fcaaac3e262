"""The learner: credited trees in, one policy update out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from at2po_agents.algorithms.base import Algorithm
from at2po_agents.errors import ConfigError, TreeError
from at2po_agents.learner.checkpoint import LearnerState, OptimizerState
from at2po_agents.learner.logprobs import token_logprobs
from at2po_agents.learner.master_weights import MasterWeights
from at2po_agents.learner.packing import Pack, pack
from at2po_agents.learner.partition import partition_packs, row_tokens, shortest, split
from at2po_agents.learner.process_group import DataParallelGroup
from at2po_agents.learner.tree_attention import check_model, tree_attention
from at2po_agents.learner.update_metrics import (
    MiniBatchStep,
    carries_credit,
    count_trees,
    summarize,
)
from at2po_agents.objective.losses import LossOutput
from at2po_agents.policy.adapters import find_adapter, without_adapter
from at2po_agents.rollout.expansion.entropy_measures import entropy_mean_std
from at2po_agents.tree import RolloutTree

_log = logging.getLogger(__name__)


@dataclass
class _Part:
    """Trees, or parts of them, that go through the model together.

    A part without trees counts for nothing: other ranks go through the model once more than this
    one has reason to, and all have to do so together.
    """

    trees: list[RolloutTree]
    pack: Pack
    row_tokens: int
    old: Tensor | None = None  # [S] log-probs before the update; None: read off the first forward


class Learner:
    """Turns rollout trees into AdamW steps on a model.

    Several ranks share the work and the weights: each is given all trees, takes of each mini-batch
    nearly as many unique tokens as the others, be it by parts of trees, and ends with its shard of
    the same update that one process would make. All of them have to call `update` together.

    Args:
        model: A transformers decoder with full attention; changed in place. Parameters without
            gradient stay as they are.
        algorithm: Says what is minimised.
        lr: Learning rate after the warm-up, constant.
        betas: AdamW's decay rates.
        weight_decay: AdamW's weight decay, on all parameters.
        grad_clip: Largest gradient norm of a step, above 0.
        mini_batches: Optimizer steps per update, at least 1.
        token_budget: Largest number of unique tokens in one forward pass, at least 1; a larger
            tree is cut between its rows, a larger row gets a pass of its own.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        offload: Keep the masters and the optimizer's state in the CPU's memory.
        temperature: Sampling temperature of the rollouts, above 0.
        warmup: Updates over which the learning rate rises linearly, at least 0.
        reference: The policy that the run started from, for an algorithm whose `kl_coef` is
            not 0; None takes a copy of `model` as it is now. Not used for a model that has an
            adapter.
        group: Processes that share the work; with more than one, `model` is sharded.

    Attributes:
        masters: The model's weights in at least float32; gradients add up and steps happen there.
        optimizer: Their AdamW optimizer.
        reference: The frozen policy of the KL term, which is the model without its adapter where
            only that is trained; None for an algorithm without such a term.
        nonfinite_trees: Trees whose loss or gradient was not finite in the latest update.
        passes: Forward passes of the model so far, a sign of life.

    Raises:
        ConfigError: If a setting is out of range.
        UnsupportedModelError: If packed training would not be exact for the model.

    Source: lr 1e-6, weight decay 0.01, clip 1.0, no warm-up: ATPO/scripts/ATPO_qwen3_4B.sh of
    github.com/zzfoutofspace/ATPO at 98e60f6, and verl's defaults for what that leaves out.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        algorithm: Algorithm,
        lr: float = 1e-6,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.01,
        grad_clip: float = 1.0,
        mini_batches: int = 1,
        token_budget: int = 16384,
        gradient_checkpointing: bool = False,
        offload: bool = False,
        temperature: float = 1.0,
        warmup: int = 0,
        reference: PreTrainedModel | None = None,
        group: DataParallelGroup = DataParallelGroup(),  # noqa: B008 - immutable
    ) -> None:
        for name, count in {"mini_batches": mini_batches, "token_budget": token_budget}.items():
            if count < 1:
                raise ConfigError(f"{name} must be at least 1, found {count}; raise it")
        for name, value in {"lr": lr, "grad_clip": grad_clip, "temperature": temperature}.items():
            if not value > 0:
                raise ConfigError(f"{name} must be above 0, found {value}; raise it")
        check_model(model)
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = model
        self.algorithm = algorithm
        self.temperature = temperature
        self.lr, self.warmup, self.grad_clip = lr, warmup, grad_clip
        self.mini_batches, self.token_budget = mini_batches, token_budget
        self.gradient_checkpointing = gradient_checkpointing
        self.nonfinite_trees: list[RolloutTree] = []
        self.reference: PreTrainedModel | None = None
        if algorithm.kl_coef:
            if find_adapter(model):
                self.reference = model
            else:
                self.reference = (reference or deepcopy(model)).requires_grad_(False).eval()
        self.group, self.passes = group, 0
        self._device = model.device  # where it computes; offloaded shards lie elsewhere
        self._score = self._scorer(model, offload)
        self._score_reference = self._score
        if self.reference is not None and self.reference is not model:
            self._score_reference = self._scorer(self.reference, offload)
        trained = (p for p in model.parameters() if p.requires_grad)
        self.masters = MasterWeights(trained, offload=offload and group.world_size == 1)
        self.optimizer = torch.optim.AdamW(
            self.masters.parameters, lr=lr, betas=betas, weight_decay=weight_decay
        )

    def update(self, trees: Sequence[RolloutTree], step: int = 0) -> dict[str, float]:
        """Take one optimizer step per mini-batch of credited trees.

        Args:
            trees: Complete trees of one batch of questions whose turns carry advantages, at least
                one.
            step: Number of this update, from 0; only the warm-up reads it.

        Returns:
            Metrics. Means over the steps taken: loss, grad_norm. Over all row tokens: the
            algorithm's own. Of these, means over all tokens and extremes do not depend on packs and
            ranks; quantiles, and means over rows or some of the tokens (h_turn, those of one turn,
            all where truncated rows are masked), are means over packs weighted by their tokens, so
            they do a little. Counts: optimizer_steps, skipped (steps not taken because loss or
            gradient was not finite; their trees are in `nonfinite_trees`), trees, rows,
            zero_variance_trees, unique_tokens, row_tokens (what the rows would cost unpacked),
            trained_tokens (that went forward and backward on all ranks: unique tokens, but what the
            parts of a tree that was cut share counts in each). And lr. A metric that was not
            measured or is not finite is absent.

        Raises:
            TreeError: If there is no tree or a tree is not complete.
        """
        if not trees:
            raise TreeError("an update needs at least one tree, found none; collect rollouts first")
        rate = self.lr * min(1.0, (step + 1) / self.warmup) if self.warmup else self.lr
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.nonfinite_trees = []
        with self._mode():
            batches = [self._mini_batch(part) for part in split(trees, self.mini_batches)]
            # The later mini-batches need the log-probs of the policy that the update started from;
            # the first reads them off its own forward pass, so that its ratios are exactly 1.
            for part in (part for batch in batches[1:] for part in batch):
                with torch.no_grad():
                    part.old = self._forward(part.pack)
            steps = [self._step(batch) for batch in batches]
        own = [place for place, tree in enumerate(trees) if tree in self.nonfinite_trees]
        places = set(chain(*self.group.all_gather(own)))
        self.nonfinite_trees = [trees[place] for place in sorted(places)]
        return {"lr": rate, **summarize(self.group.all_gather(steps)), **count_trees(trees)}

    def state_dict(self) -> LearnerState:
        """Return the state of the optimizer and what the model's own weights, saved apart, lack."""
        optimizer = cast(OptimizerState, self.optimizer.state_dict())
        return {"optimizer": optimizer, "masters": self.masters.state()}

    def load_state_dict(self, state: LearnerState) -> None:
        """Restore what `state_dict` returned.

        Args:
            state: The state that a learner of one process had for a model of the same shape.
        """
        if self.group.world_size > 1:
            from at2po_agents.learner.fsdp import load_whole

            load_whole(state, self.optimizer)
            return
        self.optimizer.load_state_dict(dict(state["optimizer"]))
        self.masters.load(state["masters"])

    def _mini_batch(self, trees: Sequence[RolloutTree]) -> list[_Part]:
        """Pack the trees that carry a gradient; all of them stay in the denominators."""
        rows = sum(len(tree.leaves()) for tree in trees)
        tokens = sum(row_tokens(tree, sampled_only=True) for tree in trees)
        mean_std = entropy_mean_std([leaf for tree in trees for leaf in tree.leaves()])
        counted = [tree for tree in trees if self._counts_in(tree)]
        parts = []
        packs = partition_packs(counted, self.group.world_size, self.token_budget)
        own = packs[self.group.rank]
        # All ranks have equally many, if need be idle ones.
        for members in own + [[]] * (max(map(len, packs)) - len(own)):
            there = members or [shortest(counted)]
            packed = pack(there, device=self._device, dtype=self._dtype)
            tokens_here = packed.rows.total_tokens if members else 0
            whole = replace(
                packed.rows, total_rows=rows, total_tokens=tokens, entropy_mean_std=mean_std
            )
            parts.append(
                _Part([part.tree for part in members], replace(packed, rows=whole), tokens_here)
            )
        return parts

    def _step(self, parts: list[_Part]) -> MiniBatchStep:
        """Accumulate the gradients of one mini-batch and step if all of it is finite."""
        self.optimizer.zero_grad()
        outputs = []
        for part in parts:
            rows = part.pack.rows
            if self.reference is not None:
                with torch.no_grad(), without_adapter(self.reference):
                    reference = rows.gather(self._score_reference(part.pack))
                rows = replace(rows, ref_logprobs=reference)
            logp = self._forward(part.pack)
            old = logp.detach() if part.old is None else part.old
            if part.trees:
                output = self.algorithm.loss(rows, rows.gather(logp), rows.gather(old))
                outputs.append(replace(output, loss=output.loss.detach()))
                output.loss.backward()
            else:
                (0.0 * logp.sum()).backward()
            self.masters.accumulate_grads()
        for parameter in self.masters.parameters:
            # Without any advantage the gradient is 0 rather than absent, so momentum and decay
            # act just as if the trees had been processed.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        own = [part for part in parts if part.trees]
        norm = self._clip()
        loss = sum(self.group.all_gather(sum(output.loss.item() for output in outputs)))
        taken = math.isfinite(norm + loss)
        if taken:
            self.optimizer.step()
            self.masters.copy_to_model()
        else:
            found = _broken(own, outputs)
            everything = [tree for part in own for tree in part.trees]
            # Where only the gradient is not finite, no tree is known to be at fault.
            self.nonfinite_trees += found if any(self.group.all_gather(bool(found))) else everything
            if self.group.is_main:
                _log.warning("step skipped: loss %s, gradient norm %s", loss, norm)
        self.optimizer.zero_grad()
        return MiniBatchStep(
            taken=taken,
            loss=loss,
            norm=norm,
            trained=sum(part.pack.ids.numel() for part in own),
            tokens=[part.row_tokens for part in own],
            metrics=[{n: m.cpu() for n, m in output.metrics.items()} for output in outputs],
        )

    def _forward(self, pack: Pack) -> Tensor:
        self.passes += 1
        return self._score(pack)

    def _clip(self) -> float:
        """Clip the gradient, and return the norm that it had."""
        norm = torch.nn.utils.clip_grad_norm_(self.masters.parameters, self.grad_clip)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _scorer(self, model: PreTrainedModel, offload: bool) -> Callable[[Pack], Tensor]:
        """Return what computes the log-probabilities of a pack under a model."""
        if self.group.world_size == 1:
            return partial(token_logprobs, model, temperature=self.temperature)
        from at2po_agents.learner.fsdp import ShardedScorer

        size, temperature = self.group.world_size, self.temperature
        return ShardedScorer(model, size, temperature=temperature, offload=offload)

    def _counts_in(self, tree: RolloutTree) -> bool:
        """Whether a tree has a gradient: an advantage, or tokens to keep near the reference."""
        sampled = any(node.sampled for node in tree.nodes())
        return sampled and (self.reference is not None or carries_credit(tree))

    @property
    def _dtype(self) -> torch.dtype:
        """The dtype in which log-probabilities come: never narrower than float32."""
        return torch.promote_types(self.model.dtype, torch.float32)

    @contextmanager
    def _mode(self) -> Iterator[None]:
        """Switch dropout off; transformers checkpoints activations in training mode only."""
        before = self.model.training
        self.model.train(self.gradient_checkpointing)
        try:
            # Held over the backward pass too, where checkpointed layers run a second time.
            with tree_attention(self.model):
                yield
        finally:
            self.model.train(before)


def _broken(parts: list[_Part], outputs: list[LossOutput]) -> list[RolloutTree]:
    """Return the trees that have rows whose loss is not finite."""
    return [
        part.trees[number]
        for part, output in zip(parts, outputs, strict=True)
        for number in set(part.pack.rows.tree[~torch.isfinite(output.per_row)].tolist())
    ]
