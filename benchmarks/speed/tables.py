"""Tables of how fast rollouts and steps are: Markdown from recorded figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LABELS = {
    "ours": "at2po",
    "ours, no reuse": "at2po, every context recomputed",
    "generate loop": "`model.generate` once a round",
    "trl": "TRL `GRPOTrainer`",
    "vllm": "at2po's collector on vLLM",
}
_FACTORS = {
    "questions": ("questions", "questions"),
    "leaves": ("leaves per tree", "leaves_per_tree"),
    "depth": ("turns per episode", "depth"),
    "passages": ("passages per search", "passages"),
}
_TERMS = {
    "engine_steps": "step of the engine",
    "turns": "turn",
    "sampled": "sampled token",
    "prefilled": "prefilled token",
    "rollout_pairs": "attended pair of tokens, rollout",
    "optimizer_steps": "optimizer step",
    "trained": "trained token",
    "trained_pairs": "attended pair of tokens, update",
}
_GOAL = 0.85
"""Share of the ratio of row tokens to unique tokens that should arrive as speed."""


def rollout_speed(result: Mapping[str, Any]) -> str:
    """Return the table of `rollout_speed.json`.

    Args:
        result: Its content.

    Returns:
        For each setting a Markdown table, then what is absent, and the machine.
    """
    lines = []
    for setting in result["settings"].values():
        lines += [
            f"**{setting['what'][0].upper()}{setting['what'][1:]}**; {setting['questions']} "
            f"questions per collection, medians of {setting['repeats']}",
            "",
            "| | sampled tokens/s | range | seconds | sampled | inserted | prefilled | reused |",
            "|---|" + "---:|" * 7,
        ]
        for way, row in setting["ways"].items():
            low, high = row["sampled_per_second_range"]
            lines.append(
                f"| {_named(way, result)} | {row['sampled_per_second']:,.0f} | {low:,.0f} to "
                f"{high:,.0f} | {row['seconds']:.2f} | {row['sampled']:,.0f} | "
                f"{row['inserted']:,.0f} | {row['prefilled']:,.0f} | {row['reused']:,.0f} |"
            )
        lines.append("")
    absent = [f"Absent: {name} ({why})." for name, why in result["absent"].items()]
    return "\n".join([*lines, *absent, _machine(result)])


def train_speed(result: Mapping[str, Any]) -> str:
    """Return the table of `train_speed.json`.

    Args:
        result: Its content.

    Returns:
        A Markdown table, and the machine.
    """
    lines = [
        "| trees | | row tokens per unique token | flat, s | packed, s | speed-up | of the ratio | "
        "flat, MiB | packed, MiB |",
        "|---|---:|" + "---:|" * 7,
    ]
    for case in result["cases"]:
        seconds, peak = case["seconds"], case["peak_mib"]
        lines.append(
            f"| {case['shape']} | {case['trees']} | {case['ratio']:.2f} | {seconds['flat']:.2f} | "
            f"{seconds['packed']:.2f} | {case['speed_up']:.2f} | {case['speed_up_of_ratio']:.2f} | "
            f"{peak['flat']:,.0f} | {peak['packed']:,.0f} |"
        )
    missed = "; ".join(
        f"{case['shape']}, {case['trees']}"
        for case in result["cases"]
        if case["speed_up_of_ratio"] < _GOAL
    )
    goal = f"Aimed at: a speed-up of at least {_GOAL:.2f} of the ratio. Not met: "
    return "\n".join([*lines, "", f"{goal}{missed or 'nowhere'}.", "", _machine(result)])


def scaling(result: Mapping[str, Any]) -> str:
    """Return the tables of `scaling.json`.

    Args:
        result: Its content.

    Returns:
        Markdown: growth by factor, the fitted costs, what a step of the paper costs.
    """
    return "\n".join(
        [
            *_growth(result["factors"]),
            "",
            *_fits(result["fits"]),
            "",
            *_bill(result["paper_step"]),
            "",
            _machine(result),
        ]
    )


def _growth(factors: Mapping[str, Any]) -> list[str]:
    lines = [
        "| factor | | sampled | trained | longest row | rollout, s | update, s | peak, MiB |",
        "|---|" + "---:|" * 7,
    ]
    for name, rows in factors.items():
        label, key = _FACTORS[name]
        lines += [
            f"| {label} | {row[key]:g} | {row['sampled']:,.0f} | {row['trained']:,.0f} | "
            f"{row['longest_row']:,.0f} | {row['rollout_seconds']:.2f} | "
            f"{row['update_seconds']:.2f} | {row['peak_mib']:,.0f} |"
            for row in rows
        ]
    return lines


def _fits(fits: Mapping[str, Any]) -> list[str]:
    lines = ["| fitted cost, µs | rollout | update |", "|---|---:|---:|"]
    costs = [fits[part]["microseconds_per"] for part in ("rollout", "update")]
    for term, label in _TERMS.items():
        cells = (f"{cost[term]:,.4g}" if term in cost else "" for cost in costs)
        lines.append(f"| per {label} | {' | '.join(cells)} |")
    for key, label in (
        ("r2", "R²"),
        ("left_out_error_median", "median relative error on a point left out"),
        ("left_out_error_max", "largest relative error on a point left out"),
    ):
        lines.append(f"| {label} | {fits['rollout'][key]:.3f} | {fits['update'][key]:.3f} |")
    return lines


def _bill(step: Mapping[str, Any]) -> list[str]:
    labels = {
        "shared": "all shared",
        "chains": "shared along chains",
        "nothing": "nothing shared",
    }
    bills = {label: step["bill"][way] for way, label in labels.items()}
    heads = (f"{label}: tokens | PFLOP" for label in bills)
    lines = [f"| Qwen3-4B step | {' | '.join(heads)} |", "|---|" + "---:|---:|" * len(bills)]
    for part in step["bill"]["shared"]:
        cells = []
        for parts in bills.values():
            tokens = parts[part].get("tokens")
            cells += [f"{tokens:,}" if tokens else "", f"{parts[part]['tflops'] / 1e3:,.2f}"]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    assumed = step["assumed"]
    return [
        *lines,
        "",
        f"{assumed['prompts']} prompts, {step['leaves']:,} leaves of {step['turns_per_leaf']:.2f} "
        f"turns; assumed: prompts of {assumed['prompt']} tokens, turns of {assumed['turn']}, "
        f"results of {assumed['result']}, forks at random turns.",
    ]


def _named(way: str, result: Mapping[str, Any]) -> str:
    versions = result["peers"].get(way, {})
    found = next((v for name, v in versions.items() if name.startswith(way)), "")
    return f"{_LABELS[way]} {found}".strip()


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["environment"]
    return (
        f"{machine['cores']} cores of an {machine['cpu']}, {machine['torch_threads']} threads; "
        f"load average at the start {result['load_average']:.1f}."
    )
