"""The trainer: roll out, learn, evaluate, save; the loop of a run, and its folder."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from at2po_agents import threads
from at2po_agents.algorithms import name_of
from at2po_agents.config.train import RESUMABLE, TrainConfig, dump_config, fingerprint
from at2po_agents.errors import (
    ConfigError,
    DivergedError,
    EvaluationFailedError,
    LearnerLostError,
    ToolsUnavailableError,
)
from at2po_agents.learner import checkpoint, checkpoint_writing
from at2po_agents.learner.process_group import join
from at2po_agents.monitoring import queue_length as queues
from at2po_agents.monitoring import trace as timeline
from at2po_agents.monitoring.metrics_log import FILE, MetricsLog, read_metrics
from at2po_agents.monitoring.progress import RunProgress
from at2po_agents.monitoring.status import RunStatus
from at2po_agents.monitoring.trackers import open_tracker
from at2po_agents.monitoring.tree_metrics import evaluation_metrics, rollout_metrics
from at2po_agents.rollout.expansion import Chains
from at2po_agents.settings import to_table
from at2po_agents.training import run_folder
from at2po_agents.training.batches import Batches
from at2po_agents.training.prompts import askable_in_run
from at2po_agents.training.run_folder import write_lines
from at2po_agents.training.run_state import RunState
from at2po_agents.training.step import StepResult, training_step
from at2po_agents.tree import leaf_outcome, leaf_state
from at2po_agents.workers.base import Job, Workers
from at2po_agents.workers.local import LocalWorkers
from at2po_agents.workers.rollout_worker import make_envs
from retrieval.storage.files import Held, write_whole

_log = logging.getLogger(__name__)

SKIPS_ALLOWED = 2
"""Steps in a row that may be skipped for a non-finite loss or gradient; one more ends the run."""


class Trainer:
    """One training run in one folder, which is held until the run ends.

    The folder gets `config.toml`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`, the greedy
    episodes and the training trees of the evaluated steps in `episodes/` and `trees/`, and at the
    end `summary.json`.

    Args:
        config: The settings; with `resume` the run goes on from its last good checkpoint.

    Raises:
        CheckpointError: If another run is at work in the folder; if the folder holds a run and
            `resume` is off, or holds no usable checkpoint of this configuration and `resume` is on.
        ConfigError: If there are steps for an algorithm that does not learn.
    """

    def __init__(self, config: TrainConfig) -> None:
        algorithm = config.algorithm
        if config.steps and not config.algorithm.learns:
            raise ConfigError(
                f"steps: expected 0 with {name_of(algorithm)}, which does not learn, found "
                f"{config.steps}; add --steps 0 to evaluate the starting policy"
            )
        self.group = join()
        self.config, self.root = config, Path(config.out)
        self.identity = fingerprint(config, RESUMABLE)
        # All ranks of torchrun run this same loop; what the others write is thrown away.
        self._scratch = None if self.group.is_main else tempfile.TemporaryDirectory()
        self.out = self.root if self._scratch is None else Path(self._scratch.name)
        self.env, self.eval_env = make_envs(config)  # before there is a folder
        self._folder: Held | None = None
        with ExitStack() as held:
            if self.group.is_main:
                self._folder = held.enter_context(run_folder.hold(self.root))
            # Rank 0 decides for all.
            ready = self._make_ready() if self.group.is_main else None
            resumed = self.group.all_gather(ready)[0]
            self.status = RunStatus(self.out, resumed=resumed is not None)
            self.asked, self.eval_asked = askable_in_run(config, self.env, self.eval_env)
            self.workers, self.batches = self._make_workers()
            self._begin(resumed)
            self._held = held.pop_all()

    def _make_workers(self) -> tuple[Workers, Batches]:
        """Make the run's workers, and the batches that they roll out."""
        config = self.config
        if not config.cluster.rollout_workers:
            local = LocalWorkers(config, (self.env, self.eval_env), self.group)
            return local, Batches(config, len(self.env.questions), local, self.asked)
        if self.group.world_size > 1:
            raise ConfigError(
                "cluster.rollout_workers: expected 0 under torchrun, found "
                f"{config.cluster.rollout_workers}; start without torchrun, or set it to 0"
            )
        from at2po_agents.workers.ray.prefetch import Prefetcher
        from at2po_agents.workers.ray.workers import RayWorkers

        remote = RayWorkers(config, self.status)
        batches = Batches(config, len(self.env.questions), remote, self.asked)
        if ahead := config.cluster.staleness:
            batches.prefetcher = Prefetcher(remote.submit, remote.wait, ahead, batches.job_ahead)
        return remote, batches

    def _begin(self, resumed: checkpoint.Checkpoint | None) -> None:
        """Begin with a checkpoint, or with the first step."""
        self.state = RunState() if resumed is None else RunState.of(resumed)
        self.state.threads = threads.keep(self.state.threads)
        self.workers.start(resumed)
        self.batches.restart(self.state.step, self.state.questions)

    def run(self) -> dict[str, object]:
        """Train to the last step.

        Returns:
            The content of `summary.json`.

        Raises:
            DivergedError: If too many steps in a row gave a loss or gradient that is not finite.
        """
        with self._held, self.status:
            write_whole(self.out / run_folder.CONFIG, dump_config(self.config))
            # The time line goes on after all that is in it: work that was lost took its time, too.
            last = timeline.last_end(self.out)
            self._origin = time.time() - max(self.state.seconds, last)
            try:
                lost = False
                while True:
                    try:
                        if lost:
                            self._begin(self._newest())
                        self._train()
                        # A rank that is lost now takes steps along.
                        self.workers.wait_for_checkpoint()
                        break
                    except LearnerLostError as error:
                        _log.warning("%s: going on from the last checkpoint", error)
                        lost = True
                # While the ranks are together: an engine of vLLM takes their group along.
                summary = self.group.all_gather(self._summary() if self.group.is_main else {})[0]
            finally:
                self.workers.close()  # writes what a run that pauses has not yet written
        self.group.destroy()
        return summary

    def _train(self) -> None:
        """Do the steps that are left."""
        start = time.monotonic() - self.state.seconds
        fresh = self.state.step == 0
        with (
            self._metrics_log(fresh) as log,
            RunProgress(
                self.config.steps, done=self.state.step, quiet=not self.group.is_main
            ) as progress,
        ):
            if fresh:
                metrics, took = self._evaluate()
                log.write(0, metrics, took | self._times())
                progress.update(0, tokens=0, figures=_figures(metrics))
            while self.state.step < self.config.steps:
                before = replace(self.state)
                try:
                    metrics, took = self._step()
                except (EvaluationFailedError, ToolsUnavailableError):
                    # What was learned so far; the step of an evaluation that failed is repeated.
                    if self.state.step == before.step:
                        self.state = before
                        self._save()
                    raise
                self.state.seconds = time.monotonic() - start
                log.write(self.state.step, metrics, took | self._times())
                self.status.update(self.state.step)
                tokens = int(metrics["tokens/sampled"])
                progress.update(self.state.step, tokens=tokens, figures=_figures(metrics))
                if self._due(self.config.checkpoint.every):
                    self._save()
                if self.state.skipped > SKIPS_ALLOWED:
                    raise DivergedError(
                        f"expected finite losses and gradients, found {self.state.skipped} steps "
                        f"in a row without at step {self.state.step}; lower "
                        "optim.learning_rate, or look into their trees in "
                        f"{self.out / run_folder.NONFINITE_TREES}"
                    )

    def _times(self) -> dict[str, float]:
        """Write down what the workers did in a step, and sum it up."""
        spans, lengths = self.workers.take_trace()
        if spans:
            timeline.append(self.out, self.state.step, spans, self._origin)
        return timeline.summarise(spans) | queues.summarise(lengths)

    def _metrics_log(self, fresh: bool) -> MetricsLog:
        """Open the run's metrics, and a tracker where one is asked for."""
        settings = to_table(self.config)
        asked = self.config.tracker if self.group.is_main else "none"
        tracker = open_tracker(asked, self.out, settings, resumed=not fresh)
        through = -1 if fresh else self.state.step
        first = self.group.is_main
        return MetricsLog(self.out, keep_through=through, tensorboard=first, tracker=tracker)

    def _step(self) -> tuple[dict[str, float], dict[str, float]]:
        """Take a training step, and evaluate where that is due; return metrics and seconds."""
        config, state = self.config, self.state
        done = training_step(state.step, self.batches, config.algorithm, self.workers)
        state.step += 1
        state.questions += done.batch.asked
        state.skipped = state.skipped + 1 if done.update["skipped"] else 0
        nonfinite = (tree.to_dict() for tree in self.workers.nonfinite_trees)
        write_lines(self._lines(run_folder.NONFINITE_TREES), nonfinite)
        metrics = self._step_metrics(done)
        state.sampled_tokens += int(metrics["tokens/sampled"])
        if not self._due(config.eval.every):
            return metrics, done.seconds
        write_lines(self._lines(run_folder.TREES), (tree.to_dict() for tree in done.batch.trees))
        evaluated, took = self._evaluate()
        return metrics | evaluated, done.seconds | took

    def _step_metrics(self, done: StepResult) -> dict[str, float]:
        """What was sampled counts, whether it was learned from or not."""
        batch, prefetcher = done.batch, self.batches.prefetcher
        metrics = rollout_metrics(batch.grown) | {"rollout/trees": len(batch.grown)}
        if left_out := len(self.env.questions) - len(self.asked):
            metrics["rollout/overlong_prompts"] = left_out
        if prefetcher:
            age = sum(batch.ages) / len(batch.ages)
            metrics |= {"rollout/staleness": age, "rollout/dropped": prefetcher.dropped}
        return metrics | {_learner_name(name): value for name, value in done.update.items()}

    def _evaluate(self) -> tuple[dict[str, float], dict[str, float]]:
        """Answer the first questions of the evaluation set greedily, one chain each."""
        clock = time.monotonic()
        job = Job(tuple(self.eval_asked), Chains(1), temperature=0.0, test=True)
        trees = self.workers.run_job(job)
        leaves = [tree.leaves()[0] for tree in trees]
        records = [self.eval_env.record(leaf_state(leaf), leaf_outcome(leaf)) for leaf in leaves]
        write_lines(self._lines(run_folder.EPISODES), records)
        return evaluation_metrics(leaves), {"eval": time.monotonic() - clock}

    def _lines(self, folder: str) -> Path:
        """The file of this step in a folder of the run, which must still be in its place."""
        self._require_folder()
        return self.out / folder / f"{checkpoint.name_of(self.state.step)}.jsonl"

    def _due(self, every: int) -> bool:
        """Whether something that happens every so many steps, and after the last, happens now."""
        step = self.state.step
        return step == self.config.steps or (every > 0 and step % every == 0)

    def _make_ready(self) -> checkpoint.Checkpoint | None:
        """Make the folder ready to be written to; return the checkpoint to go on from, if any."""
        found, resume = None, self.config.resume
        if resume:
            checkpoint_writing.tidy(self.root / checkpoint.FOLDER, self.identity)
            found = self._newest()
        if found is None:
            run_folder.prepare(self.root, resume=resume)
            if resume:
                _log.warning("%s holds no checkpoint: starting from the beginning", self.root)
        run_folder.make_way(self.root)
        return found

    def _newest(self) -> checkpoint.Checkpoint | None:
        return checkpoint.latest(self.root / checkpoint.FOLDER, self.identity)

    def _require_folder(self) -> None:
        """Refuse to write where by now another run may be."""
        if self._folder is not None:
            self._folder.require()

    def _save(self) -> None:
        self._require_folder()
        self.workers.save(
            self.root / checkpoint.FOLDER,
            self.state.step,
            extra=vars(self.state),
            fingerprint=self.identity,
            keep=self.config.checkpoint.keep,
        )

    def _summary(self) -> dict[str, object]:
        self._require_folder()
        rows = {row["step"]: row for row in read_metrics(self.out / FILE) if "eval/em" in row}
        # Rows that somebody took away are not made up for: the figures are null.
        first, last = rows.get(0, {}), rows.get(self.state.step, {})
        summary = {
            "em_before": first.get("eval/em"),
            "em_after": last.get("eval/em"),
            "questions": last.get("eval/questions"),
            "searches": last.get("eval/searches"),
            "turns": last.get("eval/turns"),
            "format_rate": last.get("eval/format_rate"),
            "truncated": last.get("eval/truncated"),
            "steps": self.state.step,
            "sampled_tokens": self.state.sampled_tokens,
            "seconds": round(self.state.seconds, 1),
            "threads": self.state.threads,
            "seed": self.config.seed,
            "algorithm": name_of(self.config.algorithm),
            "env": self.config.env,
            "model": self.config.model.name,
        }
        write_whole(self.out / run_folder.SUMMARY, json.dumps(summary, indent=2) + "\n")
        return summary


_SHOWN = {"rollout/reward_mean": "reward", "rollout/em": "EM", "eval/em": "greedy EM"}


def _figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """The few metrics that the progress line shows."""
    return {short: metrics[name] for name, short in _SHOWN.items() if name in metrics}


def _learner_name(name: str) -> str:
    group, _, rest = name.rpartition("_")
    return f"tokens/{group}" if rest == "tokens" else f"policy/{name}"
