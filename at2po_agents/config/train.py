"""Settings of a run: frozen dataclasses, read from TOML, overridden on the command line.

Every command has one dataclass. `load_config` reads it from a TOML file or a preset, which may
extend another one; `parse_config` adds the command line, `dump_config` writes it back,
`fingerprint` tells runs apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import tyro

from at2po_agents import algorithms
from at2po_agents.config.cluster import ClusterOptions
from at2po_agents.engines import EngineName
from at2po_agents.errors import ConfigError
from at2po_agents.monitoring.trackers import TrackerName
from at2po_agents.policy.lora_options import LoraOptions
from at2po_agents.settings import (
    COUNT,
    COUNT_OR_NONE,
    PATHS,
    SECONDS,
    SEED,
    Choice,
    Options,
    Range,
    check_ranges,
    choice_of,
    from_table,
    to_table,
    to_toml,
)
from retrieval.errors import nearest

PRESETS = Path(__file__).parent / "presets"

C = TypeVar("C")

_DEFAULT = algorithms.ATPO.name
AlgorithmChoice = Annotated[Any, Choice(algorithms.find, algorithms.name_of, _DEFAULT)]
"""An `algorithms.Algorithm`; in TOML the table [algorithm] with `name` and its settings."""

_RANGES = {
    "steps eval_every": COUNT_OR_NONE,
    "seed": SEED,
    "weight_decay": Range(0, 1),
    "learning_rate": Range(0, 1, above=True),
    "grad_clip": Range(0, 1e9, above=True),
    "temperature": Range(1e-6, 1e6),
    "patience_s": SECONDS,
    "questions_per_step mini_batches max_response_tokens max_prompt_tokens eval_questions "
    "save_every keep_checkpoints token_budget max_batch": COUNT,
}
"""Ranges of the fields of `TrainConfig`."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a search agent; the defaults are the paper's run, on the embedded model and world.

    Source: AT²PO (arXiv:2601.04767) and its released scripts, for steps, questions, mini-batches,
    optimizer, lengths and temperature.
    """

    env: str = "at2po/MiniWiki-v0"
    """Gymnasium id of the environment."""
    env_options: Options = field(default_factory=dict)
    """Keyword arguments of the training environment."""
    eval_env_options: Options = field(default_factory=dict)
    """Keyword arguments of the environment that evaluates; on the test split if there is one."""
    model: str = "mini"
    """Starting policy: a folder, a name on the model hub, or `mini` for the embedded one."""
    chat_template: Literal["model", "qwen3"] = "model"
    """The model's own chat template, or one for Qwen3 that keeps the thinking of every turn."""
    algorithm: AlgorithmChoice = field(default_factory=algorithms.ATPO)
    """How trees grow, how turns are credited, what is minimised."""
    steps: int = 240
    """Training steps; each rolls out one batch of questions and learns from it."""
    questions_per_step: int = 64
    """Questions, and so trees, per step."""
    mini_batches: int = 8
    """Optimizer updates per step; the step's trees are shared out among them."""
    learning_rate: float = 1e-6
    """Learning rate of AdamW, constant."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    grad_clip: float = 1.0
    """Upper limit on the gradient's norm."""
    max_response_tokens: int = 6192
    """Most tokens after the prompt, tool results included."""
    max_prompt_tokens: int = 2000
    """Most tokens of a prompt."""
    overlong_prompts: Literal["error", "drop"] = "error"
    """What is done about questions with longer prompts: refuse them before the first step
    (`error`), or leave them out (`drop`)."""
    temperature: float = 1.0
    """Sampling temperature of training rollouts; evaluation is greedy."""
    seed: int = 0
    """Seed from which every draw of the run is derived."""
    eval_every: int = 20
    """Steps between evaluations; 0 evaluates only before the first and after the last."""
    eval_questions: int = 300
    """Questions per evaluation."""
    save_every: int = 50
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep."""
    out: Path = Path("runs/train")
    """Folder of the run."""
    tracker: TrackerName = "none"
    """Where metrics go beside `metrics.jsonl` and TensorBoard: wandb or trackio, if installed."""
    resume: bool = False
    """Go on from the last good checkpoint in the folder."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Number format of weights and activations; float64 is for checks."""
    device: str = "auto"
    """Where the model lives: a device of torch; `auto` takes a CUDA device if there is one."""
    token_budget: int = 16384
    """Most tokens in one forward pass of the learner; a larger tree is cut between its rows."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    offload: bool = False
    """Keep the optimizer's state in the CPU's memory and take its steps there."""
    lora: LoraOptions = field(default_factory=LoraOptions)
    """A low-rank adapter that is trained in place of all weights."""
    engine: EngineName = "transformers"
    """What generates; `vllm` needs the extra of that name."""
    engine_options: Options = field(default_factory=dict)
    """`cache_bytes`; for vLLM also the fields of `vllm.EngineArgs`, or the `url` of a server."""
    max_batch: int = 256
    """Most sequences the engine generates at a time."""
    patience_s: float = 600.0
    """Seconds for which tools that are away are waited for; then the run pauses."""
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    """Processes that share the work, started by Ray."""

    def __post_init__(self) -> None:
        """Check ranges now rather than after the first rollout."""
        check_ranges(self, _RANGES)
        if self.mini_batches > self.questions_per_step:
            raise ConfigError(
                f"mini_batches: expected at most questions_per_step = {self.questions_per_step}, "
                f"found {self.mini_batches}; every update needs a tree"
            )
        if self.cluster.staleness and self.algorithm.importance_cap == 0:
            raise ConfigError(
                f"cluster.staleness: expected 0 without a correction for older weights, found "
                f"{self.cluster.staleness}; set algorithm.importance_cap, usually to 2"
            )


RESUMABLE = frozenset(
    "steps eval_every save_every keep_checkpoints out resume device token_budget offload "
    "max_batch tracker patience_s cluster overlong_prompts".split()
)
"""Fields of `TrainConfig` that may differ between a run and its continuation."""


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
        table = _read(path)
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
    choices = dict(_choices(cls))
    for path in choices:
        picker.add_argument(f"--{path}", dest=path)
    picked, rest = picker.parse_known_args(arguments)
    try:
        default = load_config(cls, picked.config)
        for path, choice in choices.items():
            if name := getattr(picked, path):
                default = _choose(default, path, choice.find(name))
    except ConfigError as error:
        picker.error(str(error))
    return tyro.cli(
        cls,
        prog=prog,
        description=f"{(cls.__doc__ or prog).splitlines()[0]}\n\n--config NAME_OR_PATH reads the "
        f"settings of a preset ({', '.join(_presets())}) or a TOML file; options override them."
        + "".join(
            f"\n\n--{path} NAME picks one of {', '.join(algorithms.REGISTRY)} or module:Class."
            for path in choices
        ),
        args=rest,
        default=default,
        registry=PATHS,
    )


def dump_config(config: object) -> str:
    """Return the settings as TOML; `load_config` reads them back equal."""
    return to_toml(to_table(config))


def fingerprint(config: object, ignore: Collection[str] = ()) -> str:
    """Return the SHA-256 (hex) of the settings, independent of the order of keys.

    Args:
        config: A dataclass instance.
        ignore: Names of top-level fields that do not count.
    """
    plain = to_table(from_table(type(config), to_table(config)))
    counted = {name: value for name, value in plain.items() if name not in ignore}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


def _choices(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, Choice]]:
    """Find the fields whose class is chosen by name, with their dotted paths."""
    for name, hint in get_type_hints(cls, include_extras=True).items():
        if choice := choice_of(hint):
            yield prefix + name, choice
        elif is_dataclass(hint):
            yield from _choices(hint, f"{prefix}{name}.")  # type: ignore[arg-type]


def _choose(config: Any, path: str, cls: type[Any]) -> Any:
    """Put an instance of a class where a dotted path leads, unless there is one already."""
    name, _, rest = path.partition(".")
    old = getattr(config, name)
    new = _choose(old, rest, cls) if rest else old if type(old) is cls else cls()
    return replace(config, **{name: new})


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
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
    return _laid_over(_read(below, (*above, path)), table)


def _laid_over(below: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Merge tables; one that goes by another `name` takes the place of the one below."""
    merged = dict(below)
    for key, value in table.items():
        old = below.get(key)
        merged[key] = value
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            if value.get("name") in (None, old.get("name", _DEFAULT)):
                merged[key] = _laid_over(old, value)
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
