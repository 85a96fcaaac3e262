from __future__ import annotations

from pathlib import Path

import pytest

from at2po_agents.monitoring.metric_names import is_known, table

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_page_shows_the_table() -> None:
    shown = PAGE.read_text(encoding="utf-8").split(" -->\n")[1].split("<!-- ")[0]
    assert shown == table()


@pytest.mark.parametrize(
    "name",
    [
        *("policy/loss", "policy/clip_frac_turn_12", "policy/approx_kl_turn_1", "eval/em"),
        *("time/busy_rollout_worker", "time/rank_collect_s", "time/tokens_per_s_update"),
        *("time/queue_tools", "time/queue_engine_longest", "time/rollout"),
    ],
)
def test_what_differs_from_run_to_run_is_known(name: str) -> None:
    assert is_known(name)


@pytest.mark.parametrize("name", ["policy/los", "loss", "policy/clip_frac_turn_", "eval/em_"])
def test_others_are_not(name: str) -> None:
    assert not is_known(name)
