"""Packages of extras: the table agrees with what is installed by `setup.cfg`."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from retrieval.extras import EXTRAS, install_advice, require

SETUP = ConfigParser()
SETUP.read(Path(__file__).parents[2] / "setup.cfg")
EXTRA_NAMES = SETUP["options.extras_require"]
DISTRIBUTIONS = {"faiss": "faiss-cpu", "prometheus_client": "prometheus-client"}


def packages(lines: str) -> set[str]:
    return {Requirement(line).name for line in lines.splitlines() if line}


@pytest.mark.parametrize("module", EXTRAS)
def test_an_extra_brings_the_package_and_the_core_does_not(module: str) -> None:
    name = DISTRIBUTIONS.get(module, module)
    assert name in packages(EXTRA_NAMES[EXTRAS[module]])
    assert name not in packages(SETUP["options"]["install_requires"])


def test_all_packages_of_extras_for_users_are_in_the_table() -> None:
    names = {DISTRIBUTIONS.get(module, module) for module in EXTRAS}
    for extra in EXTRA_NAMES.keys() - {"browser", "dev"}:  # of tests and for developers
        assert packages(EXTRA_NAMES[extra]) <= names, extra


def test_what_is_missing_is_named_before_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    require("pytest", "tests", ValueError)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"lora: expected the package peft.*at2po\[lora\]"):
        require("peft", "lora", ValueError)


def test_packages_of_no_extra_are_not_explained() -> None:
    assert "at2po[train]" in install_advice(ModuleNotFoundError(name="torch.nn"))
    assert install_advice(ModuleNotFoundError(name="colorama")) == ""
    assert install_advice(ModuleNotFoundError()) == ""
