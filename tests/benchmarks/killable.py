"""An evaluation that another process may kill at any moment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium

import at2po_envs  # noqa: F401 - registers the ids
from benchmarks import evaluate


class Slow:
    """The erring scripted agent, slow enough to be interrupted."""

    name, seed = "slow", 0

    def __init__(self, env: Any) -> None:
        self.expert = env.expert(error_rate=0.3)

    def act(self, transcripts: Sequence[Sequence[str]]) -> list[str]:
        time.sleep(0.02)
        return self.expert.act(transcripts)


def run(folder: str, batch: int) -> None:
    env: Any = gymnasium.make("at2po/MiniWiki-v0", questions=400, passages=100).unwrapped
    evaluate(Slow(env), env, batch=batch, out=Path(folder))
