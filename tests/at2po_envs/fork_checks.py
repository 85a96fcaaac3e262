"""What the tests of several worlds ask of snapshots: to go on the same, whatever happened since."""

from __future__ import annotations


def as_it_stands(env, move):
    """Take a move for the action itself."""
    return move


def perform(env, moves, write=as_it_stands):
    """Play moves, resetting after the end of an episode, and return all that was observed."""
    seen = []
    for move in moves:
        if move == "reset" or env.state.done:
            seen.append(env.reset())
        if move != "reset":
            seen.append(env.step(write(env, move)))
    return seen


def check_restores_forks_and_replays(env, seed, before, after, detour, write=as_it_stands):
    """Hold two restores, a fork and a fresh replay against each other.

    Returns:
        The snapshot taken between `before` and `after`, and what was observed of `after`.
    """
    env.reset(seed=seed)
    perform(env, before, write)
    snapshot, fork = env.snapshot(), env.fork()
    expected = perform(env, after, write)
    for _ in range(2):
        perform(env, detour, write)
        env.restore(snapshot)
        assert perform(env, after, write) == expected
    assert perform(fork, after, write) == expected
    env.reset(seed=seed)
    perform(env, before, write)
    assert env.snapshot() == snapshot and perform(env, after, write) == expected
    return snapshot, expected
