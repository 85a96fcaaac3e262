"""The `at2po` command: train, evaluate, look at rollouts, run the demo, make the mini model.

This is the one module that may import every package; nothing imports it.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import transformers
import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.tree import Tree as RichTree
from tyro.conf import Positional

import at2po_envs
from at2po_agents.config import TrainConfig, load_config, parse_config
from at2po_agents.engines import make_engine
from at2po_agents.environments import make_env, on_test_split
from at2po_agents.errors import AgentError
from at2po_agents.settings import Options
from at2po_envs.errors import UnknownNameError
from retrieval import RetrievalError

_out = Console()


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare finished evaluations on the same questions; the first is what others are held to."""

    evaluations: Positional[tuple[str, ...]]
    """Two or more: folders of evaluations or suites, or `name=folder,folder` for several seeds."""
    common: bool = False
    """Leave out questions that not all answered, rather than refuse."""
    out: Path = Path("runs/comparison")
    """Folder for `comparison.json` and `comparison.md`; overwritten."""


@dataclass(frozen=True, kw_only=True)
class PaperCheckConfig:
    """Recompute the averages of the paper's Table 1 from its cells, and what its gaps can show."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Compare a local copy of the question sets with what is published."""

    root: Path | None = None
    """Folder that holds `questions/<set>/<split>.jsonl`; by default `$AT2PO_DATA`."""


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check this installation; with `--plan`, estimate what memory a training needs instead."""

    plan: Options = field(default_factory=dict)
    """A training on GPUs, such as `model=Qwen/Qwen3-4B gpus=1x24GB`; code 1 if it does not fit."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a checkpoint's model as a plain folder of transformers, in the run's number format."""

    checkpoint: Positional[Path]
    """Folder of a run, whose newest whole checkpoint is taken, or of a checkpoint."""
    out: Positional[Path]
    """Folder to write; it must not exist."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """Grow the rollout tree of one question and show it."""

    train: TrainConfig = field(default_factory=lambda: load_config(TrainConfig, "demo"))
    """Model, environment, algorithm and limits, as for training."""
    index: int = 0
    """Number of the question in the set."""
    export: Path | None = None
    """File to write the tree's rows to, as JSON lines for other trainers."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors in what the user gave end the process with code 2 and one message.

    Args:
        arguments: Words after `at2po`; None takes the process's own.

    Raises:
        SystemExit: With code 2 on wrong input, or where a run diverged.
    """
    handler = RichHandler(console=Console(stderr=True), show_path=False)
    # The ranks of torchrun do the same; what only one of them has to say is at least a warning.
    first = os.environ.get("RANK", "0") == "0"
    level = logging.INFO if first else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler])
    if not first:
        transformers.utils.logging.disable_progress_bar()
    for noisy in ("bm25s", "httpx", "httpx2", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        _out.print(_usage(), markup=False)
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else _usage()
        _fail(f"unknown command {name!r}; {hint}")
    try:
        COMMANDS[name](words[1:])
    except (AgentError, at2po_envs.At2poEnvError, RetrievalError, ValueError, OSError) as error:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        _fail(f"{type(error).__name__}: {error}")


def train(arguments: Sequence[str]) -> None:
    """Train a search agent."""
    _train(parse_config(TrainConfig, arguments, prog="at2po train"))


def demo(arguments: Sequence[str]) -> None:
    """Train the embedded model on the embedded world and write a report."""
    chosen = ["--config", "demo", *arguments] if "--config" not in arguments else list(arguments)
    config = parse_config(TrainConfig, chosen, prog="at2po demo")
    from at2po_agents.run_folder import move_aside

    if not config.resume and (old := move_aside(Path(config.out))):
        _out.print(f"the earlier run is now in {old}")
    _train(config)


def evaluate(arguments: Sequence[str]) -> None:
    """Evaluate an agent and write its episodes and their summary."""
    from at2po_agents.evaluation import EvalConfig, agent_factory
    from benchmarks import evaluate as run
    from benchmarks import evaluate_suite
    from benchmarks.report import write_report

    config = parse_config(EvalConfig, arguments, prog="at2po eval")
    agent_for, ids = agent_factory(config), config.env.split(",")
    asked: dict[str, Any] = {name: getattr(config, name) for name in ("limit", "batch", "out")}
    asked["retry_failed"] = config.retry_failed

    def options(env_id: str) -> dict[str, Any]:
        return on_test_split(env_id, config.env_options)

    if len(ids) > 1:
        suite = evaluate_suite(agent_for, ids, env_options=options, **asked)
        summary, folders = suite.summary(), [config.out / name for name in suite.sets]
        failures = summary["failures"]
    else:
        env = make_env(config.env, options(config.env))
        report = run(agent_for(env), env, env_options=options(config.env), **asked)
        summary, folders = report.summary(), [config.out]
        failures = len(report.failures)
    _out.print_json(json.dumps(summary))
    if failures:
        _out.print(f"{failures} episodes failed and count as wrong; --retry-failed tries again")
    _out.print(f"episodes, summary and card: {config.out}")
    for folder in folders:
        _out.print(f"report: {write_report(folder)}")


def compare(arguments: Sequence[str]) -> None:
    """Compare evaluations on the same questions: differences, tests, what can be concluded."""
    from benchmarks.compare_evaluations import compare as run
    from benchmarks.compare_evaluations_text import conclusions, note, rich_table, write
    from benchmarks.read_evaluations import read_methods

    config = tyro.cli(CompareConfig, args=arguments, prog="at2po compare")
    comparison = run(read_methods(config.evaluations), common=config.common)
    write(comparison, config.out)
    _out.print(rich_table(comparison))
    said = [*(f"warning: {each}" for each in comparison["warnings"]), *conclusions(comparison)]
    for line in [*said, note(comparison), f"comparison: {config.out}"]:
        _out.print(line, markup=False, highlight=False)


def paper_check(arguments: Sequence[str]) -> None:
    """Recompute the averages of the paper's Table 1 and list figures that do not fit together."""
    from benchmarks.paper_check import report

    tyro.cli(PaperCheckConfig, args=arguments, prog="at2po paper-check")
    for part in report():
        _out.print(part, markup=False, highlight=False)


def report(arguments: Sequence[str]) -> None:
    """Write the report of a training run, an evaluation or trees, or what differs between two."""
    from benchmarks.report import ReportOptions, write_reports

    path = write_reports(tyro.cli(ReportOptions, args=arguments, prog="at2po report"))
    _out.print(f"report: {path}", soft_wrap=True)


def rollout(arguments: Sequence[str]) -> None:
    """Grow one tree and print it."""
    from at2po_agents.export import flat_rows, write_rows
    from at2po_agents.jobs import new_collector
    from at2po_agents.models import load_policy

    config = parse_config(RolloutConfig, arguments, prog="at2po rollout")
    settings = config.train
    env = make_env(settings.env, settings.env_options)
    model, tokenizer = load_policy(
        settings.model, settings.dtype, settings.chat_template, settings.device
    )
    engine = make_engine(
        settings.engine,
        model,
        tokenizer,
        max_batch=settings.max_batch,
        options=settings.engine_options,
    )
    collector = new_collector(settings, env, engine, tokenizer)
    if not 0 <= config.index < len(env.questions):
        raise IndexError(f"index: expected 0 to {len(env.questions) - 1}, found {config.index}")
    question = env.questions[config.index]
    algorithm = settings.algorithm
    (tree,) = collector.collect([question], algorithm.expansion(), seed=settings.seed)
    algorithm.assign_credit(tree)
    _out.print(_drawing(tree, question))
    if config.export is not None:
        rows = write_rows(flat_rows([tree]), config.export)
        _out.print(f"{rows} rows: {config.export}")


def data(arguments: Sequence[str]) -> None:
    """Look at local question sets: `list` them, or `verify` them against what is published."""
    from at2po_envs.manifest import survey, verify

    action = arguments[0] if arguments else "--help"
    if action not in ("list", "verify"):
        raise UnknownNameError(f"expected at2po data list or at2po data verify, found {action!r}")
    config = tyro.cli(DataConfig, args=arguments[1:], prog=f"at2po data {action}")
    if action == "verify":
        differences = verify(config.root)
        for difference in differences:
            _out.print(difference, markup=False, soft_wrap=True)
        if differences:
            raise SystemExit(1)
        _out.print("all question sets are as published")
        return
    table = Table("set", "split", "found", "published", "difference")
    for report in survey(config.root):
        counts = (report.found, report.published)
        shown = ("–" if count is None else f"{count:,}" for count in counts)
        table.add_row(report.set_name, report.split, *shown, report.difference)
    _out.print(table)


def export(arguments: Sequence[str]) -> None:
    """Write a checkpoint's model as a plain folder, for evaluations, servers and other trainers."""
    from at2po_agents.export_model import export_model

    config = tyro.cli(ExportConfig, args=arguments, prog="at2po export")
    found = export_model(config.checkpoint, config.out)
    _out.print(f"step {found.step} of {found.path}: {config.out}", soft_wrap=True)


def index(arguments: Sequence[str]) -> None:
    """Retrieval indexes: `build` one, say what one is (`info`), `search` with one."""
    from retrieval import building

    actions: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        "build": (building.IndexBuild, building.build_index),
        "info": (building.IndexInfo, building.index_info),
        "search": (building.IndexSearch, building.search_index),
    }
    action = arguments[0] if arguments else "--help"
    if action not in actions:
        raise UnknownNameError(f"expected at2po index build, info or search, found {action!r}")
    options, run = actions[action]
    result = run(tyro.cli(options, args=arguments[1:], prog=f"at2po index {action}"))
    if action == "search":
        result = [[asdict(passage) for passage in found] for found in result]
    _out.print_json(json.dumps(result))


def serve(arguments: Sequence[str]) -> None:
    """Serve a retriever over HTTP, to Search-R1's clients and ours."""
    from retrieval import open_retriever
    from retrieval.server_run import ServeOptions
    from retrieval.server_run import serve as run

    run(tyro.cli(ServeOptions, args=arguments, prog="at2po serve"), open_retriever)


def doctor(arguments: Sequence[str]) -> None:
    """Check this installation, or with --plan whether a training fits on GPUs."""
    from at2po_agents.memory import Plan

    keys = ", ".join(each.name for each in fields(Plan))
    about = f"{DoctorConfig.__doc__}\n\nKeys of a plan: {keys}; see docs/how-to/plan-memory.md."
    config = tyro.cli(DoctorConfig, args=arguments, prog="at2po doctor", description=about)
    if config.plan or "--plan" in arguments:
        _plan(config.plan)
        return
    from at2po_agents.doctor import installation, table
    from at2po_envs.questions import questions_folder
    from retrieval.java import find_java

    checks = installation(find_java, questions_folder)
    _out.print(table(checks))
    if any(check.state == "broken" for check in checks):
        raise SystemExit(1)


def warmstart(arguments: Sequence[str]) -> None:
    """Make the mini model from nothing: tokenizer, demonstrations, supervised training."""
    from at2po_agents.warmstart import WarmStart, warm_start

    config = parse_config(WarmStart, arguments, prog="at2po warmstart")
    summary = warm_start(config)
    _out.print_json(json.dumps(summary))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "eval": evaluate,
    "compare": compare,
    "paper-check": paper_check,
    "report": report,
    "rollout": rollout,
    "data": data,
    "export": export,
    "index": index,
    "serve": serve,
    "demo": demo,
    "doctor": doctor,
    "warmstart": warmstart,
}
"""Sub-commands of `at2po`."""


def _train(config: TrainConfig) -> None:
    from at2po_agents.trainer import Trainer
    from benchmarks.report import write_report

    trainer = Trainer(config)
    summary = trainer.run()
    if trainer.ranks.first:
        _out.print_json(json.dumps(summary))
        _out.print(f"report: {write_report(Path(config.out))}")


def _plan(options: Options) -> None:
    """Print what memory a training needs; a plan that does not fit ends with code 1."""
    from at2po_agents.memory import describe, fits, parse_plan
    from at2po_agents.model_sizes import find_sizes

    plan = parse_plan(options)
    sizes, source = find_sizes(plan.model)
    for part in describe(plan, sizes, source):
        _out.print(part, markup=False, highlight=False)
    if not fits(plan, sizes):
        raise SystemExit(1)


def _drawing(tree: Any, question: Any) -> RichTree:
    """A tree of turns for the terminal: surprisal, value and advantage, then what was written."""
    label = f"{question.question} → {' | '.join(question.golden_answers)}"
    drawing = RichTree(label, highlight=False)
    branches = {tree.root: drawing}
    for node in tree.nodes()[1:]:
        figures = f"H {node.surprisal:.2f}  V {node.value:+.2f}  A {node.advantage:+.2f}"
        if node.reward is not None:
            figures += f"  reward {node.reward:+.0f}"
        text = f"[{figures}] {node.action.strip()}"
        branches[node] = branches[node.parent].add(text.replace("[", r"\["))
    return drawing


def _usage() -> str:
    lines = [f"  {name:12} {(command.__doc__ or '').strip()}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: at2po COMMAND [--help]", *lines])


def _fail(message: str) -> None:
    Console(stderr=True).print(f"at2po: {message}", markup=False, soft_wrap=True)
    raise SystemExit(2)
