"""What `at2po eval` evaluates: its settings, and the agent that they describe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from at2po_agents.config.groups import EngineOptions, ModelOptions
from at2po_agents.engines import make_engine
from at2po_agents.errors import AgentError, ConfigError
from at2po_agents.evaluation.baselines import DirectAgent, RagAgent, RandomAgent
from at2po_agents.evaluation.endpoint.agent import EndpointAgent, EndpointOptions
from at2po_agents.evaluation.policy_agent import PolicyAgent
from at2po_agents.policy.encoding import check_dialect
from at2po_agents.rollout.agents import Agent
from at2po_agents.settings import Count, Fraction, Options, Range, Seed, Settings
from at2po_envs import ForkableEnv
from at2po_envs.scripted import WithExpert

_LEAST_TEMPERATURE = 1e-6  # logits divided by less have no finite exponentials


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Settings):
    """Evaluate an agent on environments, greedily by default; the same command again resumes."""

    env: str = "at2po/MiniWiki-v0"
    """Gymnasium id of the environment; several, with commas between them, for several sets."""
    env_options: Options = field(default_factory=dict)
    """Keyword arguments of the environment; on the test split if there is one."""
    agent: Literal["react", "direct", "rag", "scripted", "random"] = "react"
    """How questions are answered: by a model in turns with tools, by a model in one call without
    search (direct) or after one search (rag), by the environment's script, or at random."""
    plain_answers: bool = False
    """Ask direct and rag agents for the answer alone, and take all that they write for it."""
    model: ModelOptions = field(default_factory=ModelOptions)
    """The model that answers."""
    endpoint: EndpointOptions = field(default_factory=EndpointOptions)
    """An OpenAI-compatible endpoint that runs the model, where its `url` is given."""
    limit: Count = 300
    """Questions to answer, the first ones of each set."""
    batch: Count = 64
    """Episodes that run at a time."""
    max_prompt_tokens: Count = 2000
    """Most tokens of a prompt."""
    max_response_tokens: Count = 2048
    """Most tokens after the prompt, tool results included; an endpoint has its own limit."""
    temperature: Annotated[float, Range(0, 1e6)] = 0.0
    """Sampling temperature; 0 is greedy."""
    error_rate: Fraction = 0.0
    """Chance that a turn of the scripted agent goes wrong."""
    seed: Seed = 0
    """Seed of the sampling."""
    engine: EngineOptions = field(default_factory=EngineOptions)
    """What generates for the model."""
    out: Path = Path("runs/eval")
    """Folder for the records; one that began there is resumed if its settings are these."""
    retry_failed: bool = False
    """Play the episodes again that failed before."""

    def __post_init__(self) -> None:
        """Check the temperature, too, now rather than after the model is loaded."""
        super().__post_init__()
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
    return lambda env: EndpointAgent(
        config.endpoint,
        config.model.name,
        stop=env.core.dialect.stop,
        temperature=config.temperature,
        seed=config.seed,
    )


def _policy(config: EvalConfig) -> Callable[[ForkableEnv], Agent]:
    from at2po_agents.policy.loading import load_policy  # needs torch
    from at2po_agents.policy.weights import state_hash

    chosen, options = config.model, config.engine
    # vLLM takes the weights to where it computes; a second copy there would only be in its way.
    device = "cpu" if options.name == "vllm" else chosen.device
    model, tokenizer = load_policy(chosen.name, chosen.dtype, chosen.chat_template, device)
    max_batch = min(config.batch, options.max_batch)
    engine = make_engine(
        options.name, model, tokenizer, max_batch=max_batch, options=options.options
    )
    about = {"model": chosen.name, "weights": state_hash(model.state_dict()), "dtype": chosen.dtype}
    about |= {"chat_template": chosen.chat_template, "engine": options.name}

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
