"""Weights that one member of a group sends to all others, here threads over gloo."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from at2po_agents.workers.ray.broadcast import Broadcast, Part, Seat, layout_of

SIZE = 3


def seats(group: int = 1) -> list[Seat]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [Seat(group, address, number, SIZE) for number in range(SIZE)]


def state(seed: int) -> dict[str, Tensor]:
    """Tied weights, one tensor that is transposed, one without a dimension, several formats."""
    rng = torch.Generator().manual_seed(seed)
    embedding = torch.randn(50, 8, generator=rng, dtype=torch.float64)
    return {
        "embedding": embedding,
        "wide": torch.randn(8, 3, generator=rng, dtype=torch.float64).T,
        "narrow": torch.randn(7, generator=rng).to(torch.bfloat16),
        "head": embedding,
        "count": torch.tensor(seed),
    }


def spread(ends: list[Broadcast], places: list[Seat], sent: dict[str, Tensor]) -> list[Any]:
    layout = layout_of(sent)
    with ThreadPoolExecutor(SIZE) as pool:
        sending = pool.submit(ends[0].send, places[0], sent)
        others = zip(ends[1:], places[1:], strict=True)
        receiving = [pool.submit(end.receive, place, layout) for end, place in others]
        sending.result()
        return [each.result() for each in receiving]


def assert_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    assert found["embedding"].data_ptr() == found["head"].data_ptr()


def test_a_layout_names_every_memory_once() -> None:
    assert layout_of(state(1)) == [
        Part(("embedding", "head"), (50, 8), torch.float64),
        Part(("wide",), (3, 8), torch.float64),
        Part(("narrow",), (7,), torch.bfloat16),
        Part(("count",), (), torch.int64),
    ]


def test_a_part_of_a_memory_is_not_taken_for_the_whole() -> None:
    whole = torch.zeros(4, 2)
    assert len(layout_of({"whole": whole, "part": whole[:2], "flat": whole.view(8)})) == 3


def test_all_members_get_the_same_bits_and_may_meet_in_other_groups() -> None:
    ends = [Broadcast("cpu", 60) for _ in range(SIZE)]
    first, second = seats(1), seats(2)
    for places, seed in ((first, 1), (first, 2), (second, 3)):
        for found in spread(ends, places, state(seed)):
            assert_bits(found, state(seed))
    ends[2] = Broadcast("cpu", 60)  # a member was replaced
    for found in spread(ends, seats(3), state(4)):
        assert_bits(found, state(4))


def test_nobody_waits_for_ever_for_a_member_that_does_not_come() -> None:
    places, layout = seats(), layout_of(state(1))
    ends = [Broadcast("cpu", 0.5) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        waiting = [
            pool.submit(ends[0].send, places[0], state(1)),
            pool.submit(ends[1].receive, places[1], layout),
        ]
        for each in waiting:
            with pytest.raises(RuntimeError):
                each.result()


def test_nobody_waits_for_ever_for_a_member_that_has_gone() -> None:
    places, sent = seats(), state(1)
    ends = [Broadcast("cpu", 2) for _ in range(SIZE)]
    spread(ends, places, sent)
    with pytest.raises(RuntimeError):
        ends[1].receive(places[1], layout_of(sent))
