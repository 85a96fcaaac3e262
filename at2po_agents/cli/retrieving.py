"""Commands about questions and passages: data, index, serve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from rich.table import Table

from at2po_agents.cli.terminal import out, pick, show_json
from at2po_agents.settings import PATHS


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Compare a local copy of the question sets with what is published."""

    root: Path | None = None
    """Folder that holds `questions/<set>/<split>.jsonl`; by default `$AT2PO_DATA`."""


def data(arguments: Sequence[str]) -> None:
    """Look at local question sets: `list` them, or `verify` them against what is published."""
    actions = {
        "list": "How many questions there are of each set, and how many are published.",
        "verify": "Compare every question with what is published; code 1 if any differs.",
    }
    action, rest = pick("at2po data", actions, arguments)
    config = tyro.cli(DataConfig, args=rest, prog=f"at2po data {action}", registry=PATHS)
    if action == "verify":
        _verify(config.root)
    else:
        _list(config.root)


def index(arguments: Sequence[str]) -> None:
    """Retrieval indexes: `build` one, say what one is (`info`), `search` with one."""
    from retrieval import building

    def search(options: building.IndexSearch) -> list[list[dict[str, object]]]:
        return [[asdict(passage) for passage in found] for found in building.search_index(options)]

    actions: dict[str, tuple[type[object], Callable[..., object]]] = {
        "build": (building.IndexBuild, building.build_index),
        "info": (building.IndexInfo, building.index_info),
        "search": (building.IndexSearch, search),
    }
    about = {name: str(options.__doc__) for name, (options, _) in actions.items()}
    action, rest = pick("at2po index", about, arguments)
    options, run = actions[action]
    show_json(run(tyro.cli(options, args=rest, prog=f"at2po index {action}", registry=PATHS)))


def serve(arguments: Sequence[str]) -> None:
    """Serve a retriever over HTTP, to Search-R1's clients and ours."""
    from retrieval import open_retriever
    from retrieval.http.server.run import ServeOptions
    from retrieval.http.server.run import serve as run

    options = tyro.cli(ServeOptions, args=arguments, prog="at2po serve", registry=PATHS)
    run(options, open_retriever)


def _verify(root: Path | None) -> None:
    from at2po_envs.question_sets.manifest import verify

    differences = verify(root)
    for difference in differences:
        out.print(difference, soft_wrap=True)
    if differences:
        raise SystemExit(1)
    out.print("all question sets are as published")


def _list(root: Path | None) -> None:
    from at2po_envs.question_sets.manifest import survey

    table = Table("set", "split", "found", "published", "difference")
    for report in survey(root):
        counts = (report.found, report.published)
        shown = ("–" if count is None else f"{count:,}" for count in counts)
        table.add_row(report.set_name, report.split, *shown, report.difference)
    out.print(table)
