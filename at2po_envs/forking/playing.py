"""Episodes played for the checker, here and in other processes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import gymnasium

from at2po_envs.episode.protocols import Restorable


class Playable(Protocol):
    """Any environment of Gymnasium, wrapped or not."""

    @property
    def unwrapped(self) -> object:
        """The environment without wrappers."""
        ...

    @property
    def action_space(self) -> gymnasium.Space[Any]:
        """Where random actions are drawn from."""
        ...

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        ...

    def step(self, action: Any) -> Step:
        """Take a step."""
        ...


class Holder(Playable, Restorable, Protocol):
    """One that takes snapshots."""


Policy = Callable[[Sequence[Any]], Any]
"""Returns an action for a transcript: observation, action, observation, ..., observation."""

Step = tuple[Any, ...]
"""What `reset` or `step` returned, or the name of the exception it raised."""

_CHILD = "from at2po_envs.forking.playing import serve; serve()"
_TIMEOUT_S = 600.0


@dataclass
class Episode:
    """An episode as it was played.

    Attributes:
        seed: What it was reset with.
        actions: The actions taken.
        steps: What `reset` and each action gave; then what a step too many gave, if the episode
            ended; then what a reset without seed and one action more gave.
        snapshots: After the reset and after each action, the snapshot and its pickle at that time
            (or why there is none).
        rests: In another process: what was seen from each snapshot on.
    """

    seed: int
    actions: list[Any] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    snapshots: list[tuple[Any, bytes | Exception]] = field(default_factory=list)
    rests: dict[int, list[Step]] = field(default_factory=dict)

    def rest(self, step: int) -> list[Step]:
        """Return what was seen after the snapshot of a step."""
        return self.steps[step + 1 :]


def play(
    env: Playable,
    holder: Restorable,
    seed: int,
    policy: Policy | Iterator[Any],
    max_steps: int,
) -> Episode:
    """Play an episode with a snapshot at every step.

    Args:
        env: What is played.
        holder: What takes snapshots: the environment, or a layer inside.
        seed: Seed of the episode.
        policy: What acts; an iterator gives actions decided before.
        max_steps: Turns after which it is left.

    Returns:
        The episode, with what a further episode begins with.
    """
    episode = Episode(seed)
    episode.steps.append(begin(env, seed))
    episode.snapshots.append(_snapshot(holder))
    transcript = [episode.steps[0][0]]
    ended = False
    while not ended and len(episode.actions) < max_steps:
        action = policy(transcript) if callable(policy) else next(policy)
        step = env.step(action)
        episode.actions.append(action)
        episode.steps.append(step)
        episode.snapshots.append(_snapshot(holder))
        transcript += [action, step[0]]
        ended = bool(step[2] or step[3])
    episode.steps += _beyond(env, episode)
    return episode


def begin(env: Playable, seed: int) -> Step:
    """Begin the second episode after a seed: what counts episodes is not at its start then."""
    env.reset(seed=seed)
    return tuple(env.reset())


def go_on(env: Playable, episode: Episode, step: int) -> list[Step]:
    """Play the rest of an episode in an environment that stands at one of its snapshots."""
    seen = [act(env, action) for action in episode.actions[step:]]
    return [*seen, *_beyond(env, episode)]


def act(env: Playable, action: Any) -> Step:
    """Take a step; an exception is an outcome like any other."""
    try:
        return tuple(env.step(action))
    except Exception as error:  # any environment, any exception
        return (f"raised {type(error).__name__}",)


def _beyond(env: Playable, episode: Episode) -> list[Step]:
    """What happens after the last step: an action more, and the start of the next episode."""
    return [act(env, episode.actions[-1]), tuple(env.reset()), act(env, episode.actions[0])]


def _snapshot(holder: Restorable) -> tuple[Any, bytes | Exception]:
    snapshot = holder.snapshot()
    try:
        return snapshot, pickle.dumps(snapshot)
    except Exception as error:  # objects raise what they like when pickled
        return snapshot, error


def in_process(packed: bytes, episode: Episode, *, hash_seed: int) -> Episode:
    """Play an episode and the rest from each of its snapshots, in a process of its own.

    Args:
        packed: The environment, pickled by cloudpickle before it was played.
        episode: What was played here.
        hash_seed: `PYTHONHASHSEED` of the process.

    Returns:
        The episode as it went there.

    Raises:
        RuntimeError: If the process fails.
    """
    snapshots = [frozen for _, frozen in episode.snapshots]
    with tempfile.TemporaryDirectory() as folder:
        task, outcome = Path(folder, "task"), Path(folder, "outcome")
        task.write_bytes(pickle.dumps((packed, episode.seed, episode.actions, snapshots)))
        child = subprocess.run(
            [sys.executable, "-c", _CHILD, str(task), str(outcome)],
            env=os.environ
            | {
                "PYTHONHASHSEED": str(hash_seed),
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            },
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if child.returncode:
            raise RuntimeError(
                "expected the environment to run in another process, found that it failed:\n"
                + child.stderr[-2000:]
            )
        played: Episode = pickle.loads(outcome.read_bytes())
        return played


def serve() -> None:
    """Do in another process what `in_process` asks for."""
    task, outcome = (Path(argument) for argument in sys.argv[1:3])
    packed, seed, actions, snapshots = pickle.loads(task.read_bytes())
    env = pickle.loads(packed)
    holder = find_holder(env)
    if holder is None:
        raise RuntimeError(f"expected snapshot() and restore(snapshot) on {env}, found none")
    played = play(env, holder, seed, iter(actions), len(actions))
    played.snapshots = []
    if env is holder:
        # The last first, in an environment that comes from another episode.
        env.reset(seed=seed + 1)
        for step in reversed(range(len(snapshots))):
            env.restore(pickle.loads(snapshots[step]))
            played.rests[step] = go_on(env, played, step)
    outcome.write_bytes(pickle.dumps(played))


def find_holder(env: Playable) -> Holder | None:
    """Return the outermost layer that has `snapshot` and `restore`, None if there is none."""
    while not isinstance(env, Restorable):
        if not isinstance(env, gymnasium.Wrapper):
            return None
        env = env.env
    return cast(Holder, env)
