"""A small forkable environment, and versions of it with one fault each."""

from __future__ import annotations

import copy
import itertools
import time

import gymnasium
import numpy as np

from at2po_envs import TextSpace


class Walk(gymnasium.Env):
    """Walks four steps; which path it is on is drawn, and so is what it finds at each step."""

    observation_space = TextSpace()
    action_space = TextSpace(templates=("go {}",))

    def __init__(self, tool=None):
        self.tool = tool
        self.path = 0
        self.seen: list[str] = []
        self.done = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.path = int(self.np_random.integers(1000))
        self.seen, self.done = [], False
        return f"path {self.path}", {"path": self.path}

    def step(self, action):
        if self.done:
            raise RuntimeError("the episode is over")
        found = f"{action}: {self.np_random.integers(1000)}"
        if self.tool:
            found += f", {self.tool(action)}"
        self.seen.append(found)
        self.done = len(self.seen) == 4
        return found, float(len(self.seen)), self.done, False, {"seen": len(self.seen)}

    def snapshot(self):
        state = self.np_random.bit_generator.state
        return {"path": self.path, "seen": list(self.seen), "done": self.done, "rng": state}

    def restore(self, snapshot):
        self.path, self.done = snapshot["path"], snapshot["done"]
        self.seen = list(snapshot["seen"])
        self.np_random.bit_generator.state = snapshot["rng"]

    def fork(self):
        twin = copy.copy(self)
        twin.np_random = np.random.default_rng(0)
        twin.restore(self.snapshot())
        return twin


class OneSnapshot(Walk):
    """All snapshots are one and the same object."""

    def __init__(self):
        super().__init__()
        self.only: dict = {}

    def snapshot(self):
        self.only.update(super().snapshot())
        return self.only


class AliasInSnapshot(Walk):
    """A snapshot holds the very list that steps append to."""

    def snapshot(self):
        return super().snapshot() | {"seen": self.seen}


class AliasInRestore(Walk):
    """Steps after a restore append to the snapshot's list."""

    def restore(self, snapshot):
        super().restore(snapshot)
        self.seen = snapshot["seen"]


class ForgetsGenerator(Walk):
    """The generator is not restored."""

    def restore(self, snapshot):
        state = self.np_random.bit_generator.state
        super().restore(snapshot)
        self.np_random.bit_generator.state = state


class ForgetsDone(Walk):
    """A restored episode always runs."""

    def restore(self, snapshot):
        super().restore(snapshot)
        self.done = False


class ForgetsIndex(Walk):
    """Episodes go through the paths in order; a restore begins again with the first."""

    index = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.index = 0 if seed is not None else self.index + 1
        return f"path {self.index}", {}

    def restore(self, snapshot):
        super().restore(snapshot)
        self.index = 0


class Counter:
    """A tool that says how often it was called."""

    def __init__(self):
        self.calls = 0

    def __call__(self, text):
        self.calls += 1
        return self.calls


class Cache:
    """A tool that says whether it has been asked before."""

    def __init__(self):
        self.asked: set[str] = set()

    def __call__(self, text):
        known = text in self.asked
        self.asked.add(text)
        return known


class Timestamp(Walk):
    """Info tells the time."""

    def step(self, action):
        *outcome, info = super().step(action)
        return *outcome, info | {"time": time.perf_counter()}


class ClassState(Walk):
    """A counter of the class is seen in observations."""

    counter = itertools.count()

    def step(self, action):
        observation, *outcome = super().step(action)
        return f"{observation} {next(ClassState.counter)}", *outcome


class SharedGenerator(Walk):
    """Forks draw from the generator of the original."""

    def fork(self):
        return copy.copy(self)


class Unpicklable(Walk):
    """A snapshot holds a function without a name."""

    def snapshot(self):
        return super().snapshot() | {"how": lambda: None}


class HashOrder(Walk):
    """Observations follow the order of a set of strings."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        return " ".join({f"{observation} {i}" for i in range(40)}), info


class SharedCopy(Walk):
    """A deep copy is no copy."""

    def __deepcopy__(self, memo):
        return self


class Counting(gymnasium.Wrapper):
    """A wrapper that numbers observations."""

    steps = 0

    def reset(self, **arguments):
        self.steps = 0
        return self.env.reset(**arguments)

    def step(self, action):
        self.steps += 1
        observation, *outcome = self.env.step(action)
        return f"{self.steps}. {observation}", *outcome


class RunningMean(gymnasium.Wrapper):
    """A wrapper that normalises rewards by all rewards so far, through every reset."""

    total = 1.0

    def step(self, action):
        observation, reward, *outcome = self.env.step(action)
        self.total += reward
        return observation, reward / self.total, *outcome


class Prefixed(gymnasium.ActionWrapper):
    """A wrapper that keeps nothing."""

    def action(self, action):
        return f"please {action}"
