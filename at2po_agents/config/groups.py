"""Groups of settings: model, rollout, optimizer, evaluation, checkpoints, engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from at2po_agents.engines import EngineName
from at2po_agents.settings import Count, CountOrZero, Fraction, Options, Range, Seconds, Settings


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The language model and where it computes."""

    name: Annotated[str, tyro.conf.arg(aliases=["--model"])] = "mini"
    """A folder, a name on the model hub, `mini`, `smollm2-135m`, or a model's name at an endpoint.
    """
    chat_template: Literal["model", "qwen3"] = "model"
    """The model's own chat template, or one for Qwen3 that keeps the thinking of every turn."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Number format of weights and activations; float64 is for checks."""
    device: str = "auto"
    """Where the model lives: a device of torch; `auto` takes a CUDA device if there is one."""


@dataclass(frozen=True, kw_only=True)
class RolloutOptions(Settings):
    """What a training step rolls out."""

    group = "rollout."
    questions_per_step: Count = 64
    """Questions, and so trees, per step."""
    temperature: Annotated[float, Range(1e-6, 1e6)] = 1.0
    """Sampling temperature of training rollouts; evaluation is greedy."""
    max_prompt_tokens: Count = 2000
    """Most tokens of a prompt."""
    max_response_tokens: Count = 6192
    """Most tokens after the prompt, tool results included."""
    overlong_prompts: Literal["error", "drop"] = "error"
    """What is done about questions with longer prompts: refuse them before the first step
    (`error`), or leave them out (`drop`)."""
    tool_wait_timeout_s: Seconds = 600.0
    """Seconds to wait for tools that are unavailable; then the run pauses."""


@dataclass(frozen=True, kw_only=True)
class OptimOptions(Settings):
    """The optimizer's steps and the memory that they take."""

    group = "optim."
    learning_rate: Annotated[float, Range(0, 1, above=True)] = 1e-6
    """Learning rate of AdamW, constant."""
    weight_decay: Fraction = 0.01
    """Weight decay of AdamW."""
    grad_clip: Annotated[float, Range(0, 1e9, above=True)] = 1.0
    """Upper limit on the gradient's norm."""
    mini_batches: Count = 8
    """Optimizer updates per step; the step's trees are shared out among them."""
    token_budget: Count = 16384
    """Most tokens in one forward pass of the learner; a larger tree is cut between its rows."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    offload: bool = False
    """Keep the optimizer's state in the CPU's memory and take its steps there."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions(Settings):
    """Evaluations during training."""

    group = "eval."
    every: CountOrZero = 20
    """Steps between evaluations; 0 evaluates only before the first and after the last."""
    questions: Count = 300
    """Questions per evaluation."""
    env_options: Options = field(default_factory=dict)
    """Keyword arguments of the environment that evaluates; on the test split if there is one."""


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(Settings):
    """Checkpoints of a run."""

    group = "checkpoint."
    every: Count = 50
    """Steps between checkpoints; the last step is always saved."""
    keep: Count = 2
    """Newest checkpoints to keep."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions(Settings):
    """What generates."""

    group = "engine."
    name: Annotated[EngineName, tyro.conf.arg(aliases=["--engine"])] = "transformers"
    """What generates; `vllm` needs the extra of that name."""
    options: Options = field(default_factory=dict)
    """`cache_bytes`; for vLLM also the fields of `vllm.EngineArgs`, or the `url` of a server."""
    max_batch: Count = 256
    """Most sequences the engine generates at a time."""
