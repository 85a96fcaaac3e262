"""Where a rollout tree grows: an expansion for each method, and what they measure."""

from at2po_agents.rollout.expansion.base import Chains, Expansion
from at2po_agents.rollout.expansion.branching import AEPOBranching, ARPOBranching
from at2po_agents.rollout.expansion.entropy_guided import EntropyGuided, RandomExpansion
from at2po_agents.rollout.expansion.entropy_measures import Entropy
from at2po_agents.rollout.expansion.forest import Forest, forest

__all__ = [
    "AEPOBranching",
    "ARPOBranching",
    "Chains",
    "Entropy",
    "EntropyGuided",
    "Expansion",
    "Forest",
    "RandomExpansion",
    "forest",
]
