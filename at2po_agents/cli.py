"""The `at2po` command: train, evaluate, look at rollouts, run the demo, make the mini model.

This is the one module that may import every package; nothing imports it.
"""

from __future__ import annotations

import difflib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.tree import Tree as RichTree

import at2po_envs
from at2po_agents.config import TrainConfig, load_config, parse_config
from at2po_agents.environments import make_env, on_test_split
from at2po_agents.errors import AgentError
from at2po_agents.settings import Options
from at2po_agents.tokens import check_dialect
from at2po_envs.errors import UnknownNameError
from retrieval import RetrievalError

_out = Console()


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluate a model or a scripted agent on an environment, greedily by default."""

    env: str = "at2po/MiniWiki-v0"
    """Gymnasium id of the environment."""
    env_options: Options = field(default_factory=dict)
    """Keyword arguments of the environment; on the test split if there is one."""
    model: str = "mini"
    """A folder, a name on the model hub, `mini`, `smollm2-135m`, `scripted` (generated worlds)."""
    chat_template: Literal["model", "qwen3"] = "model"
    """The model's own chat template, or one for Qwen3 that keeps the thinking of every turn."""
    limit: int = 300
    """Questions to answer, the first ones of the set."""
    batch: int = 64
    """Episodes that run at a time."""
    max_prompt_tokens: int = 2000
    """Most tokens of a prompt."""
    max_response_tokens: int = 2048
    """Most tokens after the prompt, tool results included."""
    temperature: float = 0.0
    """Sampling temperature; 0 is greedy."""
    error_rate: float = 0.0
    """Chance that a turn of the scripted agent goes wrong."""
    seed: int = 0
    """Seed of the sampling."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of weights and activations."""
    out: Path = Path("runs/eval")
    """Folder for `episodes.jsonl` and `summary.json`; must not hold an evaluation already."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Compare a local copy of the question sets with what is published."""

    root: Path | None = None
    """Folder that holds `questions/<set>/<split>.jsonl`; by default `$AT2PO_DATA`."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """Grow the rollout tree of one question and show it."""

    train: TrainConfig = field(default_factory=lambda: load_config(TrainConfig, "demo"))
    """Model, environment, algorithm and limits, as for training."""
    index: int = 0
    """Number of the question in the set."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors in what the user gave end the process with code 2 and one message.

    Args:
        arguments: Words after `at2po`; None takes the process's own.

    Raises:
        SystemExit: With code 2 on wrong input, or where a run diverged.
    """
    handler = RichHandler(console=Console(stderr=True), show_path=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
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
    if not config.resume:
        _move_aside(Path(config.out))
    _train(config)


def evaluate(arguments: Sequence[str]) -> None:
    """Evaluate an agent and write its episodes and their summary."""
    from benchmarks.evaluate import evaluate as run
    from benchmarks.report import write_report

    config = parse_config(EvalConfig, arguments, prog="at2po eval")
    if (config.out / "episodes.jsonl").exists():
        raise FileExistsError(
            f"{config.out}: expected a folder without an evaluation, found episodes.jsonl; choose "
            "another folder with --out"
        )
    env_options = on_test_split(config.env, config.env_options)
    env = make_env(config.env, env_options)
    report = run(
        _agent(config, env),
        env,
        env_options=env_options,
        limit=config.limit,
        batch=config.batch,
        out=config.out,
    )
    _out.print_json(json.dumps(report.summary()))
    _out.print(f"episodes and summary: {config.out}; report: {write_report(config.out)}")


def report(arguments: Sequence[str]) -> None:
    """Write the report of a training run, an evaluation or trees, or what differs between two."""
    from benchmarks.report import ReportOptions, write_reports

    path = write_reports(tyro.cli(ReportOptions, args=arguments, prog="at2po report"))
    _out.print(f"report: {path}", soft_wrap=True)


def rollout(arguments: Sequence[str]) -> None:
    """Grow one tree and print it."""
    from at2po_agents.engines import TransformersEngine
    from at2po_agents.models import load_policy
    from at2po_agents.trainer import new_collector

    config = parse_config(RolloutConfig, arguments, prog="at2po rollout")
    settings = config.train
    env = make_env(settings.env, settings.env_options)
    model, tokenizer = load_policy(settings.model, settings.dtype, settings.chat_template)
    engine = TransformersEngine(model, tokenizer, max_batch=settings.max_batch)
    collector = new_collector(settings, env, engine, tokenizer)
    if not 0 <= config.index < len(env.questions):
        raise IndexError(f"index: expected 0 to {len(env.questions) - 1}, found {config.index}")
    question = env.questions[config.index]
    algorithm = settings.algorithm
    (tree,) = collector.collect([question], algorithm.expansion(), seed=settings.seed)
    algorithm.assign_credit(tree)
    _out.print(_drawing(tree, question))


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


def warmstart(arguments: Sequence[str]) -> None:
    """Make the mini model from nothing: tokenizer, demonstrations, supervised training."""
    from at2po_agents.warmstart import WarmStart, warm_start

    config = parse_config(WarmStart, arguments, prog="at2po warmstart")
    summary = warm_start(config)
    _out.print_json(json.dumps(summary))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "eval": evaluate,
    "report": report,
    "rollout": rollout,
    "data": data,
    "index": index,
    "serve": serve,
    "demo": demo,
    "warmstart": warmstart,
}
"""Sub-commands of `at2po`."""


def _train(config: TrainConfig) -> None:
    from at2po_agents.trainer import Trainer
    from benchmarks.report import write_report

    summary = Trainer(config).run()
    _out.print_json(json.dumps(summary))
    _out.print(f"report: {write_report(Path(config.out))}")


def _agent(config: EvalConfig, env: Any) -> Any:
    if config.model == "scripted":
        if not hasattr(env, "expert"):
            raise AgentError(
                f"expected an environment with a scripted agent, found {config.env}; "
                "MiniWiki, Calculator and Household have one"
            )
        return env.expert(error_rate=config.error_rate, seed=config.seed)
    from at2po_agents.agents import PolicyAgent
    from at2po_agents.engines import TransformersEngine
    from at2po_agents.models import load_policy

    model, tokenizer = load_policy(config.model, config.dtype, config.chat_template)
    check_dialect(env.core.dialect, tokenizer)
    return PolicyAgent(
        TransformersEngine(model, tokenizer, max_batch=config.batch),
        tokenizer,
        stop=env.core.dialect.stop,
        max_prompt_tokens=config.max_prompt_tokens,
        max_response_tokens=config.max_response_tokens,
        context=model.config.max_position_embeddings,
        temperature=config.temperature,
        seed=config.seed,
    )


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


def _move_aside(folder: Path) -> None:
    """Keep an earlier run under another name, so that nothing is lost or mixed."""
    if not (folder / "metrics.jsonl").exists():
        return
    number = 1
    while (old := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(old)
    _out.print(f"the earlier run is now in {old}")


def _usage() -> str:
    lines = [f"  {name:10} {(command.__doc__ or '').strip()}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: at2po COMMAND [--help]", *lines])


def _fail(message: str) -> None:
    Console(stderr=True).print(f"at2po: {message}", markup=False, soft_wrap=True)
    raise SystemExit(2)
