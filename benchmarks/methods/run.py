"""One run of the comparison: a method, a seed, and as many sampled tokens as all others get."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from at2po_agents.config.train import TrainConfig, fingerprint, load_config, override
from at2po_agents.training.trainer import SKIPS_ALLOWED, Trainer
from benchmarks.errors import EvaluationError
from retrieval.storage.files import write_whole

Result = dict[str, Any]

THREADS = 1  # of a run; there is one run per core


@dataclass(frozen=True)
class Method:
    """What is compared: a preset, and what is different from it.

    Attributes:
        label: Name for tables and figures.
        preset: Name of the preset, or a TOML file.
        changes: Fields of its algorithm that differ.
        ablation: Whether it is AT²PO with one part exchanged.
    """

    label: str
    preset: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    ablation: bool = False


_TOKEN = {"ratio": "token", "clip_low": 0.2, "clip_high": 0.2}
_SEQUENCE = {"ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4}

METHODS: dict[str, Method] = {
    "react": Method("ReAct (the start)", "mini-react"),
    "atpo": Method("AT²PO", "mini-atpo"),
    "grpo": Method("GRPO", "mini-grpo"),
    "dapo": Method("DAPO", "mini-dapo"),
    "gspo": Method("GSPO", "mini-gspo"),
    "arpo": Method("ARPO", "mini-arpo"),
    "aepo": Method("AEPO", "mini-aepo"),
    "tree_grpo": Method("Tree-GRPO", "mini-tree-grpo"),
    "random": Method("random expansion", "mini-atpo", {"search": "random"}, True),
    "rows": Method("no turn credit", "mini-atpo", {"advantage": "rows"}, True),
    "token": Method("token-level ratio", "mini-atpo", _TOKEN, True),
    "sequence": Method("sequence-level ratio", "mini-atpo", _SEQUENCE, True),
}
"""The methods, and AT²PO's ablations; a ratio of another level comes with the clip bounds that go
with it (GRPO's and GSPO's)."""


class BudgetRun(Trainer):
    """A training run that ends when enough tokens were sampled, whatever steps that takes."""

    def to_marks(self, marks: Sequence[int]) -> list[Result]:
        """Train until each mark is reached, and evaluate there.

        Args:
            marks: Numbers of sampled tokens, increasing.

        Returns:
            The evaluation at each mark, with the tokens sampled by then (a step is never cut off)
            and the mean share of clipped tokens since the mark before.

        Raises:
            EvaluationError: If the updates are not finite any more.
        """
        points = []
        for mark in marks:
            clipped = []
            while self.state.sampled_tokens < mark:
                learned, _ = self._step()
                clipped.append(learned.get("policy/clip_frac", 0.0))
                if self.state.skipped > SKIPS_ALLOWED:
                    raise EvaluationError(
                        f"{self.out}: expected finite updates, found {self.state.skipped} in a row "
                        "that are not; lower --learning-rate"
                    )
            metrics, _ = self._evaluate()
            done: Result = {
                "mark": mark,
                "tokens": self.state.sampled_tokens,
                "steps": self.state.step,
            }
            done["clip_frac"] = sum(clipped) / len(clipped) if clipped else None
            points.append(done | {k.removeprefix("eval/"): v for k, v in metrics.items()})
        return points


@dataclass(frozen=True)
class Run:
    """One method with one seed.

    Attributes:
        name: Key of `METHODS`.
        config: Its settings.
        file: Where its result is kept; it appears when the run is complete.
    """

    name: str
    config: TrainConfig
    file: Path

    @classmethod
    def of(cls, name: str, folder: Path, marks: Sequence[int], settings: Mapping[str, Any]) -> Run:
        """Set up a run.

        Args:
            name: Key of `METHODS`.
            folder: Where results are kept; other settings give the file another name.
            marks: Where the run is evaluated, in sampled tokens.
            settings: Dotted names and values of `TrainConfig` that are the same for all methods.
        """
        method = METHODS[name]
        preset = load_config(TrainConfig, method.preset)
        changes = {f"algorithm.{name}": value for name, value in method.changes.items()}
        # The budget ends a run: nothing happens every so many steps, or after so many.
        whole = {**settings, **changes, "steps": 0, "eval.every": 0}
        config = override(preset, whole)
        identity = fingerprint(config, {"out"})[:8]
        places = f"{marks[-1]}-{len(marks)}"
        file = folder / f"{name}-s{config.seed}-{places}-{identity}.json"
        return cls(name, replace(config, out=file.with_suffix("")), file)


def carry_out(run: Run, marks: Sequence[int]) -> None:
    """Carry out a run and keep its result.

    Args:
        run: The run.
        marks: Where to evaluate, in sampled tokens; the last one ends the run.
    """
    torch.set_num_threads(THREADS)
    trainer = BudgetRun(run.config)
    with trainer.status:  # what is cut short here may begin again
        points = trainer.to_marks(marks if run.config.algorithm.learns else [0])
        episodes = trainer.out / "episodes" / f"step_{points[-1]['steps']:06d}.jsonl"
        records = [json.loads(line) for line in episodes.read_text(encoding="utf-8").splitlines()]
        result = {
            "seed": run.config.seed,
            "evaluations": points,
            "correct": "".join(str(int(record["em"])) for record in records),
        }
        write_whole(run.file, json.dumps(result) + "\n")
