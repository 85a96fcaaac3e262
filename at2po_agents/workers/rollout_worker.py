"""What carries out jobs of rolling out: an engine and its environments."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from at2po_agents.config.train import TrainConfig
from at2po_agents.engines import Engine, make_engine
from at2po_agents.errors import ToolsUnavailableError
from at2po_agents.monitoring.queue_length import QueueWatch
from at2po_agents.rollout.collector import Collector
from at2po_agents.rollout.environments import make_env, on_test_split
from at2po_agents.tree import RolloutTree
from at2po_agents.workers.base import Job
from at2po_envs import ForkableEnv

_log = logging.getLogger(__name__)

MAX_ROLLOUT_RETRIES = 3
"""Times that a tree is grown again after its tools failed; then the failure stays in it."""


class RolloutWorker:
    """An engine with the environments that it plays in.

    Args:
        config: The settings of the run.
        model: What generates.
        tokenizer: Of the model.
        envs: The environments that train and that evaluate.

    Attributes:
        waiting: Whether it waits for tools that are unavailable.
        queues: Turns at the engine and at tools, during the latest job.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        envs: tuple[ForkableEnv, ForkableEnv],
    ) -> None:
        self.config, self.tokenizer, self.envs = config, tokenizer, envs
        self.waiting = False
        self.queues: Sequence[QueueWatch] = ()
        self.engine = make_engine(
            config.engine.name,
            model,
            tokenizer,
            max_batch=config.engine.max_batch,
            keep_entropies=config.algorithm.entropy == "full",
            options=config.engine.options,
        )

    def grow_trees(self, job: Job, weights: Mapping[str, Tensor]) -> list[RolloutTree]:
        """Load weights, and grow a tree for every question of a job.

        The engine begins with nothing in its cache: what an earlier collection left there would
        change the rounding of this one, and a resumed run would differ from one that was never
        interrupted.

        A tree whose tools failed because they were unavailable is grown again: an agent should not
        learn from the text of an error that is none of its doing. One whose tools go on failing
        though they are there keeps the failure, and its flag.

        Args:
            job: The questions, and how.
            weights: State of the policy.

        Returns:
            One tree a question, in their order.

        Raises:
            ToolsUnavailableError: If tools failed, and stay unavailable for `tool_wait_timeout_s`.
        """
        self.engine.load_weights(weights)
        env = self.envs[job.test]
        collector = new_collector(self.config, env, self.engine, self.tokenizer)
        self.queues = collector.queues
        chosen = [env.questions[number] for number in job.questions]

        grown: dict[int, RolloutTree] = {}
        places = list(range(len(chosen)))
        for attempt in range(1 + MAX_ROLLOUT_RETRIES):
            trees = collector.collect(
                [chosen[place] for place in places],
                job.expansion,
                seed=job.seed,
                temperature=job.temperature,
                numbers=[job.first + place for place in places],
            )
            grown |= zip(places, trees, strict=True)
            places = [place for place in places if _tools_failed(grown[place])]
            if not places or attempt == MAX_ROLLOUT_RETRIES:
                break
            if not self._wait_for_tools(env, len(places)):
                break
        return [grown[place] for place in range(len(chosen))]

    def _wait_for_tools(self, env: ForkableEnv, failed: int) -> bool:
        """Wait until tools are there again; False if nothing can be said of them."""
        timeout = self.config.rollout.tool_wait_timeout_s
        _log.warning("tools failed in %d trees; waiting until they are there", failed)
        self.waiting = True
        unavailable = env.wait_for_tools(timeout)
        self.waiting = False
        if unavailable:
            raise ToolsUnavailableError(
                f"expected tools that answer, found unavailable for {timeout:g} s: "
                f"{', '.join(unavailable)}; bring them back, then go on with --resume"
            )
        return unavailable is not None


def make_envs(config: TrainConfig) -> tuple[ForkableEnv, ForkableEnv]:
    """Make the environments of a run: the one that trains, and the one that evaluates."""
    testing = on_test_split(config.env, config.eval.env_options)
    return make_env(config.env, config.env_options), make_env(config.env, testing)


def new_collector(
    config: TrainConfig, env: ForkableEnv, engine: Engine, tokenizer: PreTrainedTokenizerBase
) -> Collector:
    """Build the collector that a configuration asks for.

    Args:
        config: The limits.
        env: The environment played.
        engine: Samples turns.
        tokenizer: The policy's tokenizer.
    """
    return Collector(
        env,
        engine,
        tokenizer,
        max_prompt_tokens=config.rollout.max_prompt_tokens,
        max_response_tokens=config.rollout.max_response_tokens,
        context=engine.max_length,
    )


def _tools_failed(tree: RolloutTree) -> bool:
    return any(leaf.outcome and "tool_failed" in leaf.outcome.flags for leaf in tree.leaves())
