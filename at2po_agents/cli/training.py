"""Commands that train and that show what training does: train, demo, rollout, warmstart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.tree import Tree as RichTree

from at2po_agents.cli.terminal import out, show_json
from at2po_agents.config.train import TrainConfig, load_config, parse_config
from at2po_agents.errors import ConfigError
from at2po_agents.settings import CountOrZero, Settings
from at2po_agents.tree import Node, RolloutTree
from at2po_envs import Question


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(Settings):
    """Grow the rollout tree of one question and show it."""

    train: TrainConfig = field(default_factory=lambda: load_config(TrainConfig, "demo"))
    """Model, environment, algorithm and limits, as for training."""
    index: CountOrZero = 0
    """Number of the question in the set, from 0."""
    export: Path | None = None
    """File to write the tree's rows to, as JSON lines for other trainers."""


def train(arguments: Sequence[str]) -> None:
    """Train a search agent."""
    _train(parse_config(TrainConfig, arguments, prog="at2po train"))


def demo(arguments: Sequence[str]) -> None:
    """Train the embedded model on the embedded world and write a report."""
    chosen = ["--config", "demo", *arguments] if "--config" not in arguments else list(arguments)
    config = parse_config(TrainConfig, chosen, prog="at2po demo")
    from at2po_agents.training.run_folder import move_aside

    if not config.resume and (old := move_aside(Path(config.out))):
        out.print(f"the earlier run is now in {old}")
    _train(config)


def rollout(arguments: Sequence[str]) -> None:
    """Grow one tree and print it."""
    config = parse_config(RolloutConfig, arguments, prog="at2po rollout")
    from at2po_agents.engines import make_engine
    from at2po_agents.policy.loading import load_policy
    from at2po_agents.rollout.environments import make_env
    from at2po_agents.rollout.export import flat_rows, write_rows
    from at2po_agents.workers.rollout_worker import new_collector

    settings = config.train
    env = make_env(settings.env, settings.env_options)
    if config.index >= len(env.questions):
        raise ConfigError(f"index: expected 0 to {len(env.questions) - 1}, found {config.index}")
    question = env.questions[config.index]
    chosen, options = settings.model, settings.engine
    model, tokenizer = load_policy(chosen.name, chosen.dtype, chosen.chat_template, chosen.device)
    engine = make_engine(
        options.name, model, tokenizer, max_batch=options.max_batch, options=options.options
    )
    collector = new_collector(settings, env, engine, tokenizer)
    algorithm = settings.algorithm
    (tree,) = collector.collect([question], algorithm.expansion(), seed=settings.seed)
    algorithm.assign_credit(tree)
    out.print(_drawing(tree, question))
    if config.export is not None:
        rows = write_rows(flat_rows([tree]), config.export)
        out.print(f"{rows} rows: {config.export}")


def warmstart(arguments: Sequence[str]) -> None:
    """Make the mini model from nothing: tokenizer, demonstrations, supervised training."""
    from at2po_agents.config.warmstart import WarmStart

    config = parse_config(WarmStart, arguments, prog="at2po warmstart")
    from at2po_agents.training.warmstart import warm_start  # a module that needs torch

    show_json(warm_start(config))


def _train(config: TrainConfig) -> None:
    from at2po_agents.training.trainer import Trainer
    from benchmarks.report import write_report

    trainer = Trainer(config)
    summary = trainer.run()
    if trainer.group.is_main:
        show_json(summary)
        out.print(f"report: {write_report(Path(config.out))}")


def _drawing(tree: RolloutTree, question: Question) -> RichTree:
    """A tree of turns for the terminal: surprisal, value and advantage, then what was written."""
    label = f"{question.question} → {' | '.join(question.golden_answers)}"
    drawing = RichTree(label, highlight=False)
    branches: dict[Node | None, RichTree] = {tree.root: drawing}
    for node in tree.nodes()[1:]:
        figures = f"H {node.surprisal:.2f}  V {node.value:+.2f}  A {node.advantage:+.2f}"
        if node.reward is not None:
            figures += f"  reward {node.reward:+.0f}"
        branches[node] = branches[node.parent].add(f"[{figures}] {node.action.strip()}")
    return drawing
