"""What the tests of commands share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from at2po_agents.cli import main


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with code 2 and without a traceback; returns what it said."""

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(words)
        said = capsys.readouterr()
        assert stop.value.code == 2 and "Traceback" not in said.err + said.out
        return " ".join((said.err + said.out).replace("│", " ").split())

    return run
