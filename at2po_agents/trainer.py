"""The trainer: collect trees, learn from them, evaluate, save; the loop of a run and its folder."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from at2po_agents import checkpoint, queues, threads, timeline
from at2po_agents.algorithms import name_of
from at2po_agents.batches import Batches
from at2po_agents.config import RESUMABLE, TrainConfig, dump_config, fingerprint
from at2po_agents.errors import (
    CheckpointError,
    ConfigError,
    DivergedError,
    LearnerLostError,
    ToolsAwayError,
)
from at2po_agents.expansion import Chains
from at2po_agents.jobs import Job, make_envs
from at2po_agents.metrics import MetricsLog, read_metrics
from at2po_agents.progress import RunProgress
from at2po_agents.ranks import join
from at2po_agents.settings import to_table
from at2po_agents.status import RunStatus
from at2po_agents.trackers import open_tracker
from at2po_agents.tree import Node, RolloutTree
from at2po_agents.workers import LocalWorkers, Workers

_log = logging.getLogger(__name__)

SKIPS_ALLOWED = 2
"""Steps in a row that may be skipped for a non-finite loss or gradient; one more ends the run."""


@dataclass
class _Past:
    """What a run has behind it; saved in every checkpoint.

    Attributes:
        step: Steps done.
        questions: Questions rolled out in training.
        sampled_tokens: Tokens sampled in training.
        seconds: Time spent, evaluations included.
        skipped: Steps skipped in a row, up to now.
        threads: Threads that this process computes with: results repeat for a number of them.
    """

    step: int = 0
    questions: int = 0
    sampled_tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    threads: int = 0


class Trainer:
    """One training run in one folder.

    The folder gets `config.toml`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`, the greedy
    episodes and the training trees of the evaluated steps in `episodes/` and `trees/`, and at the
    end `summary.json`.

    Args:
        config: The settings; with `resume` the run goes on from its last good checkpoint.

    Raises:
        CheckpointError: If the folder holds a run and `resume` is off, or holds no usable
            checkpoint of this configuration and `resume` is on.
        ConfigError: If there are steps for an algorithm that does not learn.
    """

    def __init__(self, config: TrainConfig) -> None:
        algorithm = config.algorithm
        if config.steps and not getattr(algorithm, "learns", True):
            raise ConfigError(
                f"steps: expected 0 with {name_of(algorithm)}, which does not learn, found "
                f"{config.steps}; add --steps 0 to evaluate the starting policy"
            )
        self.ranks = join()
        self.config, self.root = config, Path(config.out)
        self.identity = fingerprint(config, RESUMABLE)
        resumed = self._checkpoint()
        # All ranks of torchrun run this same loop; what the others write is thrown away.
        self._scratch = None if self.ranks.first else tempfile.TemporaryDirectory()
        self.out = self.root if self._scratch is None else Path(self._scratch.name)
        self.status = RunStatus(self.out, resumed=config.resume)
        self.env, self.eval_env = make_envs(config)
        self.workers: Workers
        if config.cluster.collectors:
            if self.ranks.size > 1:
                raise ConfigError(
                    "cluster.collectors: expected 0 under torchrun, found "
                    f"{config.cluster.collectors}; start without torchrun, or set it to 0"
                )
            from at2po_agents.cluster import workers

            self.workers = workers.RayWorkers(config, self.status)
            self.batches = Batches(config, len(self.env.questions), self.workers)
            self.batches.stream = workers.ahead(self.workers, self.batches.job_ahead)
        else:
            self.workers = LocalWorkers(config, (self.env, self.eval_env), self.ranks)
            self.batches = Batches(config, len(self.env.questions), self.workers)
        self._begin(resumed)

    def _begin(self, resumed: checkpoint.Checkpoint | None) -> None:
        """Begin with a checkpoint, or with the first step."""
        self.past = _Past() if resumed is None else _Past(**resumed.extra)
        self.past.threads = threads.keep(self.past.threads)
        self.workers.start(resumed)
        self.batches.restart(self.past.step, self.past.questions)

    def run(self) -> dict[str, Any]:
        """Train to the last step.

        Returns:
            The content of `summary.json`.

        Raises:
            DivergedError: If too many steps in a row gave a loss or gradient that is not finite.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "config.toml").write_text(dump_config(self.config), encoding="utf-8")
        # The time line goes on after all that is in it: work that was lost took its time, too.
        last = max((span.end for _, span in timeline.read(self.out)), default=0.0)
        self._origin = time.time() - max(self.past.seconds, last)
        with self.status:
            try:
                lost = False
                while True:
                    try:
                        if lost:
                            self._begin(self._newest())
                        self._train()
                        self.workers.settle()  # a rank that is lost now takes steps along
                        break
                    except LearnerLostError as error:
                        _log.warning("%s: going on from the last checkpoint", error)
                        lost = True
                # While the ranks are together: an engine of vLLM takes their group along.
                summary = self.ranks.gather(self._summary() if self.ranks.first else {})[0]
            finally:
                self.workers.close()  # writes what a run that pauses has not yet written
        self.ranks.leave()
        return summary

    def _train(self) -> None:
        """Do the steps that are left."""
        start = time.monotonic() - self.past.seconds
        fresh = self.past.step == 0
        with (
            self._metrics_log(fresh) as log,
            RunProgress(
                self.config.steps, done=self.past.step, quiet=not self.ranks.first
            ) as progress,
        ):
            if fresh:
                metrics, took = self._evaluate(0)
                log.write(0, metrics, took | self._times())
                progress.update(0, tokens=0, figures=_figures(metrics))
            while self.past.step < self.config.steps:
                before = replace(self.past)
                try:
                    metrics, took = self._step()
                except ToolsAwayError:
                    # What was learned so far; the step of an evaluation that failed is repeated.
                    if self.past.step == before.step:
                        self.past = before
                        self._save()
                    raise
                self.past.seconds = time.monotonic() - start
                log.write(self.past.step, metrics, took | self._times())
                self.status.update(self.past.step)
                tokens = metrics["tokens/sampled"]
                progress.update(self.past.step, tokens=tokens, figures=_figures(metrics))
                if self._due(self.config.save_every):
                    self._save()
                if self.past.skipped > SKIPS_ALLOWED:
                    raise DivergedError(
                        f"expected finite losses and gradients, found {self.past.skipped} steps in "
                        f"a row without at step {self.past.step}; the trees are in "
                        f"{self.out / 'offending'}; lower learning_rate, or look into them"
                    )

    def _times(self) -> dict[str, float]:
        """Write down what the workers did in a step, and sum it up."""
        spans = self.workers.take_spans()
        if spans:
            timeline.append(self.out, self.past.step, spans, self._origin)
        return timeline.summarise(spans) | queues.summarise(self.workers.take_queues())

    def _metrics_log(self, fresh: bool) -> MetricsLog:
        """Open the run's metrics, and a tracker where one is asked for."""
        settings = to_table(self.config)
        asked = self.config.tracker if self.ranks.first else "none"
        tracker = open_tracker(asked, self.out, settings, resumed=not fresh)
        through = -1 if fresh else self.past.step
        first = self.ranks.first
        return MetricsLog(self.out, keep_through=through, tensorboard=first, tracker=tracker)

    def _step(self) -> tuple[dict[str, Any], dict[str, float]]:
        """One batch of questions: trees, update, and an evaluation where one is due."""
        step, clock = self.past.step, time.monotonic()
        batch = self.batches.take(step)
        self.past.questions += batch.asked
        collected = time.monotonic()
        learned = self.workers.learn(batch.trees, step)
        took = {"rollout": collected - clock, "update": time.monotonic() - collected}
        self.past.step += 1
        self.past.skipped = self.past.skipped + 1 if learned["skipped"] else 0
        _write_lines(
            self.out / "offending" / f"step_{self.past.step:06d}.jsonl",
            (tree.to_dict() for tree in self.workers.offending),
        )
        # What was sampled counts, whether it was learned from or not.
        metrics = rollout_metrics(batch.grown) | {"rollout/trees": len(batch.grown)}
        if stream := self.batches.stream:
            metrics |= {"rollout/staleness": _mean(batch.ages), "rollout/dropped": stream.dropped}
        self.past.sampled_tokens += metrics["tokens/sampled"]
        metrics |= {_learner_name(name): value for name, value in learned.items()}
        if self._due(self.config.eval_every):
            self._write_trees(batch.trees)
            evaluated, more = self._evaluate(self.past.step)
            metrics, took = metrics | evaluated, took | more
        return metrics, took

    def _evaluate(self, step: int) -> tuple[dict[str, Any], dict[str, float]]:
        """Answer the first questions of the evaluation set greedily, one chain each."""
        clock = time.monotonic()
        asked = min(self.config.eval_questions, len(self.eval_env.questions))
        job = Job(tuple(range(asked)), Chains(1), temperature=0.0, test=True)
        trees = self.workers.collect(job)
        leaves = [tree.leaves()[0] for tree in trees]
        records = [self.eval_env.record(leaf.state, leaf.info) for leaf in leaves]
        _write_lines(self.out / "episodes" / f"step_{step:06d}.jsonl", records)
        metrics = {
            "eval/em": _mean(leaf.info["em"] for leaf in leaves),
            "eval/f1": _mean(leaf.info["f1"] for leaf in leaves),
            "eval/format_rate": _mean(leaf.info["format_ok"] for leaf in leaves),
            "eval/searches": _mean(leaf.info["tool_calls"] for leaf in leaves),
            "eval/turns": _mean(leaf.depth for leaf in leaves),
            "eval/truncated": _mean(leaf.info["truncated"] for leaf in leaves),
            "eval/questions": len(leaves),
        }
        return metrics, {"eval": time.monotonic() - clock}

    def _due(self, every: int) -> bool:
        """Whether something that happens every so many steps, and after the last, happens now."""
        step = self.past.step
        return step == self.config.steps or (every > 0 and step % every == 0)

    def _write_trees(self, trees: Sequence[RolloutTree]) -> None:
        path = self.out / "trees" / f"step_{self.past.step:06d}.jsonl"
        _write_lines(path, (tree.to_dict() for tree in trees))

    def _checkpoint(self) -> checkpoint.Checkpoint | None:
        """The checkpoint to go on from, or None for a new run; rank 0 decides for all."""
        found = None
        if self.ranks.first and self.config.resume:
            found = self._newest()
            if found is None:
                _log.warning("%s holds no checkpoint: starting from the beginning", self.root)
        elif self.ranks.first and (self.root / "metrics.jsonl").exists():
            raise CheckpointError(
                f"{self.root}: expected a new folder, found a run in it; add --resume to go on "
                "with that run, or choose another folder with --out"
            )
        return self.ranks.gather(found)[0]

    def _newest(self) -> checkpoint.Checkpoint | None:
        return checkpoint.latest(self.root / checkpoint.FOLDER, self.identity)

    def _save(self) -> None:
        self.workers.save(
            self.root / checkpoint.FOLDER,
            self.past.step,
            extra=vars(self.past),
            fingerprint=self.identity,
            keep=self.config.keep_checkpoints,
        )

    def _summary(self) -> dict[str, Any]:
        evaluated = [row for row in read_metrics(self.out / "metrics.jsonl") if "eval/em" in row]
        last = evaluated[-1]
        summary = {
            "em_before": evaluated[0]["eval/em"],
            "em_after": last["eval/em"],
            "questions": last["eval/questions"],
            "searches": last["eval/searches"],
            "turns": last["eval/turns"],
            "format_rate": last["eval/format_rate"],
            "truncated": last["eval/truncated"],
            "steps": self.past.step,
            "sampled_tokens": self.past.sampled_tokens,
            "seconds": round(self.past.seconds, 1),
            "threads": self.past.threads,
            "seed": self.config.seed,
            "algorithm": name_of(self.config.algorithm),
            "env": self.config.env,
            "model": self.config.model,
        }
        text = json.dumps(summary, indent=2) + "\n"
        (self.out / "summary.json").write_text(text, encoding="utf-8")
        return summary


def rollout_metrics(trees: Sequence[RolloutTree]) -> dict[str, Any]:
    """Summarise collected trees.

    Args:
        trees: Complete trees.

    Returns:
        Means over leaves (reward, EM, format, turns, searches, truncation), the mean surprisal of
        turns in nats, and token counts: sampled, inserted.
    """
    nodes = [node for tree in trees for node in tree.nodes()]
    leaves = [leaf for tree in trees for leaf in tree.leaves()]
    turns = [node for node in nodes if node.parent is not None]

    def over_leaves(name: str) -> float:
        return _mean(leaf.info[name] for leaf in leaves)

    return {
        "rollout/reward_mean": _mean(_reward(leaf) for leaf in leaves),
        "rollout/em": over_leaves("em"),
        "rollout/format_rate": over_leaves("format_ok"),
        "rollout/search_calls": over_leaves("tool_calls"),
        "rollout/truncated": over_leaves("truncated"),
        "rollout/turns_mean": _mean(leaf.depth for leaf in leaves),
        "rollout/surprisal": _mean(turn.surprisal for turn in turns),
        "tokens/sampled": sum(len(node.sampled) for node in nodes),
        "tokens/inserted": sum(len(node.inserted) for node in nodes),
    }


_SHOWN = {"rollout/reward_mean": "reward", "rollout/em": "EM", "eval/em": "greedy EM"}


def _figures(metrics: dict[str, Any]) -> dict[str, float]:
    """The few metrics that the progress line shows."""
    return {short: metrics[name] for name, short in _SHOWN.items() if name in metrics}


def _reward(leaf: Node) -> float:
    return leaf.reward if leaf.reward is not None else float("nan")


def _learner_name(name: str) -> str:
    group, _, rest = name.rpartition("_")
    return f"tokens/{group}" if rest == "tokens" else f"policy/{name}"


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines; no records make no file."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
