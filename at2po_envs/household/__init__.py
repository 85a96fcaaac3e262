"""Household: find things in a house and bring them where they belong, command by command."""

from at2po_envs.household.core import HouseholdRules, HouseholdState, HouseholdTags
from at2po_envs.household.env import HouseholdEnv
from at2po_envs.household.experts import PlannerAgent
from at2po_envs.household.tasks import SIZES, draw_questions

__all__ = [
    "SIZES",
    "HouseholdEnv",
    "HouseholdRules",
    "HouseholdState",
    "HouseholdTags",
    "PlannerAgent",
    "draw_questions",
]
