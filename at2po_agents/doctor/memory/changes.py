"""Which settings to change so that a training fits, the cheapest changes first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from at2po_agents.doctor.memory.estimate import estimates
from at2po_agents.doctor.memory.plan import Gpus, Plan
from at2po_agents.policy.sizes import Decoder

Changes = dict[str, Any]
"""Fields of `Plan` with their new values."""
LORA_RANK = 16
MOST_GPUS = 64
PER_MACHINE = 8  # more GPUs than these are more machines


def fits(plan: Plan, sizes: Decoder) -> bool:
    """Return whether every GPU of a plan has the memory that it needs."""
    return all(estimate.fits for estimate in estimates(plan, sizes))


def cheapest_changes(plan: Plan, sizes: Decoder, without: Collection[str] = ()) -> Changes | None:
    """Return the fields to change, with their values, so that a plan fits.

    Fields are changed in `ORDER`, each step by step to its end before the next, until the plan
    fits. Then, from the last field to the first, each goes back as far as it can.

    Args:
        plan: A plan that does not fit.
        sizes: The model's sizes.
        without: Fields that must stay as they are.

    Returns:
        None if no change that is known here makes it fit.
    """
    ladder = {name: steps(plan) for name, steps in _STEPS.items() if name not in without}
    changed = plan
    for name, value in ((name, value) for name, steps in ladder.items() for value in steps):
        changed = replace(changed, **Changes({name: value}))
        if fits(changed, sizes):
            break
    else:
        return None
    for name, steps in reversed(ladder.items()):
        for value in (vars(plan)[name], *steps):
            if fits(milder := replace(changed, **Changes({name: value})), sizes):
                changed = milder
                break
    names = (name for name in ORDER if vars(changed)[name] != vars(plan)[name])
    return {name: vars(changed)[name] for name in names}


def _halves(value: int, least: int) -> list[int]:
    found = []
    while value // 2 >= least:
        value //= 2
        found.append(value)
    return found


def _more(gpus: Gpus) -> list[str]:
    """Twice as many GPUs again and again, in more machines once one is full."""
    found = []
    while 2 * gpus.total <= MOST_GPUS:
        if 2 * gpus.each <= PER_MACHINE:
            gpus = gpus._replace(each=2 * gpus.each)
        else:
            gpus = gpus._replace(machines=2 * gpus.machines)
        found.append(str(gpus))
    return found


_STEPS: dict[str, Callable[[Plan], Sequence[object]]] = {
    "gradient_checkpointing": lambda plan: [True],
    # A row of the whole context must go through the model in one piece.
    "token_budget": lambda plan: _halves(plan.token_budget, plan.context),
    "sequences": lambda plan: _halves(plan.sequences, 1),
    "offload": lambda plan: [True],
    "lora": lambda plan: [] if plan.lora else [LORA_RANK],
    "gpus": lambda plan: _more(plan.machines),
}
"""The values that each field can take, the mildest first."""
ORDER = tuple(_STEPS)
"""Fields of `Plan` in the order in which they are changed: from what costs time alone to what
changes the training or needs a purchase."""
