"""What memory a training needs, by arithmetic: whether it fits on GPUs, and what makes it fit."""

from at2po_agents.doctor.memory.changes import cheapest_changes, fits
from at2po_agents.doctor.memory.estimate import Estimate, estimates
from at2po_agents.doctor.memory.plan import Gpus, Plan, parse_plan
from at2po_agents.doctor.memory.terms import Term
from at2po_agents.doctor.memory.text import describe

__all__ = [
    "Estimate",
    "Gpus",
    "Plan",
    "Term",
    "cheapest_changes",
    "describe",
    "estimates",
    "fits",
    "parse_plan",
]
