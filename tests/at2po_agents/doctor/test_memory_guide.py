"""The guide to memory: its example is what the command prints, its table has all keys."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from at2po_agents import cli
from at2po_agents.cli import installation
from at2po_agents.cli.terminal import Terminal
from at2po_agents.doctor.memory.changes import ORDER
from at2po_agents.doctor.memory.plan import Plan
from at2po_agents.policy import loading as models

GUIDE = Path(__file__).parents[3] / "docs" / "how-to" / "plan-memory.md"
TEXT = GUIDE.read_text(encoding="utf-8")
WIDTH = 100


def test_the_example_is_what_the_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    ((command, output),) = re.findall(r"```console\n\$ at2po (.*?)\n(.*?)```", TEXT, re.DOTALL)
    monkeypatch.setattr(models, "_hub_problem", lambda name: OSError("no network"))
    console = Terminal(width=WIDTH, force_terminal=False)
    monkeypatch.setattr(installation, "out", console)
    with console.capture() as shown, pytest.raises(SystemExit):
        cli.main(shlex.split(command))
    lines = (line.rstrip() for line in shown.get().splitlines())
    assert "\n".join(lines) + "\n" == output


def test_all_keys_have_their_defaults() -> None:
    table = dict(re.findall(r"^\| (`.*?) \| `?(.*?)`? \|", TEXT, re.MULTILINE))
    plan = Plan(gpus="1x24GB")
    documented = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert documented == {field.name for field in fields(Plan)}
    shown = {name.strip("`"): default for name, default in table.items()}
    for name in ("model", "dtype", "context", "token_budget", "lora", "engine", "sequences"):
        assert shown[name] == str(getattr(plan, name))
    for name in ("gradient_checkpointing", "offload", "reference", "colocate"):
        assert shown[name] == ("on" if getattr(plan, name) else "off")
    assert shown["questions`, `leaves"] == f"{plan.questions}, {plan.leaves}"


def test_the_order_of_changes_is_that_of_the_code() -> None:
    (order,) = re.findall(r"The order: (.*?)\.\n", TEXT, re.DOTALL)
    assert tuple(re.findall(r"`(\w+)`", order)) == ORDER
