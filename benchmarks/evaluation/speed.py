"""Speed and memory of an evaluation: `python -m benchmarks.evaluation.speed`.

Scripted episodes on MiniWiki, written to disk as always; it says how many a minute, which share of
the time is the harness's own (outside the agent and the retriever), and how memory grows. It writes
`benchmarks/results/eval_speed.json`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import gymnasium
import tyro

import at2po_envs  # noqa: F401 - registers the ids
from benchmarks.environment import environment
from benchmarks.evaluation.evaluate import evaluate

T = TypeVar("T")

_SAMPLES = 10  # of memory, evenly spaced
_STATUS = Path("/proc/self/statm")


@dataclass(frozen=True, kw_only=True)
class EvalSpeedConfig:
    """Measure how fast scripted episodes are evaluated."""

    episodes: int = 10_000
    """Questions, one episode each."""
    batch: int = 64
    """Episodes that run at a time."""
    preset: str = "standard"
    """Preset of MiniWiki."""
    error_rate: float = 0.1
    """Chance that a turn of the agent goes wrong."""
    out: Path = Path("benchmarks/results/eval_speed.json")
    """Where the figures go."""


class _Clock:
    """Adds up the time that calls take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, call: Callable[..., T]) -> Callable[..., T]:
        def run(*arguments: Any) -> T:
            start = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                self.seconds += time.perf_counter() - start

        return run


class _Agent:
    """The scripted agent with a clock; it takes samples of this process's memory as it goes."""

    name = "scripted"

    def __init__(self, agent: Any, episodes: int) -> None:
        self.seed, self.settings = agent.seed, agent.settings
        self.clock = _Clock()
        self._act = self.clock.timed(agent.act)
        self._every = max(1, episodes // _SAMPLES)
        self.begun, self.memory = 0, [_memory()]

    def act(self, transcripts: Sequence[Sequence[str]]) -> Any:
        before = self.begun // self._every
        self.begun += sum(len(transcript) == 1 for transcript in transcripts)
        if self.begun // self._every > before:
            self.memory.append(_memory())
        return self._act(transcripts)


def measure(config: EvalSpeedConfig) -> dict[str, Any]:
    """Evaluate once; index and questions are made before the clock starts.

    Args:
        config: What to evaluate.

    Returns:
        The figures, JSON-able.
    """
    env: Any = gymnasium.make(
        "at2po/MiniWiki-v0", preset=config.preset, split="test", questions=config.episodes
    ).unwrapped
    env.wiki.search(["warm up"], 1)
    expert = env.expert(error_rate=config.error_rate)
    expert.act([[env.core.begin(env.questions[0])[1]]])
    agent, tools = _Agent(expert, config.episodes), _Clock()
    env.run_tools = tools.timed(env.run_tools)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        report = evaluate(agent, env, batch=config.batch, out=Path(folder))
        seconds = time.perf_counter() - start
        written = (Path(folder) / "episodes.jsonl").stat().st_size
    own = seconds - agent.clock.seconds - tools.seconds
    memory = [*agent.memory, _memory()]
    return {
        "episodes": report.questions,
        "batch": config.batch,
        "preset": config.preset,
        "em": report.em,
        "turns": report.turns,
        "seconds": round(seconds, 3),
        "episodes_per_minute": round(60 * report.questions / seconds),
        "seconds_agent": round(agent.clock.seconds, 3),
        "seconds_tools": round(tools.seconds, 3),
        "harness_share": round(own / seconds, 4),
        "harness_ms_per_episode": round(1000 * own / report.questions, 4),
        "bytes_written": written,
        "memory_mib": [round(size / 2**20, 1) for size in memory],
        "memory_growth_mib": round((memory[-1] - memory[1]) / 2**20, 1),
    }


def _memory() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not tell."""
    if not _STATUS.exists():
        return 0
    return int(_STATUS.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the figures and show them.

    Args:
        arguments: Words of the command line; None takes the process's own.
    """
    config = tyro.cli(EvalSpeedConfig, prog="python -m benchmarks.evaluation.speed", args=arguments)
    text = json.dumps({**measure(config), "environment": environment()}, indent=2) + "\n"
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
