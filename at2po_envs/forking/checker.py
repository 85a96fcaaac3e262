"""Checks that an environment can be forked: that a snapshot holds all that it goes on from."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any, Literal

import cloudpickle  # type: ignore[import-untyped]
import numpy as np

from at2po_envs.episode.protocols import Forkable
from at2po_envs.errors import At2poEnvError
from at2po_envs.forking.comparison import difference
from at2po_envs.forking.playing import (
    Episode,
    Holder,
    Playable,
    Policy,
    act,
    begin,
    find_holder,
    go_on,
    in_process,
    play,
)
from at2po_envs.scripted import WithExpert

Fault = Literal[
    "no snapshot",
    "not picklable",
    "not deterministic",
    "outside state",
    "hash order",
    "process",
    "aliased snapshot",
    "generator",
    "incomplete restore",
    "deepcopy",
    "fork",
    "wrapper",
]
"""What can be wrong.

`no snapshot`: there is no `snapshot` or no `restore`. `not picklable`: a snapshot or the
environment. `not deterministic`: the same seed and actions give something else, each time.
`outside state`: ... after an earlier episode, because something that a reset leaves alone (a
tool, a class, a module) remembers it. `hash order`: ... under another `PYTHONHASHSEED`.
`process`: ... in another process. `aliased snapshot`: a snapshot changes when the environment
goes on. `generator`: the random generator is not restored. `incomplete restore`: anything else
is not. `deepcopy`: a copy goes on differently, or the original notices. `fork`: the same of
`fork()`. `wrapper`: a wrapper around the environment keeps state that is not in the snapshot.
"""


class ForkabilityError(At2poEnvError, AssertionError):
    """An environment cannot be forked safely.

    Attributes:
        fault: What is wrong.
        step: Turns of the episode before the snapshot in question, None if it is about none.
        detail: What differed, and how to mend it.
    """

    def __init__(self, fault: Fault, step: int | None, detail: str) -> None:
        """Put the parts into a message."""
        self.fault, self.step, self.detail = fault, step, detail
        where = "" if step is None else f", snapshot after {step} turns"
        super().__init__(f"{fault}{where}: {detail}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the parts."""
        return type(self), (self.fault, self.step, self.detail)


def check_forkable_env(
    env: Playable,
    *,
    episodes: int = 2,
    seed: int = 0,
    actions: Policy | None = None,
    max_steps: int = 12,
) -> None:
    """Check that an environment can be saved, restored, copied and forked at every step.

    Episodes of random actions, and of the environment's `expert()` if it has one, are played
    with a snapshot at every step. From each snapshot the rest is played again: after restoring it
    twice, in shuffled order, from deep copies, in forks and in another process; observations,
    rewards, flags, infos and the random generator have to be the same as the first time.
    `snapshot` and `restore` may be methods of a wrapper or of the environment inside; wrappers
    stay in place, so that state they keep for themselves is found.

    Args:
        env: Any Gymnasium environment, wrapped or not. It is played with.
        episodes: Episodes of each kind, >= 1.
        seed: Seed of the first; the others follow.
        actions: Returns an action for a transcript (observation, action, observation, ...);
            it replaces both random actions and the expert.
        max_steps: Turns after which an episode is left, >= 1.

    Raises:
        ForkabilityError: If it cannot; the first fault found.
    """
    holder = find_holder(env)
    if holder is None:
        raise ForkabilityError(
            "no snapshot",
            None,
            f"expected snapshot() and restore(snapshot) on {env} or on what it wraps, found none; "
            "subclass at2po_envs.ForkableTextEnv, or play it through at2po/Replay-v0",
        )
    packed = {layer: _packed(layer) for layer in (holder, env)}
    for number in range(episodes):
        for policy in _policies(holder, actions, seed + number):
            episode = play(holder, holder, seed + number, policy, max_steps)
            _check_snapshots(episode)
            _check_reset(holder, holder, episode, packed[holder])
            _check_restores(holder, episode, seed)
            _check_copies(holder, episode)
            _check_forks(holder, episode)
            if number == 0:
                _check_elsewhere(episode, packed[holder])
        if env is not holder:
            for policy in _policies(env, actions, seed + number):
                episode = play(env, holder, seed + number, policy, max_steps)
                _check_reset(env, holder, episode, packed[env])
                _check_wrappers(env, holder, episode)


def _policies(env: Playable, actions: Policy | None, seed: int) -> Iterator[Policy]:
    if actions is not None:
        yield actions
        return
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    yield lambda transcript: space.sample()
    if isinstance(env.unwrapped, WithExpert):
        agent = env.unwrapped.expert()
        yield lambda transcript: agent.act([transcript])[0]


def _packed(env: Playable) -> bytes:
    try:
        return bytes(cloudpickle.dumps(env))
    except Exception as error:  # objects raise what they like when pickled
        raise ForkabilityError("not picklable", None, f"the environment: {error!r}") from error


def _check_snapshots(episode: Episode) -> None:
    """See whether each snapshot is still what it was when it was taken."""
    for step, (snapshot, packed) in enumerate(episode.snapshots):
        if isinstance(packed, Exception):
            raise ForkabilityError("not picklable", step, f"the snapshot: {packed!r}")
        if found := difference(pickle.loads(packed), snapshot, "snapshot"):
            detail = f"{found} after the environment went on; copy what changes"
            raise ForkabilityError("aliased snapshot", step, detail)


def _check_reset(env: Playable, holder: Holder, episode: Episode, packed: bytes) -> None:
    """Play the episode again; if it differs, find out why."""
    again = play(env, holder, episode.seed, iter(episode.actions), len(episode.actions))
    found = difference(episode.steps, again.steps, "outcome")
    if found is None:
        return
    first, second = (in_process(packed, episode, hash_seed=1).steps for _ in range(2))
    if unstable := difference(first, second, "outcome"):
        detail = f"{unstable}, with the same seed and actions; use no clock and no unseeded draw"
        raise ForkabilityError("not deterministic", None, detail)
    detail = f"{found} when it was played again; something outlives reset(seed=...)"
    raise ForkabilityError("outside state", None, detail)


def _check_restores(holder: Holder, episode: Episode, seed: int) -> None:
    """Restore twice in order, then in shuffled order, and go on from each snapshot."""
    count = len(episode.snapshots)
    twice = [step for step in range(count) for _ in range(2)]
    for step in [*twice, *np.random.default_rng(seed).permutation(count).tolist()]:
        holder.restore(episode.snapshots[step][0])
        found = difference(episode.rest(step), go_on(holder, episode, step), "outcome")
        _check_snapshots(episode)
        generator = _generator_difference(holder, episode, step)
        if generator:
            raise ForkabilityError("generator", step, f"{generator} after restore")
        if found:
            raise ForkabilityError("incomplete restore", step, f"{found} after restore")


def _generator_difference(holder: Holder, episode: Episode, step: int) -> str | None:
    """Compare the random generators at a snapshot and after going on and restoring it."""
    begin(holder, episode.seed)
    for action in episode.actions[:step]:
        act(holder, action)
    before = copy.deepcopy(_generators(holder))
    snapshot = holder.snapshot()
    go_on(holder, episode, step)
    holder.restore(snapshot)
    return difference(before, _generators(holder), "generators")


def _generators(holder: Any) -> dict[str, np.random.Generator]:
    inside = vars(holder.unwrapped).items()
    return {name: value for name, value in inside if isinstance(value, np.random.Generator)}


def _check_copies(holder: Holder, episode: Episode) -> None:
    """Let a deep copy of the environment, and deep copies of all snapshots in it, go on."""
    middle = len(episode.actions) // 2
    holder.restore(episode.snapshots[middle][0])
    twin = copy.deepcopy(holder)
    _check_twins("deepcopy", twin, holder, episode, middle)
    for step, (snapshot, _) in enumerate(episode.snapshots):
        twin.restore(copy.deepcopy(snapshot))
        if found := difference(episode.rest(step), go_on(twin, episode, step), "outcome"):
            raise ForkabilityError("deepcopy", step, f"{found} in a copy after restore")


def _check_forks(holder: Holder, episode: Episode) -> None:
    """Fork at every snapshot, if the environment can."""
    if isinstance(holder, Forkable):
        for step, (snapshot, _) in enumerate(episode.snapshots):
            holder.restore(snapshot)
            _check_twins("fork", holder.fork(), holder, episode, step)


def _check_twins(fault: Fault, twin: Playable, holder: Holder, episode: Episode, step: int) -> None:
    """Let two that stand at the same point go on; neither may notice the other."""
    for who, env in (("the twin", twin), ("the original after its twin", holder)):
        if found := difference(episode.rest(step), go_on(env, episode, step), "outcome"):
            raise ForkabilityError(fault, step, f"{found} in {who}")


def _check_elsewhere(episode: Episode, packed: bytes) -> None:
    """Play the episode, and go on from its snapshots, in another process."""
    try:
        there = in_process(packed, episode, hash_seed=1)
    except RuntimeError as error:
        raise ForkabilityError("process", None, str(error)) from error
    if found := difference(episode.steps, there.steps, "outcome"):
        other = in_process(packed, episode, hash_seed=2)
        fault: Fault = "hash order" if difference(there.steps, other.steps) else "process"
        raise ForkabilityError(fault, None, f"{found} in another process")
    for step, rest in there.rests.items():
        if found := difference(episode.rest(step), rest, "outcome"):
            raise ForkabilityError("process", step, f"{found} after restore in another process")


def _check_wrappers(env: Playable, holder: Holder, episode: Episode) -> None:
    """Restore inside the wrappers, and see whether they are where they were."""
    begin(env, episode.seed)
    kept = [_kept(env, holder)]
    for action in episode.actions:
        act(env, action)
        kept.append(_kept(env, holder))
    for step, (snapshot, _) in enumerate(episode.snapshots):
        holder.restore(snapshot)
        found = difference(kept[step], _kept(env, holder), "wrappers")
        found = found or difference(episode.rest(step), go_on(env, episode, step), "outcome")
        if found:
            detail = f"{found} after restore; keep it in the snapshot or leave the wrapper out"
            raise ForkabilityError("wrapper", step, detail)


def _kept(env: Any, holder: Any) -> dict[str, dict[str, Any]]:
    """Copies of what the wrappers around the holder keep."""
    kept: dict[str, dict[str, Any]] = {}
    while env is not holder:
        own = {name: value for name, value in vars(env).items() if name != "env"}
        kept[type(env).__name__] = copy.deepcopy(own)
        env = env.env
    return kept
