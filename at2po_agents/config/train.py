"""Settings of a run: frozen dataclasses, read from TOML, overridden on the command line.

Every command has one dataclass. `load_config` reads it from a TOML file or a preset, which may
extend another one; `parse_config` adds the command line, `dump_config` writes it back,
`override` changes some of its settings, `fingerprint` tells runs apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import tyro

from at2po_agents import algorithms
from at2po_agents.config.cluster import ClusterOptions
from at2po_agents.config.groups import (
    CheckpointOptions,
    EngineOptions,
    EvalOptions,
    ModelOptions,
    OptimOptions,
    RolloutOptions,
)
from at2po_agents.errors import ConfigError
from at2po_agents.monitoring.trackers import TrackerName
from at2po_agents.policy.lora_options import LoraOptions
from at2po_agents.settings import (
    PATHS,
    Choice,
    CountOrZero,
    Options,
    Seed,
    Settings,
    Table,
    choices,
    from_table,
    to_table,
    to_toml,
)
from retrieval.errors import nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PRESETS = Path(__file__).parent / "presets"

C = TypeVar("C", bound="DataclassInstance")

_DEFAULT = algorithms.ATPO.name
AlgorithmChoice = Annotated[
    algorithms.Algorithm, Choice(algorithms.find, algorithms.name_of, _DEFAULT)
]
"""An `algorithms.Algorithm`; in TOML the table [algorithm] with `name` and its settings."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """Train a search agent; the defaults are the paper's run, on the embedded model and world.

    Source: `ATPO/scripts/ATPO_qwen3_4B.sh` of the code released with AT²PO (arXiv 2601.04767), for
    steps, questions, mini-batches, optimizer, lengths and temperature.
    """

    env: str = "at2po/MiniWiki-v0"
    """Gymnasium id of the environment."""
    env_options: Options = field(default_factory=dict)
    """Keyword arguments of the training environment."""
    algorithm: AlgorithmChoice = field(default_factory=algorithms.ATPO)
    """How trees grow, how turns are credited, what is minimised."""
    steps: CountOrZero = 240
    """Training steps; each rolls out one batch of questions and learns from it."""
    seed: Seed = 0
    """Seed from which every draw of the run is derived."""
    out: Path = Path("runs/train")
    """Folder of the run."""
    resume: bool = False
    """Resume from the last good checkpoint in the folder."""
    tracker: TrackerName = "none"
    """Where metrics go beside `metrics.jsonl` and TensorBoard: wandb or trackio, if installed."""
    model: ModelOptions = field(default_factory=ModelOptions)
    """The policy to start from."""
    rollout: RolloutOptions = field(default_factory=RolloutOptions)
    """What a training step rolls out."""
    optim: OptimOptions = field(default_factory=OptimOptions)
    """The optimizer's steps and the memory that they take."""
    eval: EvalOptions = field(default_factory=EvalOptions)
    """Evaluations during training."""
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    """Checkpoints of the run."""
    engine: EngineOptions = field(default_factory=EngineOptions)
    """What generates."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    """A low-rank adapter that is trained in place of all weights."""
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    """Processes that share the work, started by Ray."""

    def __post_init__(self) -> None:
        """Check what has to fit together, too."""
        super().__post_init__()
        updates, trees = self.optim.mini_batches, self.rollout.questions_per_step
        if updates > trees:
            raise ConfigError(
                f"optim.mini_batches: expected at most rollout.questions_per_step = {trees}, found "
                f"{updates}; every update needs a tree"
            )
        if self.cluster.staleness and self.algorithm.importance_cap == 0:
            raise ConfigError(
                f"cluster.staleness: expected 0 without a correction for older weights, found "
                f"{self.cluster.staleness}; set algorithm.importance_cap, usually to 2"
            )


RESUMABLE = frozenset(
    "steps eval.every checkpoint out resume model.device optim.token_budget optim.offload "
    "engine.max_batch tracker rollout.tool_wait_timeout_s rollout.overlong_prompts cluster".split()
)
"""Settings of `TrainConfig` that may differ between a run and its continuation."""


def load_config(cls: type[C], source: str | Path | None = None) -> C:
    """Return the settings in a TOML file.

    Args:
        cls: A frozen dataclass all of whose fields have defaults.
        source: A path, the name of a preset in `presets/`, or None for the defaults.

    Raises:
        ConfigError: No such file or preset, malformed TOML, an unknown key, a value of the wrong
            type or outside its range.
    """
    if source is None:
        return cls()
    path = _find(source)
    try:
        table = _read(path, dict(choices(cls)))
        try:
            return from_table(cls, table)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
    except RecursionError:
        raise ConfigError(
            f"{path}: expected settings, found tables or arrays in each other without end; take "
            "them out"
        ) from None


def parse_config(cls: type[C], arguments: Sequence[str] | None, *, prog: str) -> C:
    """Return the settings of `--config NAME_OR_PATH`, overridden by the other arguments.

    `--algorithm NAME` (`--train.algorithm` where the settings of a training are part of others)
    picks an algorithm with its own defaults, unless the file already sets that one up.

    A wrong argument or file ends the process: exit code 2, and a message with the nearest name.

    Args:
        cls: As for `load_config`.
        arguments: The command line after the command's name; None takes the process's own.
        prog: The command's name, for messages.

    Raises:
        SystemExit: After `--help`, or as said above.
    """
    picker = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    picker.add_argument("--config", metavar="NAME_OR_PATH")
    chosen_by_name = dict(choices(cls))
    for path in chosen_by_name:
        picker.add_argument(f"--{path}", dest=path)
    picked, rest = picker.parse_known_args(arguments)
    try:
        default = load_config(cls, picked.config)
        for path, choice in chosen_by_name.items():
            chosen = choice.find(name) if (name := vars(picked)[path]) else None
            if chosen and type(attrgetter(path)(default)) is not chosen:
                default = override(default, {path: chosen()})
    except ConfigError as error:
        picker.error(str(error))
    return tyro.cli(
        cls,
        prog=prog,
        description=f"{(cls.__doc__ or prog).splitlines()[0]}\n\n--config NAME_OR_PATH reads the "
        f"settings of a preset ({', '.join(_presets())}) or a TOML file; options override them."
        + "".join(
            f"\n\n--{path} NAME picks one of {', '.join(algorithms.REGISTRY)} or module:Class."
            for path in chosen_by_name
        ),
        args=rest,
        default=default,
        registry=PATHS,
    )


def dump_config(config: object) -> str:
    """Return the settings as TOML; `load_config` reads them back equal."""
    return to_toml(to_table(config))


def override(config: C, changes: Mapping[str, object]) -> C:
    """Return the settings with some of them changed.

    Args:
        config: A dataclass instance.
        changes: Dotted name to value, such as {"steps": 5, "optim.learning_rate": 1e-3}.

    Raises:
        ConfigError: An unknown name, or settings that do not fit together.
    """
    known = list(_names(config))
    for name in changes:
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}; {nearest(name, known)}")
    inner: dict[str, dict[str, object]] = {}
    for name, value in changes.items():
        group, _, rest = name.partition(".")
        inner.setdefault(group, {})[rest] = value
    values = {}
    for group, found in inner.items():
        value = found.pop("", vars(config)[group])
        values[group] = override(cast(C, value), found) if found else value
    return replace(config, **values)


def fingerprint(config: DataclassInstance, ignore: Collection[str] = ()) -> str:
    """Return the SHA-256 (hex) of the settings, independent of the order of keys.

    Args:
        config: A dataclass instance.
        ignore: Dotted names of settings and groups that do not count, such as "eval.every".
    """
    counted = to_table(from_table(type(config), to_table(config)))
    for name in ignore:
        *groups, last = name.split(".")
        table = counted
        for group in groups:
            table = cast(Table, table[group])
        table.pop(last, None)
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


def _names(config: object, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings and groups, such as "optim" and "optim.offload"."""
    for name, value in vars(config).items():
        yield prefix + name
        if is_dataclass(value):
            yield from _names(value, f"{prefix}{name}.")


def _read(path: Path, choices: Collection[str], above: tuple[Path, ...] = ()) -> dict[str, object]:
    """Return a TOML file laid over the one that it `extends`."""
    if path in above:
        raise ConfigError(f"{path}: expected files that extend others, found a circle; break it")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"{path}: expected TOML, found: {error}") from error
    base = table.pop("extends", None)
    if base is None:
        return table
    try:
        below = _find(base if base in _presets() else path.parent / str(base))
    except ConfigError as error:
        raise ConfigError(f"{path}: extends: {error}") from error
    return _laid_over(_read(below, choices, (*above, path)), table, choices)


def _laid_over(
    below: Mapping[str, object],
    table: Mapping[str, object],
    choices: Collection[str],
    prefix: str = "",
) -> dict[str, object]:
    """Merge tables; a choice by another `name` takes the place of the one below."""
    merged = dict(below)
    for key, value in table.items():
        old, path = below.get(key), prefix + key
        merged[key] = value
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            if path not in choices or value.get("name") in (None, old.get("name", _DEFAULT)):
                merged[key] = _laid_over(old, value, choices, f"{path}.")
    return merged


def _presets() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def _find(source: str | Path) -> Path:
    """Return the TOML file that a preset's name or a path stands for."""
    preset = PRESETS / f"{source}.toml"
    path = preset if str(source) in _presets() else Path(source)
    if not path.is_file():
        raise ConfigError(
            f"{source}: expected a TOML file or a preset, found neither; "
            + nearest(str(source), _presets())
        )
    return path
