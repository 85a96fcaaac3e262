from __future__ import annotations

import pytest

from at2po_agents.errors import ConfigError
from at2po_agents.learner.process_group import DataParallelGroup, join


def test_a_process_that_is_alone_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    alone = join()
    assert alone == DataParallelGroup() and alone.is_main
    marker = object()
    assert alone.all_gather(marker) == [marker]
    alone.destroy()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join() == DataParallelGroup()
    assert not DataParallelGroup(1, 2).is_main


@pytest.mark.parametrize(("there", "missing"), [("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")])
def test_half_of_what_torchrun_sets_is_refused(
    there: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(missing, raising=False)
    monkeypatch.setenv(there, "1")
    with pytest.raises(ConfigError, match=f"found no {missing}; start with torchrun, or unset"):
        join()


def test_restarts_on_several_machines_need_a_store_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "4",
        "GROUP_WORLD_SIZE": "2",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_MAX_RESTARTS": "3",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="expected TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        join()
