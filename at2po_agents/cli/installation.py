"""The command about this installation and its GPUs: doctor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import tyro

from at2po_agents.cli.terminal import out
from at2po_agents.settings import Options


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check this installation; with `--plan`, estimate what memory a training needs instead."""

    load: bool = False
    """Also load torch and the embedded model: shows that they work, and the GPUs torch can use."""
    plan: Options = field(default_factory=dict)
    """A training on GPUs, such as `model=Qwen/Qwen3-4B gpus=1x24GB`; code 1 if it does not fit."""


def doctor(arguments: Sequence[str]) -> None:
    """Check this installation, or with --plan whether a training fits on GPUs."""
    from at2po_agents.doctor.memory.plan import Plan

    keys = ", ".join(each.name for each in fields(Plan))
    about = f"{DoctorConfig.__doc__}\n\nKeys of a plan: {keys}; see docs/how-to/plan-memory.md."
    config = tyro.cli(DoctorConfig, args=arguments, prog="at2po doctor", description=about)
    if config.plan or "--plan" in arguments:
        _plan(config.plan)
        return
    from at2po_agents.doctor.installation import installation, table
    from at2po_envs.question_sets.questions import questions_folder
    from retrieval.lucene.java import find_java

    checks = installation(find_java, questions_folder, load=config.load)
    out.print(table(checks))
    if any(check.state == "broken" for check in checks):
        raise SystemExit(1)


def _plan(options: Options) -> None:
    """Print what memory a training needs; a plan that does not fit ends with code 1."""
    from at2po_agents.doctor.memory.changes import fits
    from at2po_agents.doctor.memory.plan import parse_plan
    from at2po_agents.doctor.memory.text import describe
    from at2po_agents.policy.sizes import find_sizes

    plan = parse_plan(options)
    sizes, source = find_sizes(plan.model)
    for part in describe(plan, sizes, source):
        out.print(part)
    if not fits(plan, sizes):
        raise SystemExit(1)
