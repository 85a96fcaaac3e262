"""Forking by replay: makes any deterministic Gymnasium text environment forkable."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
from gymnasium.spaces import Text

from at2po_envs.dialects.raw_text import RawText
from at2po_envs.episode.core import running, state_of, transition_to
from at2po_envs.episode.env import ForkableTextEnv
from at2po_envs.episode.state import State, Transition, Turn
from at2po_envs.errors import At2poEnvError, check_integer
from at2po_envs.question_sets.questions import Question
from at2po_envs.scoring.answers import Judgement
from at2po_envs.tools import ToolCall, ToolResult
from at2po_envs.tools.calling import is_from_signal

_log = logging.getLogger(__name__)

TextEnv = gymnasium.Env[str, str]
_NAMES = ("observation", "reward", "terminated", "truncated")


class ReplayError(At2poEnvError, RuntimeError):
    """An environment did not do again what it did before, so it cannot be forked by replay."""


class NotATextEnvError(At2poEnvError, ValueError):
    """An environment does not take texts and give texts."""


@dataclass(frozen=True, slots=True)
class ReplayState(State):
    """An episode of a replayed environment.

    Attributes:
        first: Its first observation.
        rewards: The rewards of its turns.
    """

    first: str = ""
    rewards: tuple[float, ...] = ()


@dataclass(eq=False)
class ReplayCore:
    """Rules that ask a live environment, which is taken to any state by replaying its actions.

    Environments that stand where an episode was last seen are kept, so that an episode that only
    goes forward is never replayed.

    Args:
        make: Makes an environment.
        dialect: How turns are written.
        success: Total reward above which an episode has succeeded.
        live: Most environments that are kept, >= 1.
    """

    make: Callable[[], TextEnv]
    dialect: RawText = RawText()
    success: float = 0.0
    live: int = 64
    _pool: list[tuple[ReplayState | None, TextEnv]] = field(default_factory=list, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle without the live environments."""
        return self.__dict__ | {"_pool": []}

    def begin(self, question: Question) -> tuple[ReplayState, str]:
        """Return the state in which an episode starts, and its first observation."""
        env, first = self._reset(question)
        state = ReplayState(question, first=first)
        self._pool.append((state, env))
        return state, first

    def pending_calls(self, state: State, action: str) -> tuple[ToolCall, ...]:
        """Return no calls: there are no tools."""
        return ()

    def transition(
        self, state: State, action: str, results: Sequence[ToolResult] = ()
    ) -> Transition:
        """Take one turn in an environment that stands at this state.

        Args:
            state: The episode so far; it stays as it is.
            action: The agent's own text of this turn.
            results: Nothing.

        Returns:
            The next state with observation, reward, flags and info. If the environment raises, or
            returns anything but a text, a finite reward and the rest of what Gymnasium asks for,
            the episode is truncated with the flag `"env_failed"`.

        Raises:
            EpisodeOverError: If the episode has ended.
            ReplayError: If the environment does not get to this state again.
        """
        state = running(state, ReplayState)
        env = self._at(state)
        try:
            observation, reward, terminated, truncated = self._step(env, action)
        except BaseException as error:  # it is somebody else's, and may do this at an odd action
            if is_from_signal(error):
                raise
            _log.warning("the environment failed at %r", action[:200], exc_info=True)
            _close(env)
            failed = replace(state, flags=(*state.flags, "env_failed"))
            return self._moved(failed, action, truncated=True)
        taken = self._moved(
            state, action, observation, reward, terminated=terminated, truncated=truncated
        )
        self._pool.append((None if taken.state.done else state_of(taken.state, ReplayState), env))
        return taken

    def truncate(self, state: State, action: str) -> Transition:
        """End an episode whose last turn ran out of budget; the environment does not get it."""
        state = running(state, ReplayState)
        env = self._take(state)
        if env is not None:
            self._pool.append((None, env))
        return self._moved(state, action, truncated=True)

    def _moved(
        self,
        state: ReplayState,
        action: str,
        observation: str = "",
        reward: float = 0.0,
        *,
        terminated: bool = False,
        truncated: bool = False,
    ) -> Transition:
        after = replace(
            state,
            turns=(*state.turns, Turn(action, observation)),
            rewards=(*state.rewards, reward),
            done=terminated or truncated,
        )
        won = state.total_reward + reward > self.success
        judgement = Judgement(None, won, float(won), True) if after.done else None
        taken = transition_to(after, "act", {"env": reward}, judgement, truncated=truncated)
        return replace(taken, terminated=terminated)  # Gymnasium allows both at once

    def _at(self, state: ReplayState) -> TextEnv:
        """Take an environment that stands at a state out of the pool, or replay one to there."""
        env = self._take(state)
        if env is not None:
            return env
        env, first = self._reset(state.question)
        where = f"{state.question.question}:"
        _agree(f"{where} the first observation", state.first, first)
        for number, (turn, reward) in enumerate(zip(state.turns, state.rewards, strict=True), 1):
            at = f"{where} turn {number}:"
            try:
                moved = self._step(env, turn.action)
            except Exception as error:  # it did not fail the first time
                raise ReplayError(
                    f"{at} expected what was seen before, found {error!r:.200} when replayed"
                ) from error
            expected = (turn.observation, reward, False, False)
            for name, before, now in zip(_NAMES, expected, moved, strict=True):
                _agree(f"{at} {name}", before, now)
        return env

    def _step(self, env: TextEnv, action: str) -> tuple[str, float, bool, bool]:
        """Take a turn in an environment, and see whether what it returns can be used."""
        observation, reward, terminated, truncated, _ = env.step(self.dialect.command(action))
        number = float(reward)
        if not math.isfinite(number):
            raise ValueError(f"expected a finite reward, found {number}")
        return self._shown(observation), number, bool(terminated), bool(truncated)

    def _reset(self, question: Question) -> tuple[TextEnv, str]:
        """Take an environment that nobody needs, or make one, and begin an episode in it."""
        env = self._take(None)
        if env is None and len(self._pool) >= self.live:
            env = self._pool.pop(0)[1]  # the one unused for longest
        env = env or _checked(self.make())
        seed = int(question.metadata["seed"])
        try:
            observation, _ = env.reset(seed=seed)
        except BaseException as error:
            if is_from_signal(error):
                raise
            raise NotATextEnvError(
                f"expected an environment whose reset(seed={seed}) returns a text and a dict, "
                f"found {error!r:.200}; mend its reset, or wrap it"
            ) from error
        return env, self._shown(observation)

    def _take(self, state: ReplayState | None) -> TextEnv | None:
        """Take an environment that stands at a state, or at none, out of the pool."""
        for number, (stands, env) in enumerate(self._pool):
            if stands is state or stands == state:
                del self._pool[number]
                return env
        return None

    def _shown(self, observation: Any) -> str:
        if not isinstance(observation, str):
            raise NotATextEnvError(
                f"expected a str as observation, found {type(observation).__name__}"
            )
        return self.dialect.render([ToolResult(True, observation)])

    def close(self) -> None:
        """Close the environments kept."""
        while self._pool:
            _close(self._pool.pop()[1])


class ReplayFork(ForkableTextEnv):
    """Makes a Gymnasium environment that takes and gives texts forkable, by replaying actions.

    It must do the same again after `reset(seed=...)` with the same actions; this is verified at
    each replay. Forks share the live environments.

    Args:
        env: Its Gymnasium id (`"module:namespace/Name-v0"` imports the module that registers
            it), or a function that makes one.
        env_options: Keyword arguments for it.
        episodes: Number of seeds that it is played with, >= 1; each is a question.
        first_seed: The first of them.
        success: Total reward above which an episode has succeeded.
        stop: Where generation of a turn stops.
        live: Most environments that are kept alive at a time, >= 1.
        render_mode: None or `"ansi"`.

    Raises:
        NotATextEnvError: If no environment is named, or its actions or observations are no texts.
        ValueError: If a number is out of range.
    """

    core: ReplayCore

    def __init__(
        self,
        env: str | Callable[..., TextEnv] | None = None,
        *,
        env_options: Mapping[str, Any] | None = None,
        episodes: int = 1000,
        first_seed: int = 0,
        success: float = 0.0,
        stop: Sequence[str] = ("\n",),
        live: int = 64,
        render_mode: str | None = None,
    ) -> None:
        """Make one environment, to see whether it takes and gives texts."""
        if not (isinstance(env, str) and env) and not callable(env):
            raise NotATextEnvError(
                "expected env, the Gymnasium id of the environment to replay or a function that "
                f"makes one, found {env!r:.200}; pass for example "
                'gymnasium.make("at2po/Replay-v0", env="package.module:namespace/Name-v0")'
            )
        check_integer("live", live, 1)
        check_integer("first_seed", first_seed, 0)
        core = ReplayCore(_Maker(env, dict(env_options or {})), RawText(tuple(stop)), success, live)
        name = env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)
        questions = [
            Question(f"seed-{seed}", f"{name}, seed {seed}", (), {"seed": seed})
            for seed in range(first_seed, first_seed + episodes)
        ]
        super().__init__(core, questions, render_mode=render_mode)
        core._pool.append((None, _checked(core.make())))

    def close(self) -> None:
        """Close the live environments, those of forks included."""
        self.core.close()


@dataclass(frozen=True)
class _Maker:
    """Makes the environment to replay; unlike a closure it can be pickled."""

    env: str | Callable[..., TextEnv]
    options: Mapping[str, Any]

    def __call__(self) -> TextEnv:
        if callable(self.env):
            return self.env(**self.options)
        # Without the checker, which costs time and would warn of each odd action.
        return gymnasium.make(self.env, disable_env_checker=True, **self.options)


def _checked(env: TextEnv) -> TextEnv:
    for name in ("action_space", "observation_space"):
        space = getattr(env, name, None)
        if not isinstance(space, Text):
            raise NotATextEnvError(
                f"expected an environment whose {name} is gymnasium.spaces.Text, found {space}; "
                "wrap it so that it takes and gives texts"
            )
    return env


def _close(env: TextEnv) -> None:
    """Close an environment that nobody needs any more, whatever it does then."""
    try:
        env.close()
    except BaseException as error:
        if is_from_signal(error):
            raise
        _log.warning("the environment failed when it was closed", exc_info=True)


def _agree(where: str, before: object, now: object) -> None:
    if before != now:
        raise ReplayError(
            f"{where} was {before!r:.200} and is {now!r:.200} when replayed; an environment that "
            "is forked by replay must follow from its seed and the actions alone"
        )
