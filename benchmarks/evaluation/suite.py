"""One agent on several sets: a folder each, and what they come to together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from at2po_agents.rollout.agents import Agent
from at2po_agents.rollout.environments import make_env
from at2po_envs import ForkableEnv
from benchmarks.errors import EvaluationError
from benchmarks.evaluation.evaluate import evaluate
from benchmarks.evaluation.folder import as_json, check_suite_folder
from benchmarks.evaluation.summary import Report
from benchmarks.statistics.intervals import interval, resample, wilson
from retrieval.storage.files import sole_writer, write_whole

_SCORES = ("em", "cover_em", "f1")


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """The results of an agent on several sets.

    Attributes:
        sets: The report of each, by its name.
        micro: Means over all questions, as the paper averages: each set weighs as many questions as
            it has. `em`, `cover_em`, `f1`, each with `_interval`: Wilson's for the first two.
        macro: Means over the sets' means: each set weighs the same. Intervals are bootstrapped.
    """

    sets: Mapping[str, Report]
    micro: Mapping[str, Any]
    macro: Mapping[str, Any]

    def summary(self) -> dict[str, Any]:
        """Return the content of the `summary.json` above those of the sets."""
        reports = {name: report.summary() for name, report in self.sets.items()}
        first = next(iter(self.sets.values()))
        return {
            "agent": first.agent,
            "questions": sum(report.questions for report in self.sets.values()),
            "failures": sum(len(report.failures) for report in self.sets.values()),
            "micro": dict(self.micro),
            "macro": dict(self.macro),
            "sets": {
                name: {key: value for key, value in each.items() if key != "card"}
                for name, each in reports.items()
            },
        }


def evaluate_suite(
    agent_for: Callable[[ForkableEnv], Agent],
    envs: Sequence[str],
    *,
    env_options: Callable[[str], Mapping[str, Any]] | None = None,
    limit: int | None = None,
    batch: int = 64,
    out: Path | None = None,
    retry_failed: bool = False,
) -> SuiteReport:
    """Evaluate an agent on several sets; what was interrupted is resumed.

    Args:
        agent_for: Makes the agent for an environment.
        envs: Ids of the environments, at least one; the part before `-v` names the set.
        env_options: Gives the keyword arguments for an id; none by default.
        limit: As for `evaluate`, in each set.
        batch: As for `evaluate`.
        out: Folder for the summary, and for one folder a set.
        retry_failed: As for `evaluate`.

    Returns:
        The results.

    Raises:
        EvaluationError: If there is no set, two have the same name, the folder holds something
            else, or as for `evaluate`.
    """
    names = [set_name(env_id) for env_id in envs]
    if not names or len(set(names)) < len(names):
        raise EvaluationError(
            f"expected at least one set, each of another name, found {names or 'none'}"
        )
    options = [dict(env_options(env_id)) if env_options else {} for env_id in envs]
    # All of them before the first is played: what is wrong with the last one is known now.
    made = [make_env(env_id, given) for env_id, given in zip(envs, options, strict=True)]
    agents = [agent_for(env) for env in made]
    with ExitStack() as held:
        if out is not None:
            own = held.enter_context(
                sole_writer(out, EvaluationError, what="an evaluation of sets")
            )
            check_suite_folder(out)
        sets = {
            name: evaluate(
                agent,
                env,
                env_options=given,
                limit=limit,
                batch=batch,
                out=None if out is None else out / name,
                retry_failed=retry_failed,
            )
            for name, agent, env, given in zip(names, agents, made, options, strict=True)
        }
        report = SuiteReport(sets, *_averages(sets))
        if out is not None:
            own.require()
            write_whole(out / "summary.json", as_json(report.summary()))
    return report


def set_name(env_id: str) -> str:
    """Return the part of an environment's id that names its set: `HotpotQA`."""
    return env_id.rpartition("/")[2].rpartition("-v")[0] or env_id.rpartition("/")[2]


def _averages(sets: Mapping[str, Report]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Micro and macro averages."""
    sizes = np.array([report.questions for report in sets.values()])
    micro: dict[str, Any] = {"questions": int(sizes.sum())}
    macro: dict[str, Any] = {"sets": len(sizes)}
    scores = [
        np.array([[float(episode[name]) for name in _SCORES] for episode in report.episodes])
        for report in sets.values()
    ]
    for column, name in enumerate(_SCORES):
        means = np.array([getattr(report, name) for report in sets.values()])
        drawn = resample([[each[:, column][None] for each in scores]])[:, 0]
        micro[name] = float(means @ sizes / sizes.sum())
        macro[name] = float(means.mean())
        macro[f"{name}_interval"] = interval(drawn.mean(axis=1))
        if name == "f1":
            micro["f1_interval"] = interval(drawn @ sizes / sizes.sum())
        else:
            micro[f"{name}_interval"] = wilson(micro[name], micro["questions"])
    return micro, macro
