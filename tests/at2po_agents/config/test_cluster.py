"""Settings of many processes that do not go together are refused before any of them starts."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from at2po_agents.config.cluster import ClusterOptions
from at2po_agents.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rollout_workers": -1},
            "cluster.rollout_workers: expected a number of at least 0 .*, found -1",
        ),
        ({"learner_workers": 0}, "cluster.learner_workers: expected a number of at least 1"),
        ({"stall_s": 0}, "cluster.stall_s"),
        ({"learner_workers": 2}, "cluster.rollout_workers: expected at least 1"),
        (
            {"colocate": True, "rollout_workers": 2},
            "as many rollout_workers as learner_workers, found 2 and 1",
        ),
        ({"transport": "cuda_ipc"}, "only with cluster.colocate"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    alone = "rollout_workers" in settings or "learner_workers" in settings
    with pytest.raises(ConfigError, match=message):
        ClusterOptions(**({} if alone else {"rollout_workers": 1}), **settings)


def test_nixl_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install nixl"):
        ClusterOptions(rollout_workers=1, transport="nixl")


def test_any_number_may_share_gpus() -> None:
    ClusterOptions(transport="cuda_ipc", rollout_workers=4, learner_workers=4, colocate=True)
