"""The store of finished rows against a plain list of sequences."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.engines.transformers.prefix_cache import PrefixCache, common_prefix

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=12)
BYTES_PER_TOKEN = 8


def keys_and_values(ids: list[int]) -> torch.Tensor:
    """Return [1, 1, 1, n, 1] memory in which every token stores a number of its own prefix."""
    numbers = [float(int("1" + "".join(map(str, ids[: i + 1])))) for i in range(len(ids))]
    return torch.tensor(numbers, dtype=torch.float64).reshape(1, 1, 1, -1, 1)


def shared(a: list[int], b: list[int]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def lookup(cache: PrefixCache, ids: list[int]) -> int:
    """Return the length found, having checked that the memory is that of these tokens."""
    length, kv = cache.longest(np.array(ids))
    if length:
        assert kv is not None
        assert torch.equal(kv[..., :length, :], keys_and_values(ids)[..., :length, :])
    return length


@given(stored=SEQUENCES, queries=SEQUENCES)
def test_finds_the_longest_prefix(stored: list[list[int]], queries: list[list[int]]) -> None:
    cache = PrefixCache(1 << 20)
    for ids in stored:
        cache.add(np.array(ids), keys_and_values(ids))
    for query in queries:
        assert lookup(cache, query) == max(shared(query, ids) for ids in stored)


@given(stored=SEQUENCES, room=st.integers(1, 20))
def test_memory_is_bounded_and_the_newest_stays(stored: list[list[int]], room: int) -> None:
    cache = PrefixCache(room * BYTES_PER_TOKEN)
    for ids in stored:
        cache.add(np.array(ids), keys_and_values(ids))
        assert cache.bytes <= room * BYTES_PER_TOKEN
        if len(ids) <= room:
            assert lookup(cache, ids) == len(ids)


def test_an_extension_replaces_what_it_extends() -> None:
    cache = PrefixCache(1 << 20)
    for ids in ([1, 2], [1, 0], [1, 2, 0, 1]):
        cache.add(np.array(ids), keys_and_values(ids))
    assert cache.bytes == (2 + 4) * BYTES_PER_TOKEN
    assert lookup(cache, [1, 2]) == 2


def test_the_least_recently_used_goes_first() -> None:
    cache = PrefixCache(4 * BYTES_PER_TOKEN)
    cache.add(np.array([0, 0]), keys_and_values([0, 0]))
    cache.add(np.array([1, 1]), keys_and_values([1, 1]))
    assert lookup(cache, [0, 0]) == 2
    cache.add(np.array([2, 2]), keys_and_values([2, 2]))
    assert [lookup(cache, ids) for ids in ([0, 0], [1, 1], [2, 2])] == [2, 0, 2]


def test_entries_are_copies() -> None:
    cache = PrefixCache(1 << 20)
    memory = keys_and_values([1, 2])
    cache.add(np.array([1, 2]), memory)
    memory.zero_()
    assert lookup(cache, [1, 2]) == 2


def test_clear_forgets_everything() -> None:
    cache = PrefixCache(1 << 20)
    cache.add(np.array([1, 2]), keys_and_values([1, 2]))
    cache.clear()
    assert (cache.bytes, lookup(cache, [1, 2])) == (0, 0)


def test_common_prefix_ignores_what_lies_beyond_a_row() -> None:
    table = np.array([[1, 2, 3, 4], [1, 2, 9, 9], [5, 6, 7, 8]])
    lengths = np.array([4, 1, 4])
    assert common_prefix(table, lengths, np.array([1, 2, 3])).tolist() == [3, 1, 0]
    assert common_prefix(table, lengths, np.array([1, 2, 3, 4, 5])).tolist() == [4, 1, 0]
    assert common_prefix(table, lengths, np.array([], dtype=np.int64)).tolist() == [0, 0, 0]
