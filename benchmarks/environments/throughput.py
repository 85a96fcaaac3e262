"""Speed of the environment: steps, snapshots, forks, beside other ways and another package.

`python -m benchmarks.environments.throughput` writes `benchmarks/results/env_throughput.json`. The
other package is `gem-llm`, whose libraries clash with ours: install it elsewhere and name that
Python with `--peer-python` or `AT2PO_PEER_PYTHON`; without, the figures say that it was absent.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from at2po_envs import SearchQAEnv
from at2po_envs.episode.vector import ForkableVectorEnv
from at2po_envs.miniwiki import MiniWiki
from benchmarks.command import run
from benchmarks.errors import EvaluationError
from retrieval import Passage

SEARCHES = 3
"""Searches of an episode; its fourth turn answers."""

_SEARCH = "<think> I should look this up. </think> <search> the film number {} </search>"
_ANSWER = r"<think> I know. </think> <answer> \boxed{nobody} </answer>"
_PEER = Path(__file__).parents[1] / "speed" / "peers" / "environments.py"
_PASSAGE_WORDS = 100
_SHORT_S, _REPEATS = 0.002, 30


@dataclass(frozen=True, kw_only=True)
class EnvThroughputConfig:
    """Measure how fast environments step and fork on this machine."""

    envs: int = 256
    """Episodes side by side."""
    questions: int = 1000
    """Questions that episodes are about."""
    delay_ms: float = 5.0
    """What a call of the stub retriever takes, however many queries it holds."""
    seconds: float = 3.0
    """Least time that each kind of stepping is measured."""
    depths: tuple[int, ...] = (1, 5, 50)
    """Turns after which snapshots are taken."""
    peer_python: str = os.environ.get("AT2PO_PEER_PYTHON", "")
    """Python that has the package gem-llm."""
    out: Path = Path("benchmarks/results/env_throughput.json")
    """Where the figures go."""


@dataclass(frozen=True)
class Stub:
    """A retriever that takes its time and always finds the same three passages."""

    delay_s: float

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """Return `k` passages for each query, after one delay for all of them."""
        if self.delay_s:
            time.sleep(self.delay_s)
        return [passages(k) for _ in queries]


@cache
def passages(k: int) -> list[Passage]:
    """Return what the stub finds."""
    return [Passage(str(i), f"Film {i}", f"word{i} " * _PASSAGE_WORDS) for i in range(k)]


def measure(config: EnvThroughputConfig) -> dict[str, Any]:
    """Measure everything, one thing after another in this order.

    Args:
        config: What to measure.

    Returns:
        JSON-able figures: steps per second with a retriever without and with delay, of the peer
        likewise, and microseconds and bytes by depth.

    Raises:
        EvaluationError: If a number is out of range, or the peer's Python fails.
    """
    if min(config.envs, config.questions, *config.depths) < 1 or config.delay_ms <= 0:
        raise EvaluationError("expected envs, questions, depths >= 1 and delay_ms > 0; raise them")
    asked = MiniWiki.preset("demo").question_list[: config.questions]
    rows = [{"id": q.id, "question": q.question, "golden_answers": q.golden_answers} for q in asked]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "questions.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

        def make(delay_s: float) -> SearchQAEnv:
            calls = max(6, *config.depths)
            return SearchQAEnv(
                questions_path=str(path), retriever=Stub(delay_s), max_tool_calls=calls
            )

        ours = {
            name: _stepping(make(delay), config) for name, delay in _delays(config.delay_ms).items()
        }
        forking = {str(depth): _forking(make, depth) for depth in config.depths}
    peer = _peer(config, rows)
    return {
        "envs": config.envs,
        "questions": len(rows),
        "delay_ms": config.delay_ms,
        "steps_per_second": ours,
        "forking_by_depth": forking,
        "peer": peer,
    }


def _delays(delay_ms: float) -> dict[str, float]:
    return {"no_delay": 0.0, "delay": delay_ms / 1000}


def turns() -> Iterator[str]:
    """Yield the actions of episodes without end."""
    while True:
        yield from (_SEARCH.format(i) for i in range(SEARCHES))
        yield _ANSWER


def _stepping(env: SearchQAEnv, config: EnvThroughputConfig) -> dict[str, float]:
    """Steps per second one by one and side by side."""
    vector = ForkableVectorEnv(env, config.envs, "SameStep")
    env.reset(seed=0)
    vector.reset(seed=0)

    def step_one(action: str) -> int:
        _, _, terminated, _, _ = env.step(action)
        if terminated:
            env.reset()
        return 1

    def step_all(action: str) -> int:
        vector.step([action] * config.envs)
        return config.envs

    return {
        "one_by_one": rate(step_one, turns(), config.seconds),
        "vector": rate(step_all, turns(), config.seconds),
    }


def rate(step: Callable[[str], int], actions: Iterator[str], seconds: float) -> float:
    """Take whole episodes for some time, after one that is not counted.

    Args:
        step: Takes one action and returns how many steps that was.
        actions: What to do.
        seconds: Least time.

    Returns:
        Steps per second.
    """
    for _ in range(SEARCHES + 1):
        step(next(actions))
    taken, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        taken += sum(step(next(actions)) for _ in range(SEARCHES + 1))
    return round(taken / (time.perf_counter() - start), 1)


def _forking(make: Callable[[float], SearchQAEnv], depth: int) -> dict[str, float]:
    """Microseconds and bytes at a depth; the replay's retriever has no delay."""
    env = make(0.0)
    env.reset(seed=0)
    actions = [_SEARCH.format(i) for i in range(depth)]
    for action in actions:
        env.step(action)
    snapshot = env.snapshot()
    fresh = env.fork()

    def replay() -> None:
        fresh.reset(options={"question_id": env.state.question.id})
        for action in actions:
            fresh.step(action)

    return {
        "snapshot_us": microseconds(env.snapshot),
        "restore_us": microseconds(lambda: env.restore(snapshot)),
        "fork_us": microseconds(env.fork),
        "deepcopy_us": microseconds(lambda: copy.deepcopy(env)),
        "replay_us": microseconds(replay),
        "snapshot_bytes": len(pickle.dumps(snapshot)),
        "deepcopy_bytes": len(pickle.dumps(env)),
    }


def microseconds(work: Callable[[], object]) -> float:
    """Return the time that something takes: the best of many short runs."""
    timer = timeit.Timer(work)
    number = 1
    while timer.timeit(number) < _SHORT_S:
        number *= 2
    return round(min(timer.repeat(_REPEATS, number)) / number * 1e6, 3)


def _peer(config: EnvThroughputConfig, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Measure gem-llm in its own Python; None where there is none."""
    if not config.peer_python:
        return None
    task = {
        "rows": rows,
        "envs": config.envs,
        "seconds": config.seconds,
        "delays": _delays(config.delay_ms),
        "searches": SEARCHES,
        "passages": [passage.contents for passage in passages(3)],
    }
    done = subprocess.run(
        [config.peer_python, str(_PEER)],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise EvaluationError(
            f"expected a Python with gem-llm, found that {config.peer_python} failed:\n"
            f"{done.stderr[-1000:]}"
        )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


main = partial(run, "benchmarks.environments.throughput", EnvThroughputConfig, measure)


if __name__ == "__main__":
    main()
