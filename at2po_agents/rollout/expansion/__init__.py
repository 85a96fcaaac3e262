"""Where rollout trees grow: chains, tree searches, and branching while chains run."""

from at2po_agents.rollout.expansion.base import Chains, Expansion
from at2po_agents.rollout.expansion.branching import AEPOBranching, ARPOBranching
from at2po_agents.rollout.expansion.entropy import Entropy
from at2po_agents.rollout.expansion.forest import Forest, forest
from at2po_agents.rollout.expansion.tree_search import EntropyGuided, RandomExpansion

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
