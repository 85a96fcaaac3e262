from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, fields, is_dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from at2po_agents.algorithms import ATPO
from at2po_agents.cli.training import RolloutConfig
from at2po_agents.config.train import (
    RESUMABLE,
    TrainConfig,
    dump_config,
    fingerprint,
    load_config,
    override,
    parse_config,
)
from at2po_agents.errors import ConfigError
from at2po_agents.evaluation.settings import EvalConfig
from at2po_agents.settings import Options, from_table, parse_options


@dataclass(frozen=True)
class Inner:
    """Inner settings."""

    chains: int = 4
    """How many chains."""


@dataclass(frozen=True)
class Outer:
    """Outer settings."""

    steps: int = 2
    rate: float = 0.5
    name: str = "x"
    on: bool = False
    kind: Literal["a", "b"] = "a"
    out: Path = Path("runs")
    limit: int | None = None
    options: Options = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


scalars = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
keys = st.text(st.characters(exclude_categories=["Cs"]))
outers = st.builds(
    Outer,
    steps=st.integers(-(2**63), 2**63 - 1),
    rate=st.floats(allow_nan=False) | st.integers(-9, 9),
    name=st.text(st.characters(exclude_categories=["Cs"])),
    on=st.booleans(),
    kind=st.sampled_from(["a", "b"]),
    out=st.text("abc/. é", min_size=1).map(Path),
    limit=st.none() | st.integers(0, 9),
    options=st.dictionaries(keys, scalars, max_size=4),
    inner=st.builds(Inner, chains=st.integers(0, 9)),
)


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


@given(config=outers)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_dumped_settings_load_equal(config: Outer, tmp_path: Path) -> None:
    loaded = load_config(Outer, write(tmp_path, dump_config(config)))
    assert loaded == config
    assert {k: type(v) for k, v in loaded.options.items()} == {
        k: type(v) for k, v in config.options.items()
    }
    assert fingerprint(loaded) == fingerprint(config)


def test_train_config_round_trip(tmp_path: Path) -> None:
    config = override(
        TrainConfig(),
        {"steps": 3, "env_options": {"split": "test", "size": 5}, "model.dtype": "bfloat16"},
    )
    path = write(tmp_path, dump_config(config))
    assert load_config(TrainConfig, path) == config
    assert tomllib.loads(path.read_text())["algorithm"]["chains"] == config.algorithm.chains


def test_train_config_stays_small_and_every_field_is_explained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    groups = [item for item in vars(TrainConfig()).values() if is_dataclass(item)]
    assert len(fields(TrainConfig)) <= 16
    assert all(len(fields(group)) <= 10 for group in groups if not isinstance(group, ATPO))
    with pytest.raises(SystemExit) as exit_:
        parse_config(TrainConfig, ["--help"], prog="at2po train")
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    for item in fields(TrainConfig):
        default = getattr(TrainConfig(), item.name)
        if item.name != "algorithm":
            inner = (
                [f"{item.name}.{f.name}" for f in fields(default)] if is_dataclass(default) else []
            )
            for name in inner or [item.name]:
                assert re.search(rf"--{name.replace('_', '-')}[ ,][^│]*│?\s*│?\s*[A-Z]", shown)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stesp = 1", "unknown key 'stesp'; did you mean 'steps'?"),
        ("[inner]\nchain = 1", "unknown key 'inner.chain'; did you mean 'chains'?"),
        ("chain = 1", "unknown key 'chain'; did you mean 'inner.chains'?"),
        ("qqqq = 1", "unknown key 'qqqq'; known: inner, inner.chains, kind, limit"),
        ("steps = 1.5", "steps: expected an integer, found 1.5 (float)"),
        ("steps = true", "steps: expected an integer, found True (bool)"),
        ("rate = 'fast'", "rate: expected a number, found 'fast' (str)"),
        ("rate = false", "rate: expected a number, found False (bool)"),
        ("name = 3", "name: expected text, found 3 (int)"),
        ("on = 1", "on: expected true or false, found 1 (int)"),
        ("kind = 'c'", "kind: expected 'a' or 'b', found 'c' (str)"),
        ("out = ''", "out: expected a path, found ''"),
        ("out = 3", "out: expected a path as text, found 3 (int)"),
        ("inner = 3", "inner: expected a table with chains, found 3 (int)"),
        ("[inner]\nchains = '3'", "inner.chains: expected an integer, found '3' (str)"),
        ("[options]\nk = [1]", "options.k: expected true or false or an integer or a number"),
        ("steps = ", "expected TOML, found"),
        ("steps = " + "9" * 5000, "expected TOML, found"),
        ("steps = 0x" + "f" * 5000, "steps: expected an integer of at most 64 bits"),
        ("rate = 1" + "0" * 400, "rate: expected an integer of at most 64 bits"),
        ("name = " + "[" * 2000 + "]" * 2000, "without end"),
        ("options." + ".".join(["a"] * 3000) + " = 1", "without end"),
    ],
)
def test_wrong_toml_is_refused_with_file_and_reason(
    tmp_path: Path, text: str, message: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_config(Outer, path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


def test_a_refusing_dataclass_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[optim]\nlearning_rate = -1")
    with pytest.raises(ConfigError, match=r"run\.toml: optim\.learning_rate: expected .* above 0"):
        load_config(TrainConfig, path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("seed", -1),
        ("optim.learning_rate", 0.0),
        ("optim.learning_rate", float("nan")),
        ("optim.grad_clip", float("inf")),
        ("rollout.temperature", 0.0),
        ("rollout.questions_per_step", 0),
        ("optim.mini_batches", 65),
        ("rollout.max_response_tokens", 0),
        ("eval.every", -1),
        ("eval.questions", 0),
        ("checkpoint.every", 0),
        ("checkpoint.keep", 0),
        ("engine.max_batch", 0),
        ("optim.token_budget", 0),
    ],
)
def test_settings_outside_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(name)}: expected"):
        override(TrainConfig(), {name: value})
    group, _, key = name.rpartition(".")
    with pytest.raises(ConfigError, match=f"^{re.escape(name)}: expected"):
        from_table(TrainConfig, {group: {key: value}} if group else {name: value})


def test_command_line_overrides_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "steps = 7\nrate = 0.25\n[options]\nsplit = 'test'\n[inner]\nchains = 9")
    for arguments in (
        ["--steps", "8", "--config", str(path), "--inner.chains", "3"],
        [f"--config={path}", "--inner.chains", "3", "--steps", "8"],
    ):
        config = parse_config(Outer, arguments, prog="at2po x")
        expected = Outer(steps=8, rate=0.25, options={"split": "test"}, inner=Inner(chains=3))
        assert config == expected


def test_options_are_key_value_pairs_that_replace_the_file_s(tmp_path: Path) -> None:
    path = write(tmp_path, "[options]\nsplit = 'test'")
    arguments = [
        *("--options", "size=5", "hard=true", "rate=1e-3", "name=a b", "eq=x=y", "q='7'"),
        *("list=[1]", "day=2020-01-01", "two=1\nthree=2", "--config", str(path), "--on"),
    ]
    config = parse_config(Outer, arguments, prog="at2po x")
    assert config.on
    assert config.options == {
        "size": 5,
        "hard": True,
        "rate": 1e-3,
        "name": "a b",
        "eq": "x=y",
        "q": "7",
        "list": "[1]",
        "day": "2020-01-01",
        "two": "1\nthree=2",
    }
    assert config.options["hard"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning-rat", "1"], "--optim.learning-rate"),
        (["--algorithm.chain", "1"], "--algorithm.chains"),
        (["--steps", "many"], "many"),
        (["--optim.learning-rate", "-1"], "optim.learning_rate: expected a number above 0"),
        (["--env-options", "split"], "expected KEY=VALUE, found 'split'"),
        (["--algorithm", "grop"], "did you mean 'grpo'?"),
        (["--config", "demmo"], "did you mean 'demo'?"),
        (["--config"], "expected one argument"),
        (["stray"], "stray"),
    ],
)
def test_a_wrong_command_line_ends_with_code_2_and_a_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_config(TrainConfig, arguments, prog="at2po train")
    shown = capsys.readouterr().err
    assert exit_.value.code == 2
    # The message is wrapped into a box.
    assert message in re.sub(r"[│\s]+", " ", shown)
    assert "Traceback" not in shown


def test_fingerprint_tells_runs_apart_but_not_their_continuations() -> None:
    run = TrainConfig(steps=2)
    longer = override(run, {"steps": 4, "out": Path("elsewhere"), "eval.every": 1, "resume": True})
    assert fingerprint(run) != fingerprint(longer)
    assert fingerprint(run, RESUMABLE) == fingerprint(longer, RESUMABLE)
    assert fingerprint(run, {"eval"}) == fingerprint(override(run, {"eval.every": 1}), {"eval"})
    for changed in (
        override(run, {"eval.questions": 1}),
        override(run, {"model.dtype": "bfloat16"}),
        replace(run, seed=1),
        replace(run, algorithm=replace(run.algorithm, beam=5)),
        replace(run, env_options={"split": "test"}),
    ):
        assert fingerprint(changed, RESUMABLE) != fingerprint(run, RESUMABLE)


@pytest.mark.parametrize("cls", [TrainConfig, EvalConfig, RolloutConfig])
def test_model_and_engine_have_short_names(cls: type[Any]) -> None:
    config = parse_config(cls, ["--model", "m", "--engine", "vllm"], prog="at2po x")
    run = getattr(config, "train", config)
    assert (run.model.name, run.engine.name) == ("m", "vllm")


def test_some_settings_are_changed_by_their_dotted_names() -> None:
    config = override(TrainConfig(), {"steps": 3, "optim.offload": True, "algorithm.beam": 2})
    assert (config.steps, config.optim.offload, config.algorithm.beam) == (3, True, 2)
    assert config.optim.learning_rate == TrainConfig().optim.learning_rate
    nested = override(Outer(), {"inner": Inner(chains=7), "inner.chains": 8})
    assert nested == Outer(inner=Inner(chains=8))
    for name in ("optim.learning_rat", "learning_rate"):
        with pytest.raises(ConfigError, match=r"did you mean 'optim\.learning_rate'"):
            override(TrainConfig(), {name: 1.0})


def test_fingerprint_ignores_notation() -> None:
    first, second = Outer(options={"a": 1, "b": 2}), Outer(options={"b": 2, "a": 1})
    assert fingerprint(first) == fingerprint(second)
    assert fingerprint(Outer(rate=1)) == fingerprint(Outer(rate=1.0))
    assert re.fullmatch(r"[0-9a-f]{64}", fingerprint(first))


def test_resumable_names_are_fields() -> None:
    for name in RESUMABLE:
        assert attrgetter(name)(TrainConfig()) is not None


def test_a_byte_order_mark_is_no_setting(tmp_path: Path) -> None:
    (path := tmp_path / "a.toml").write_text("steps = 3", encoding="utf-8-sig")
    assert load_config(TrainConfig, path).steps == 3


def test_options_without_end_are_text() -> None:
    assert parse_options(["a=" + "[" * 3000]) == {"a": "[" * 3000}
