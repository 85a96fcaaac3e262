"""The algorithms, by name: one file each, and a register for those of others."""

from __future__ import annotations

import pkgutil
from dataclasses import MISSING, fields, is_dataclass

from at2po_agents.algorithms.aepo import AEPO
from at2po_agents.algorithms.arpo import ARPO
from at2po_agents.algorithms.atpo import ATPO
from at2po_agents.algorithms.base import Algorithm, ClippedLoss
from at2po_agents.algorithms.dapo import DAPO
from at2po_agents.algorithms.grpo import GRPO
from at2po_agents.algorithms.gspo import GSPO
from at2po_agents.algorithms.react import ReAct
from at2po_agents.algorithms.tree_grpo import TreeGRPO
from at2po_agents.errors import ConfigError
from retrieval.errors import nearest

_OURS: tuple[type[Algorithm], ...] = (ATPO, GRPO, DAPO, GSPO, ARPO, AEPO, TreeGRPO, ReAct)

#: Every algorithm that has a short name.
REGISTRY: dict[str, type[Algorithm]] = {cls.name: cls for cls in _OURS}


def register_algorithm(name: str, cls: type[Algorithm]) -> None:
    """Give an algorithm a short name, for settings and the command line of this process.

    Args:
        name: Without a colon and not in use.
        cls: A frozen dataclass that extends `Algorithm`, and all of whose fields have defaults.

    Raises:
        ConfigError: If the name is taken by another class or holds a colon, or the class is no
            algorithm.
    """
    _checked(name, cls)
    if ":" in name or REGISTRY.get(name, cls) is not cls:
        raise ConfigError(
            f"a new algorithm needs a name without a colon that is none of {', '.join(REGISTRY)}, "
            f"found {name!r}; choose another"
        )
    REGISTRY[name] = cls


def find(name: str) -> type[Algorithm]:
    """Return the class of an algorithm.

    Args:
        name: A key of `REGISTRY`, or `module:Class` to import. The class is not called.

    Raises:
        ConfigError: If there is none by that name (the message holds the nearest one), or what is
            there is no algorithm.
    """
    if ":" in name:
        try:
            found = pkgutil.resolve_name(name)
        except (Exception, SystemExit) as error:  # a module of others may do anything meanwhile
            module = name.partition(":")[0]
            absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(
                f"{error.name}."
            )
            raise ConfigError(
                f"algorithm {name!r}: expected an importable module:Class, found "
                f"{type(error).__name__}: {error}; "
                + (
                    "put the module on PYTHONPATH"
                    if absent
                    else f"mend {module}, or the class's name"
                )
            ) from error
        return _checked(name, found)
    if name not in REGISTRY:
        raise ConfigError(
            f"algorithm: expected a known name or module:Class, found {name!r}; "
            + nearest(name, REGISTRY)
        )
    return REGISTRY[name]


def _checked(name: str, found: object) -> type[Algorithm]:
    """Refuse what is no class of an algorithm with a default for every setting."""
    parts = ("name", "expansion", "assign_credit", "loss")
    if not (isinstance(found, type) and issubclass(found, Algorithm) and is_dataclass(found)):
        raise ConfigError(
            f"algorithm {name!r}: expected a dataclass with {', '.join(parts)} that extends "
            f"at2po_agents.algorithms.Algorithm, found {found!r}; let it extend that class, or "
            "ClippedLoss"
        )
    lacking = [p for p in parts if not hasattr(found, p) or p in found.__abstractmethods__]
    if lacking:
        raise ConfigError(
            f"algorithm {name!r}: expected a dataclass with {', '.join(parts)}, found {found!r} "
            f"without {', '.join(lacking)}; see at2po_agents.algorithms.Algorithm"
        )
    unset = [
        field.name
        for field in fields(found)
        if field.init and field.default is MISSING and field.default_factory is MISSING
    ]
    if unset:
        raise ConfigError(
            f"algorithm {name!r}: expected a default for every setting, found none for "
            f"{', '.join(unset)}"
        )
    return found


def name_of(algorithm: Algorithm) -> str:
    """Return a name under which `find` finds the algorithm's class."""
    cls = type(algorithm)
    short = next((name for name, known in REGISTRY.items() if known is cls), None)
    # A foreign class is written in full, so that another process finds it without registration.
    if short and (cls in _OURS or cls.__module__ == "__main__" or "<" in cls.__qualname__):
        return short
    return f"{cls.__module__}:{cls.__qualname__}"


__all__ = [
    "AEPO",
    "ARPO",
    "ATPO",
    "DAPO",
    "GRPO",
    "GSPO",
    "REGISTRY",
    "Algorithm",
    "ClippedLoss",
    "ReAct",
    "TreeGRPO",
    "find",
    "name_of",
    "register_algorithm",
]
