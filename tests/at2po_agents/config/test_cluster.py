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
        ({"collectors": -1}, "cluster.collectors: expected a number of at least 0 .*, found -1"),
        ({"learners": 0}, "cluster.learners: expected a number of at least 1"),
        ({"stall_s": 0}, "cluster.stall_s"),
        ({"learners": 2}, "cluster.collectors: expected at least 1"),
        ({"colocate": True, "collectors": 2}, "as many collectors as learners, found 2 and 1"),
        ({"transport": "cuda_ipc"}, "only with cluster.colocate"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    alone = "collectors" in settings or "learners" in settings
    with pytest.raises(ConfigError, match=message):
        ClusterOptions(**({} if alone else {"collectors": 1}), **settings)


def test_nixl_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install nixl"):
        ClusterOptions(collectors=1, transport="nixl")


def test_any_number_may_share_gpus() -> None:
    ClusterOptions(transport="cuda_ipc", collectors=4, learners=4, colocate=True)
