"""Text environments as other people write them for Gymnasium; none of them can be forked."""

from __future__ import annotations

import itertools
import string

import gymnasium
from gymnasium.spaces import Text

_CHARSET = string.ascii_letters + string.digits + string.punctuation + " "


class Corridor(gymnasium.Env):
    """Go to the end of a corridor; a random draught blows one back at times."""

    action_space = Text(20, charset=_CHARSET)
    observation_space = Text(200, charset=_CHARSET)
    resets = 0

    def __init__(self, length: int = 3) -> None:
        self.length = length
        self.closed = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        Corridor.resets += 1
        self.place, self.smell = 0, self.np_random.choice(["soap", "tea", "dust"])
        return f"A corridor of {self.length} steps that smells of {self.smell}.", {}

    def step(self, action):
        self.place += {"go right": 1, "go left": -1}.get(action, 0)
        if self.length > 3 and self.np_random.random() < 0.1:
            self.place -= 1
        won = self.place == self.length
        observation = "This is the end." if won else f"Step {self.place}, {self.smell}."
        return observation, float(won), won, False, {"place": self.place}

    def close(self):
        self.closed = True


class Drifting(Corridor):
    """Something depends on what happened in other episodes."""

    clock = itertools.count()

    def __init__(self, what: str) -> None:
        super().__init__(length=9)
        self.what = what

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        if self.what == "first observation":
            observation += f" It is {next(self.clock)} o'clock."
        return observation, info

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        number = next(self.clock)
        if self.what == "observation":
            observation += f" It is {number} o'clock."
        elif self.what == "reward":
            reward += number
        elif self.what == "terminated":
            terminated = number >= 2
        return observation, reward, terminated, truncated, info


class Fragile(Corridor):
    """Fails at actions that it does not know."""

    def step(self, action):
        if action not in ("go right", "go left"):
            raise KeyError(action)
        return super().step(action)


gymnasium.register("third/Corridor-v0", entry_point=Corridor)
