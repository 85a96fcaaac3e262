"""The prompts of a run, checked before its first step: which questions can be asked at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from at2po_agents.config.train import TrainConfig
from at2po_agents.errors import ConfigError
from at2po_agents.policy.contents import encode
from at2po_agents.policy.encoding import check_dialect, prompt_text
from at2po_agents.policy.loading import load_tokenizer, model_config
from at2po_envs import ForkableEnv

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# No character but U+FDFA is normalised (NFKC) to more bytes, and a token holds at least one byte.
_MOST_BYTES = 33

_log = logging.getLogger(__name__)


def askable_in_run(
    config: TrainConfig, env: ForkableEnv, eval_env: ForkableEnv
) -> tuple[list[int], list[int]]:
    """Check the prompts of a training run.

    Args:
        config: The settings of the run.
        env: The environment that trains; of it all questions are checked, if there are steps.
        eval_env: The environment that evaluates; of it those that are asked.

    Returns:
        The numbers of the questions that training and evaluation can ask.

    Raises:
        ConfigError: As `askable`.
        TokenizerError: If the tokenizer cannot carry a dialect.
        ModelNotFoundError: If there is no such model.
    """
    tokenizer = load_tokenizer(config.model.name, config.model.chat_template)
    # The model has to attend to one token of the turn, too.
    context = int(model_config(config.model.name).max_position_embeddings)
    if isinstance(set_lower := config.engine.options.get("max_model_len"), int):
        context = min(context, set_lower)
    longest = min(config.rollout.max_prompt_tokens, context - 1)
    check = partial(
        askable,
        tokenizer=tokenizer,
        max_prompt_tokens=longest,
        overlong=config.rollout.overlong_prompts,
    )
    training = check(env) if config.steps else list(range(len(env.questions)))
    return training, check(eval_env, count=config.eval.questions)


def askable(
    env: ForkableEnv,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_prompt_tokens: int,
    overlong: Literal["error", "drop"],
    count: int | None = None,
) -> list[int]:
    """Return the questions of an environment whose prompts are short enough.

    Args:
        env: An unwrapped at2po environment.
        tokenizer: Of the policy; one that does not fit the environment's dialect is refused here.
        max_prompt_tokens: Longest prompt, in tokens, >= 1.
        overlong: "error" refuses a longer one, "drop" leaves its question out.
        count: How many are wanted, the first ones; None for all.

    Returns:
        Their numbers, in order.

    Raises:
        ConfigError: If a prompt is too long and `overlong` is "error", or none is short enough.
        TokenizerError: If the tokenizer cannot carry the dialect.
    """
    check_dialect(env.core.dialect, tokenizer)
    fitting: list[int] = []
    longer: list[tuple[str, int]] = []
    for number, question in enumerate(env.questions):
        if len(fitting) == count:
            break
        tokens = _tokens(tokenizer, env.core.begin(question)[1], max_prompt_tokens)
        if tokens <= max_prompt_tokens:
            fitting.append(number)
        else:
            longer.append((question.id, tokens))
    if longer and (overlong == "error" or not fitting):
        raise ConfigError(
            f"rollout.max_prompt_tokens: expected prompts of at most {max_prompt_tokens} tokens, "
            f"found {_shown(longer)}; raise it (and take a model whose context holds them), or "
            'leave such questions out with rollout.overlong_prompts = "drop"'
        )
    if longer:
        _log.warning(
            "left out, because their prompts are longer than %d tokens: %s",
            max_prompt_tokens,
            _shown(longer),
        )
    return fitting


def _tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, limit: int) -> int:
    """The tokens of a prompt; of one that cannot have more than the limit, an upper bound."""
    text = prompt_text(tokenizer, prompt)
    more = len(text.encode("utf-8", "surrogatepass")) - len(text)
    most = len(text) + _MOST_BYTES * more
    return most if most <= limit else len(encode(tokenizer, text))


def _shown(longer: Sequence[tuple[str, int]]) -> str:
    named = ", ".join(f"{name!r} of {tokens}" for name, tokens in longer[:5])
    return f"{len(longer)} longer: question {named}{', …' if len(longer) > 5 else ''}"
