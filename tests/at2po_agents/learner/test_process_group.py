from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.errors import ConfigError
from at2po_agents.learner.partition import lpt_partition
from at2po_agents.learner.process_group import DataParallelGroup, join

sizes_of_items = st.lists(st.integers(0, 1000), max_size=40)


@given(sizes_of_items, st.integers(1, 9))
def test_every_item_is_in_one_share_in_order(sizes: list[int], parts: int) -> None:
    shares = lpt_partition(sizes, parts)
    assert len(shares) == parts
    assert sorted(item for share in shares for item in share) == list(range(len(sizes)))
    assert all(share == sorted(share) for share in shares)
    assert shares == lpt_partition(list(sizes), parts)


@given(sizes_of_items.filter(bool), st.integers(1, 9))
def test_no_share_is_larger_than_the_rule_allows(sizes: list[int], parts: int) -> None:
    """A share without its last item is no larger than the mean (Graham 1969)."""
    loads = [sum(sizes[item] for item in share) for share in lpt_partition(sizes, parts)]
    assert max(loads) <= sum(sizes) / parts + max(sizes) * (1 - 1 / parts) + 1e-9
    assert max(loads) - min(loads) <= max(sizes)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 3))
def test_the_largest_share_is_at_most_four_thirds_of_the_best(sizes: list[int], parts: int) -> None:
    best = min(
        max(
            sum(s for s, at in zip(sizes, places, strict=True) if at == part)
            for part in range(parts)
        )
        for places in product(range(parts), repeat=len(sizes))
    )
    largest = max(sum(sizes[item] for item in share) for share in lpt_partition(sizes, parts))
    assert 3 * parts * largest <= (4 * parts - 1) * best


def test_equal_items_are_dealt_out_in_turn() -> None:
    assert lpt_partition([5, 5, 5, 5, 5], 2) == [[0, 2, 4], [1, 3]]


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
