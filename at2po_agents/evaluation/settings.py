"""What `at2po eval` evaluates: its settings, and the agent that they describe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from at2po_agents.engines import EngineName, make_engine
from at2po_agents.errors import AgentError, ConfigError
from at2po_agents.evaluation.baselines import DirectAgent, RagAgent, RandomAgent
from at2po_agents.evaluation.endpoint.agent import EndpointAgent, EndpointOptions
from at2po_agents.evaluation.policy_agent import Agent, PolicyAgent
from at2po_agents.policy.encoding import check_dialect
from at2po_agents.settings import COUNT, SEED, Options, Range, check_ranges
from at2po_envs import ForkableEnv
from at2po_envs.scripted import WithExpert

_LEAST_TEMPERATURE = 1e-6  # logits divided by less have no finite exponentials
_RANGES = {
    "limit batch max_prompt_tokens max_response_tokens": COUNT,
    "temperature": Range(0, 1e6),
    "error_rate": Range(0, 1),
    "seed": SEED,
}
"""Ranges of the fields of `EvalConfig`."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluate an agent on environments, greedily by default; the same command again goes on."""

    env: str = "at2po/MiniWiki-v0"
    """Gymnasium id of the environment; several, with commas between them, for several sets."""
    env_options: Options = field(default_factory=dict)
    """Keyword arguments of the environment; on the test split if there is one."""
    agent: Literal["react", "direct", "rag", "scripted", "random"] = "react"
    """How questions are answered: by a model in turns with tools, by a model in one call without
    search (direct) or after one search (rag), by the environment's script, or at random."""
    plain_answers: bool = False
    """Ask direct and rag agents for the answer alone, and take all that they write for it."""
    model: str = "mini"
    """A folder, a name on the model hub, `mini`, `smollm2-135m`, or a model's name at an endpoint.
    """
    endpoint: EndpointOptions = field(default_factory=EndpointOptions)
    """An OpenAI-compatible endpoint that runs the model, where its `url` is given."""
    chat_template: Literal["model", "qwen3"] = "model"
    """The model's own chat template, or one for Qwen3 that keeps the thinking of every turn."""
    limit: int = 300
    """Questions to answer, the first ones of each set."""
    batch: int = 64
    """Episodes that run at a time."""
    max_prompt_tokens: int = 2000
    """Most tokens of a prompt."""
    max_response_tokens: int = 2048
    """Most tokens after the prompt, tool results included; an endpoint has its own limit."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    error_rate: float = 0.0
    """Chance that a turn of the scripted agent goes wrong."""
    seed: int = 0
    """Seed of the sampling."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of weights and activations."""
    device: str = "auto"
    """Where the model lives: a device of torch; `auto` takes a CUDA device if there is one."""
    engine: EngineName = "transformers"
    """What generates; `vllm` needs the extra of that name."""
    engine_options: Options = field(default_factory=dict)
    """`cache_bytes`; for vLLM also the fields of `vllm.EngineArgs`, or the `url` of a server."""
    out: Path = Path("runs/eval")
    """Folder for the records; an evaluation that began there goes on if its settings are these."""
    retry_failed: bool = False
    """Play the episodes again that failed before."""

    def __post_init__(self) -> None:
        """Check ranges now rather than after the model is loaded."""
        check_ranges(self, _RANGES)
        if 0 < self.temperature < _LEAST_TEMPERATURE:
            raise ConfigError(
                f"temperature: expected 0 or at least {_LEAST_TEMPERATURE}, found "
                f"{self.temperature}; 0 is greedy"
            )


def agent_factory(config: EvalConfig) -> Callable[[ForkableEnv], Agent]:
    """Return a function that makes the agent for an environment; a model is loaded only once.

    Args:
        config: The settings.

    Raises:
        AgentError: If the model or the endpoint cannot be used.
    """
    if config.agent == "scripted":
        return lambda env: _scripted(config, env)
    if config.agent == "random":
        return lambda env: RandomAgent(env, config.seed)
    writer = _endpoint(config) if config.endpoint.url else _policy(config)
    if config.agent == "react":
        return writer
    kind = DirectAgent if config.agent == "direct" else RagAgent
    return lambda env: kind(writer(env), env, plain=config.plain_answers)


def _scripted(config: EvalConfig, env: ForkableEnv) -> Agent:
    if not isinstance(env, WithExpert):
        raise AgentError(
            f"expected an environment with a scripted agent, found {config.env}; "
            "all of at2po's own have one but Replay"
        )
    return env.expert(error_rate=config.error_rate, seed=config.seed)


def _endpoint(config: EvalConfig) -> Callable[[ForkableEnv], Agent]:
    def make(env: ForkableEnv) -> Agent:
        return EndpointAgent(
            config.endpoint,
            config.model,
            stop=env.core.dialect.stop,
            temperature=config.temperature,
            seed=config.seed,
        )

    return make


def _policy(config: EvalConfig) -> Callable[[ForkableEnv], Agent]:
    from at2po_agents.policy.loading import load_policy  # needs torch
    from at2po_agents.policy.weights import weights_hash

    # vLLM takes the weights to where it computes; a second copy there would only be in its way.
    device = "cpu" if config.engine == "vllm" else config.device
    model, tokenizer = load_policy(config.model, config.dtype, config.chat_template, device)
    engine = make_engine(
        config.engine, model, tokenizer, max_batch=config.batch, options=config.engine_options
    )
    about = {"model": config.model, "weights": weights_hash(model), "dtype": config.dtype}
    about |= {"chat_template": config.chat_template, "engine": config.engine}

    def make(env: ForkableEnv) -> Agent:
        check_dialect(env.core.dialect, tokenizer)
        return PolicyAgent(
            engine,
            tokenizer,
            stop=env.core.dialect.stop,
            max_prompt_tokens=config.max_prompt_tokens,
            max_response_tokens=config.max_response_tokens,
            context=engine.max_length,
            temperature=config.temperature,
            seed=config.seed,
            model=about,
        )

    return make
