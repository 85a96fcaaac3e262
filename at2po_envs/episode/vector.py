"""Many episodes of one environment side by side, their tool calls in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from at2po_envs.episode.env import ForkableTextEnv
from at2po_envs.episode.snapshots import Snapshot
from at2po_envs.errors import EpisodeOverError, InvalidActionError, check_integer

Array = npt.NDArray[Any]


class ForkableVectorEnv(VectorEnv[tuple[str, ...], Sequence[str], Array]):
    """Steps many episodes of one environment at a time, and saves and restores each of them.

    It behaves like `gymnasium.vector.SyncVectorEnv`, but core, questions and tools exist once
    and all tool calls of a step are made together.

    Args:
        env: The environment; all episodes start where it stands, and it is left alone.
        num_envs: Episodes that run side by side, >= 1.
        autoreset_mode: When an ended episode is followed by a new one.

    Raises:
        ValueError: If `num_envs` is below 1 or there is no such mode.
    """

    def __init__(
        self,
        env: ForkableTextEnv,
        num_envs: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        """Fork the environment as often as needed."""
        self.num_envs = check_integer("num_envs", num_envs, 1)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**env.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = env.render_mode
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)
        self.envs = [env.fork() for _ in range(num_envs)]
        for fork in self.envs:  # without a seed each draws its own questions
            fork.np_random = np.random.default_rng()
        self._observations = [""] * num_envs

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Begin new episodes.

        Args:
            seed: One seed an episode, or the first one's, whose successors the others get.
            options: Options of each episode, and `"reset_mask"`: a boolean array that says which
                episodes to reset.

        Returns:
            The observations of all episodes, and the infos of those that were reset.

        Raises:
            ValueError: If there are more or fewer seeds or mask values than episodes.
            UnknownNameError: If an option is not known.
        """
        if seed is None or isinstance(seed, int):
            seeds = [None if seed is None else seed + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        own = dict(options or {})
        mask = np.asarray(own.pop("reset_mask", np.ones(self.num_envs, dtype=np.bool_)))
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(
                f"expected a reset_mask of {self.num_envs} booleans, at least one of them true, "
                f"found {mask.tolist()}"
            )
        if len(seeds) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} seeds, found {len(seeds)}")
        infos: dict[str, Any] = {}
        for i in np.flatnonzero(mask).tolist():
            self._observations[i], info = self.envs[i].reset(seed=seeds[i], options=own)
            infos = self._add_info(infos, info, i)
        return tuple(self._observations), infos

    def step(
        self, actions: Sequence[str]
    ) -> tuple[tuple[str, ...], Array, Array, Array, dict[str, Any]]:
        """Take one turn in every episode.

        Args:
            actions: One text an episode; that of an episode about to be reset is not looked at.

        Returns:
            Observations, rewards, terminations, truncations and infos, as Gymnasium batches them.

        Raises:
            InvalidActionError: If there is not one text for every episode.
            EpisodeOverError: If an episode has ended and the mode leaves it to the caller to reset.
            ResetNeeded: Before the first reset.
        """
        ended = [env.state.done for env in self.envs]
        self._check(actions, ended)
        pending = [
            () if over else env.core.pending_calls(env.state, action)
            for env, action, over in zip(self.envs, actions, ended, strict=True)
        ]
        results = iter(self.envs[0].run_tools([call for calls in pending for call in calls]))
        rewards = np.zeros(self.num_envs)
        terminations = np.zeros(self.num_envs, dtype=np.bool_)
        truncations = np.zeros(self.num_envs, dtype=np.bool_)
        infos: dict[str, Any] = {}
        for i, (env, action, calls) in enumerate(zip(self.envs, actions, pending, strict=True)):
            if ended[i]:
                self._observations[i], info = env.reset()
            else:
                taken = env.advance(action, [next(results) for _ in calls])
                self._observations[i], rewards[i], terminations[i], truncations[i], info = taken
            if env.state.done and self.autoreset_mode == AutoresetMode.SAME_STEP:
                last = {"final_obs": self._observations[i], "final_info": info}
                self._observations[i], info = env.reset()
                info = {**last, **info}
            infos = self._add_info(infos, info, i)
        return tuple(self._observations), rewards, terminations, truncations, infos

    def _check(self, actions: Sequence[str], ended: Sequence[bool]) -> None:
        """Refuse what cannot be carried out in every episode, before any of them moves."""
        if isinstance(actions, str) or len(actions) != self.num_envs:
            raise InvalidActionError(f"expected {self.num_envs} actions, found {actions!r:.200}")
        for i, (action, over) in enumerate(zip(actions, ended, strict=True)):
            if not over and not isinstance(action, str):
                raise InvalidActionError(
                    f"expected a str as action {i}, found {type(action).__name__}"
                )
        if any(ended) and self.autoreset_mode != AutoresetMode.NEXT_STEP:
            raise EpisodeOverError(
                f"expected running episodes, found that {np.flatnonzero(ended).tolist()} have "
                "ended; call reset(options={'reset_mask': ...}) or restore an earlier snapshot"
            )

    def snapshot(self, index: int) -> Snapshot:
        """Return all that `restore` needs of one episode."""
        return self.envs[index].snapshot()

    def restore(self, index: int, snapshot: Snapshot) -> None:
        """Take one episode back to a snapshot, which may be another episode's."""
        self.envs[index].restore(snapshot)

    def render(self) -> tuple[Any, ...] | None:
        """Return each episode's transcript in mode `"ansi"`, else None."""
        return None if self.render_mode is None else tuple(env.render() for env in self.envs)

    # Gymnasium's other vector environments have one generator an episode, too.
    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generators of the episodes."""
        return tuple(env.np_random for env in self.envs)

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The seeds of the episodes' generators."""
        return tuple(env.np_random_seed for env in self.envs)


def vectorised(entry_point: str) -> Callable[..., ForkableVectorEnv]:
    """Return a `vector_entry_point` for `gymnasium.register`.

    Args:
        entry_point: Where the class is, `"module:Class"`; it is imported when one is made.

    Returns:
        A function of `num_envs`, `autoreset_mode` and the environment's own arguments.
    """

    def make(
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        **options: Any,
    ) -> ForkableVectorEnv:
        env = cast(ForkableTextEnv, load_env_creator(entry_point)(**options))
        return ForkableVectorEnv(env, num_envs, autoreset_mode)

    return make


search_qa = vectorised("at2po_envs.search_qa.env:SearchQAEnv")
miniwiki = vectorised("at2po_envs.miniwiki:MiniWikiEnv")
calculator = vectorised("at2po_envs.calculator:CalculatorEnv")
household = vectorised("at2po_envs.household:HouseholdEnv")
replay = vectorised("at2po_envs.forking.replay:ReplayFork")
