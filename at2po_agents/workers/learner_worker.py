"""What carries out a run's updates: a policy, its learner, and how both are kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from at2po_agents.config.train import TrainConfig
from at2po_agents.learner import checkpoint, checkpoint_writing
from at2po_agents.learner.learner import Learner
from at2po_agents.learner.process_group import DataParallelGroup
from at2po_agents.policy.adapters import adapter_names
from at2po_agents.policy.loading import load_policy
from at2po_agents.policy.lora import Lora
from at2po_envs.seeds import stable_hash

if TYPE_CHECKING:
    from at2po_agents.learner.fsdp import ShardSaver


class Policy(NamedTuple):
    """A policy that is trained.

    Attributes:
        model: Its model, with an adapter if only that is trained.
        tokenizer: Of the model.
        saved: What writes the model into a checkpoint.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    saved: checkpoint_writing.Pretrained


class LearnerWorker:
    """A policy that is trained, in this process or together with other ranks.

    Several ranks have to call every method together.

    Args:
        config: The settings of the run.
        policy: What `load_start` loaded; several ranks shard the model.
        resumed: The checkpoint to go on from.
        group: Processes that learn together.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        resumed: checkpoint.Checkpoint | None,
        group: DataParallelGroup,
    ) -> None:
        self.config, self.policy, self.group = config, policy, group
        self.model = model = policy.model
        self._dtype = model.dtype  # that of master weights, which several ranks keep, is wider
        lora, optim = config.lora.rank > 0, config.optim
        anchored = config.algorithm.kl_coef and resumed is not None and not lora
        self.learner = Learner(
            model,
            algorithm=config.algorithm,
            lr=optim.learning_rate,
            weight_decay=optim.weight_decay,
            grad_clip=optim.grad_clip,
            mini_batches=optim.mini_batches,
            token_budget=optim.token_budget,
            gradient_checkpointing=optim.gradient_checkpointing,
            offload=optim.offload,
            temperature=config.rollout.temperature,
            # A resumed run keeps to the policy that it started from, not to its checkpoint.
            reference=load_start(config, None).model if anchored else None,
            group=group,
        )
        self._saver: ShardSaver | None = None
        if group.world_size > 1:
            from at2po_agents.learner.fsdp import ShardSaver

            self._saver = ShardSaver(model, self.learner.optimizer, policy.tokenizer, group)
        if resumed is not None:
            self._resume(resumed)

    def weights(self) -> Mapping[str, Tensor]:
        """Return the state that an engine takes: the adapter alone, where only that is trained."""
        state = self.model.state_dict(keep_vars=self.group.world_size > 1)
        if names := adapter_names(state):
            state = {name: state[name] for name in names}
        if self.group.world_size == 1:
            return state
        from at2po_agents.learner.fsdp import full_state

        return full_state(state, self._dtype)

    def save(
        self, root: Path, step: int, *, extra: Mapping[str, float], fingerprint: str, keep: int
    ) -> None:
        """Write a checkpoint, see `checkpoint_writing.save`; several ranks go on meanwhile."""
        if self._saver is not None:
            self._saver.save(root, step, extra=extra, fingerprint=fingerprint, keep=keep)
            return
        checkpoint_writing.save(
            root,
            step,
            model=self.policy.saved,
            tokenizer=self.policy.tokenizer,
            optimizer_state=self.learner.state_dict(),
            extra=extra,
            fingerprint=fingerprint,
            keep=keep,
        )

    def wait_for_checkpoint(self) -> None:
        """Wait until the last checkpoint is written."""
        if self._saver is not None:
            self._saver.wait()

    def _resume(self, resumed: checkpoint.Checkpoint) -> None:
        """Restore what `load_start` has not; one process and several read each other's files."""
        if resumed.shards is None:
            self.learner.load_state_dict(resumed.optimizer())
            return
        from at2po_agents.learner.fsdp import load_shards, read_shards

        if self.group.world_size > 1:
            load_shards(resumed.shards, self.model, self.learner.optimizer)
            return
        weights = read_shards(resumed.shards, "model")
        adam_states = read_shards(resumed.shards, "optimizer")["state"]
        self.model.load_state_dict(weights)
        own = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        narrow = [name for name, p in own if torch.promote_types(p.dtype, torch.float32) != p.dtype]
        state = self.learner.state_dict() | {"masters": [weights[name] for name in narrow]}
        state["optimizer"]["state"] = {
            number: adam_states[name] for number, (name, _) in enumerate(own)
        }
        self.learner.load_state_dict(state)


def load_start(config: TrainConfig, resumed: checkpoint.Checkpoint | None) -> Policy:
    """Load the policy that a run begins with.

    Args:
        config: The settings of the run.
        resumed: The checkpoint to go on from; the weights of a sharded one are read later.
    """
    lora, chosen = config.lora.rank > 0, config.model
    source = chosen.name
    if resumed is not None and resumed.shards is None and not lora:
        source = str(resumed.path)
    model, tokenizer = load_policy(source, chosen.dtype, chosen.chat_template, chosen.device)
    if not lora:
        return Policy(model, tokenizer, model)
    # An adapter goes on beside the weights it started with; checkpoints hold the two merged.
    adapter = Lora(model, config.lora, seed=stable_hash(config.seed, "lora"))
    if resumed is not None and resumed.shards is None:
        adapter.load(resumed.path)
    return Policy(model, tokenizer, adapter)
