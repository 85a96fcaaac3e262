"""A plan in words: tables of its terms and phases, whether it fits, what to change."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace

from rich.table import Table

from at2po_agents.doctor.memory.changes import ORDER, cheapest_changes, fits
from at2po_agents.doctor.memory.estimate import Estimate, cache_bytes, estimates
from at2po_agents.doctor.memory.learner_terms import offloaded_terms
from at2po_agents.doctor.memory.plan import Plan
from at2po_agents.doctor.memory.terms import ALWAYS, GIB, PHASES, UPDATE
from at2po_agents.policy.sizes import Decoder

NOTE = (
    "An estimate that was not checked on a GPU. Parameters, gradients, moments and what is kept "
    "for the backward pass are counted; the allowances are assumptions. Not counted: copies of "
    "weights on their way to engines, buffers of NCCL."
)
_WIDTH = 68  # columns of a command, without its indentation
_WHEN = {ALWAYS: "always", UPDATE: "update"}


def describe(plan: Plan, sizes: Decoder, source: str) -> Iterator[Table | str]:
    """Describe a plan for a terminal.

    Args:
        plan: The settings.
        sizes: The model's sizes.
        source: Where they come from.

    Yields:
        For each kind of GPU a table of terms, one of phases and a verdict; then what is kept in the
        CPU's memory, options of `at2po train`, and changes where it does not fit.
    """
    yield f"{plan.model}: {sizes.parameters:,} parameters, by {source}"
    for estimate in estimates(plan, sizes):
        yield _terms(estimate)
        yield _totals(estimate)
        yield _verdict(estimate)
        if plan.engine == "vllm" and "rollout" in estimate.totals:
            yield _room(plan, sizes, estimate)
    if fits(plan, sizes):
        yield from _command(plan, sizes)
    else:
        yield from _changes(plan, sizes)
    yield NOTE


def _terms(estimate: Estimate) -> Table:
    plural = "s" if estimate.count > 1 else ""
    table = Table(title=f"{estimate.count} GPU{plural} to {estimate.role}", title_justify="left")
    table.add_column("term")
    table.add_column("GiB", justify="right", no_wrap=True)
    table.add_column("when")
    table.add_column("how, per GPU")
    for term in estimate.terms:
        when = _WHEN.get(term.phases) or ", ".join(p for p in PHASES if p in term.phases)
        table.add_row(term.name, _gib(term.size), when, term.how)
    return table


def _totals(estimate: Estimate) -> Table:
    table = Table("phase", "GiB")
    table.columns[1].justify = "right"
    for phase, total in estimate.totals.items():
        table.add_row(PHASES[phase], _gib(total))
    return table


def _verdict(estimate: Estimate) -> str:
    totals, missing = estimate.totals, estimate.peak - estimate.memory
    phase = max(totals, key=lambda name: totals[name])
    said = f"{_gib(estimate.peak)} of {_gib(estimate.memory)} GiB in the phase {phase}"
    if estimate.fits:
        return f"It fits: at most {said}; {_gib(-missing)} GiB are left."
    return f"It does not fit: {said}; {_gib(missing)} GiB are missing."


def _room(plan: Plan, sizes: Decoder, estimate: Estimate) -> str:
    each = sizes.cache_bytes(plan.item) * plan.context
    left = estimate.memory - estimate.totals["rollout"]
    most = max(0, plan.sequences + left // each)
    return (
        f"Engine: {plan.sequences} sequences of {plan.context:,} tokens at a time were asked for, "
        f"there is room for {most}; more of shorter ones, and what they share is held once."
    )


def _changes(plan: Plan, sizes: Decoder) -> Iterator[str]:
    found = cheapest_changes(plan, sizes)
    if found is None:
        yield f"Nothing makes it fit (tried in this order: {', '.join(ORDER)})."
        return
    yield f"What makes it fit (tried in this order: {', '.join(ORDER)}): {_settings(found)}"
    yield from _command(replace(plan, **found), sizes)
    if "lora" in found and (whole := cheapest_changes(plan, sizes, without=("lora",))):
        yield f"Or, to train all weights rather than adapters: {_settings(whole)}"
        yield from _command(replace(plan, **whole), sizes)


def _settings(found: Mapping[str, object]) -> str:
    return " ".join(f"{name}={'on' if v is True else v}" for name, v in found.items())


def _command(plan: Plan, sizes: Decoder) -> Iterator[str]:
    """Say how to start a plan that fits, and what it takes and leaves."""
    peaks = (f"{_gib(each.peak)} of {_gib(each.memory)} GiB" for each in estimates(plan, sizes))
    yield f"  {' and '.join(peaks)} per GPU, with these options:"
    words = ["at2po train", *plan.options(cache_bytes(plan, sizes))]
    # Spaces that do not break keep an option and its values on one line.
    text = " ".join(word.replace(" ", "\xa0") for word in words)
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    yield "    " + " \\\n        ".join(lines).replace("\xa0", " ")
    if kept := list(offloaded_terms(plan, sizes)):
        parts = ", ".join(f"{term.name} {_gib(term.size)} ({term.how})" for term in kept)
        total = sum(term.size for term in kept)
        yield f"  CPU memory of each machine: {_gib(total)} GiB. {parts}"


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f}"
