"""How torch's threads wait for each other, chosen before torch is loaded."""

from __future__ import annotations

_SPINS = "GOMP_SPINCOUNT"
_CHOSEN_BY_USER = (_SPINS, "OMP_WAIT_POLICY")


def choose() -> None:
    """Placeholder."""
