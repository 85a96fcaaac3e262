"""Commands that measure: eval, compare, paper-check, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional

from at2po_agents.cli.terminal import out, show_json
from at2po_agents.settings import PATHS


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare finished evaluations on the same questions; the first is what others are held to."""

    evaluations: Positional[tuple[str, ...]]
    """Two or more: folders of evaluations or suites, or `name=folder,folder` for several seeds."""
    common: bool = False
    """Leave out questions that not all answered, rather than refuse."""
    out: Path = Path("runs/comparison")
    """Folder for `comparison.json` and `comparison.md`; those of an earlier one are replaced."""


@dataclass(frozen=True, kw_only=True)
class PaperCheckConfig:
    """Recompute the averages of the paper's Table 1 from its cells, and what its gaps can show."""


def evaluate(arguments: Sequence[str]) -> None:
    """Evaluate an agent and write its episodes and their summary."""
    from at2po_agents.config.train import parse_config
    from at2po_agents.evaluation.settings import EvalConfig, agent_factory

    config = parse_config(EvalConfig, arguments, prog="at2po eval")
    from at2po_agents.rollout.environments import check_id, make_env, on_test_split
    from benchmarks import evaluate as run
    from benchmarks import evaluate_suite

    ids = config.env.split(",")
    for env_id in ids:  # all of them, before the first set is played
        check_id(env_id)
    agent_for = agent_factory(config)
    from benchmarks.report import write_report  # needed at the end: better missed now

    asked = {name: vars(config)[name] for name in ("limit", "batch", "out", "retry_failed")}

    def options(env_id: str) -> dict[str, object]:
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
    show_json(summary)
    if failures:
        total = summary["questions"]
        out.print(
            f"{failures} of {total} episodes failed ({failures / total:.0%}) and count as wrong; "
            "--retry-failed tries again"
        )
    out.print(f"episodes, summary and card: {config.out}")
    for folder in folders:
        out.print(f"report: {write_report(folder)}")


def compare(arguments: Sequence[str]) -> None:
    """Compare evaluations on the same questions: differences, tests, what can be concluded."""
    from benchmarks.comparison.compare import compare as run
    from benchmarks.comparison.text import conclusions, note, rich_table, write
    from benchmarks.evaluation.reading import read_methods

    config = tyro.cli(CompareConfig, args=arguments, prog="at2po compare", registry=PATHS)
    comparison = run(read_methods(config.evaluations), common=config.common)
    write(comparison, config.out)
    out.print(rich_table(comparison))
    said = [*(f"warning: {each}" for each in comparison["warnings"]), *conclusions(comparison)]
    for line in [*said, note(comparison), f"comparison: {config.out}"]:
        out.print(line)


def paper_check(arguments: Sequence[str]) -> None:
    """Recompute the averages of the paper's Table 1 and list figures that do not fit together."""
    from benchmarks.paper.check import report

    tyro.cli(PaperCheckConfig, args=arguments, prog="at2po paper-check")
    for part in report():
        out.print(part)


def report(arguments: Sequence[str]) -> None:
    """Write the report of a training run, an evaluation or trees, or what differs between two."""
    from benchmarks.report import ReportOptions, write_reports

    path = write_reports(
        tyro.cli(ReportOptions, args=arguments, prog="at2po report", registry=PATHS)
    )
    out.print(f"report: {path}", soft_wrap=True)
