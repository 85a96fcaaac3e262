"""Tables of what steps cost on many GPUs: Markdown from `scale.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_PARTS = {
    "sampling": ("decode", "prefill", "host"),
    "learning": ("learn", "optimizer"),
    "tools": ("tools",),
    "stragglers": ("stragglers",),
    "imbalance": ("imbalance",),
    "exchange": ("exchange",),
    "weights": ("weights", "switch"),
    "the other side": ("other side",),
}
"""What time goes to in the table -> parts of timelines."""
_LABELS = {
    "turn": "tokens per turn",
    "turn_spread": "spread of their logarithm",
    "tool_seconds": "seconds per tool call",
    "step_overhead": "seconds per engine step beside the GPU's work",
    "decode_use": "share of the memory's speed in decoding",
    "train_use": "share of the FLOPs in training",
    "overlap": "share of computing that exchanges hide behind",
    "handover": "bytes per second of weights to collectors",
    "switch": "seconds to put an engine to sleep or wake it",
}
_SHOWN = ("released", "ours", "stale")


def scale(result: Mapping[str, Any]) -> str:
    """Return the tables of `scale.json`.

    Args:
        result: Its content.

    Returns:
        Markdown: seconds per step by system and number of GPUs, for both kinds of steps; where the
        time goes; what depends on the assumptions; what was predicted of real steps.
    """
    lines = []
    for kind, what in (
        ("fixed", "The paper's step, **{} questions** however many GPUs"),
        ("growing", "Steps that **grow with the GPUs**, {} questions on each"),
    ):
        sizes = result[kind]
        gpus, first = next(iter(sizes.items()))
        count = first["questions"] if kind == "fixed" else first["questions"] // int(gpus)
        lines += [*_seconds(sizes, what.format(count)), ""]
    lines += [*_shares(result["growing"]), ""]
    lines += [*_sensitivity(result["sensitivity"]), ""]
    if result["calibration"]:
        lines += _workers(result["workers"], result["calibration"]["fits"])
        machine = result["environment"]
        used = f"{machine['cores']} cores of an {machine['cpu']}, of which a process used one."
        lines += ["", used]
    return "\n".join(lines).rstrip()


def _seconds(sizes: Mapping[str, Any], what: str) -> list[str]:
    names = max((size["systems"] for size in sizes.values()), key=len)
    heads = (f"{int(gpus):,} GPU{'s' if gpus != '1' else ''}" for gpus in sizes)
    lines = [f"{what}; seconds per step:", "", f"| | {' | '.join(heads)} |"]
    lines.append("|---|" + "---:|" * len(sizes))
    for name, row in names.items():
        cells = (_cell(size["systems"].get(name)) for size in sizes.values())
        lines.append(f"| {row['label']} | {' | '.join(cells)} |")
    return lines


def _cell(row: Mapping[str, Any] | None) -> str:
    """Seconds, and where devices are divided (labels begin with dots) how many collect."""
    if row is None:
        return ""
    divided = f" ({row['collectors']:,} + {row['learners']:,})" if row["label"][0] == "…" else ""
    return f"{row['seconds']:,.1f}{divided}"


def _shares(sizes: Mapping[str, Any]) -> list[str]:
    lines = [
        "Where the GPUs' time goes, in per cent; how busy collectors and learners are (the same "
        "GPUs where there is no split):",
        "",
        f"| GPUs | | {' | '.join(_PARTS)} | collectors busy | learners busy |",
        "|---:|---|" + "---:|" * (len(_PARTS) + 2),
    ]
    for gpus, size in sizes.items():
        for name in _SHOWN:
            if row := size["systems"].get(name):
                found = [
                    sum(row["shares"].get(part, 0.0) for part in parts) for parts in _PARTS.values()
                ]
                found += [row["collectors_busy"], row["learners_busy"]]
                cells = " | ".join(f"{100 * share:.0f}" for share in found)
                lines.append(f"| {int(gpus):,} | {row['label']} | {cells} |")
    return lines


def _sensitivity(found: Mapping[str, Any]) -> list[str]:
    ways = "event loop, packed | … apart and one update behind"
    lines = [
        f"How many times as long a step takes with barriers and rows, on {found['gpus']:,} GPUs "
        f"with {found['questions']:,} questions:",
        "",
        f"| assumption | lower | {ways} | higher | {ways} |",
        "|---|---:|---:|---:|---:|---:|---:|",
        f"| all as assumed | | {_ratios([found['assumed']])} | | | |",
    ]
    for name, both in found["varied"].items():
        cells = " | ".join(f"{each['value']:g} | {_ratios([each])}" for each in both)
        lines.append(f"| {_LABELS[name]} | {cells} |")
    return lines


def _ratios(rows: Sequence[Mapping[str, float]]) -> str:
    return " | ".join(f"{row['ours']:.2f} | {row['stale']:.2f}" for row in rows)


def _workers(found: Mapping[str, Any], fits: Mapping[str, Any]) -> list[str]:
    together = found["together"]
    missed = (
        f"{100 * fits[part]['left_out_error_median']:.0f} %" for part in ("rollout", "update")
    )
    lines = [
        "Training runs of several processes (Ray, gloo), one thread each; means of the steps after "
        "the first, in seconds. Costs are fitted to steps of one process; predicted from a fit to "
        f"all others, half of these are within {' (rollout) and '.join(missed)} (update). What two "
        "processes cost each other on this machine comes from a run of two and two that is not "
        f"among these: {1000 * together['exchange']:.0f} ms for every exchange between ranks, and "
        f"{together['crowding']:.2f} times the seconds of collecting. A step also evaluates, and "
        "hands over trees and weights:",
        "",
        "| collectors | ranks | questions | leaves | collect | simulated | error | update "
        "| simulated | error | step | simulated | error |",
        "|---:|" + "---:|" * 12,
    ]
    for row in found["runs"]:
        sizes = (row["collectors"], row["learners"], row["questions"])
        cells = [*map(str, sizes), str(row["chains"] + 2 * row["beam"])]
        for stage in ("collect", "update", "step"):
            measured, predicted, error = (
                row[stage][name] for name in ("measured", "predicted", "error")
            )
            cells += [f"{measured:.2f}", f"{predicted:.2f}", f"{100 * error:+.0f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
