"""The most important figures of a folder, as they are shown at the top of its page."""

from __future__ import annotations

from benchmarks.evaluation.records import Record

Tile = tuple[str, str]
"""A figure and what it is."""


def training_tiles(summary: Record, first: Record, last: Record) -> list[Tile]:
    """Return the figures of a training run.

    Args:
        summary: Its summary.
        first: The row of its first evaluation in `metrics.jsonl`.
        last: The row of its last one.

    Returns:
        The figures.
    """
    gain = 100 * (last["eval/em"] - first["eval/em"])
    changes = (
        ("F1", "f1", ".3f"),
        ("format", "format_rate", ".1%"),
        ("searches", "searches", ".2f"),
        ("turns", "turns", ".2f"),
    )
    return [
        (f"{first['eval/em']:.1%} → {last['eval/em']:.1%}", f"greedy EM ({gain:+.1f} points)"),
        (f"{last['eval/questions']:,}", "evaluation questions"),
        (f"{summary['steps']:,}", "training steps"),
        (f"{summary['sampled_tokens']:,}", "sampled tokens"),
        *([(_duration(summary["seconds"]), "wall-clock time")] if "seconds" in summary else []),
        *(
            (f"{first[f'eval/{key}']:{form}} → {last[f'eval/{key}']:{form}}", name)
            for name, key, form in changes
        ),
    ]


def evaluation_tiles(figures: Record) -> list[Tile]:
    """Return the figures of an evaluation.

    Args:
        figures: Its summary.

    Returns:
        Those of the figures that it has.
    """
    shown = (
        ("exact match", "em", ".1%"),
        ("questions", "questions", ",d"),
        ("F1", "f1", ".3f"),
        ("cover-EM", "cover_em", ".1%"),
        ("searches an episode", "searches", ".2f"),
        ("turns an episode", "turns", ".2f"),
        ("sampled tokens", "tokens", ",d"),
    )
    found = [
        (f"{figures[key]:{form}}", name)
        for name, key, form in shown
        if figures.get(key) is not None
    ]
    failed = (
        [(f"{figures['failed']:,d}", "failed, counted as wrong")] if figures.get("failed") else []
    )
    return [*found[:1], *failed, *found[1:]]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
