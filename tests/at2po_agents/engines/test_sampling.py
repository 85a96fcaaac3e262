"""Sampling by (seed, step): exact support, right frequencies, no influence of other rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from at2po_agents.engines.transformers import sampling
from at2po_agents.engines.transformers.sampling import sample, uniforms
from at2po_agents.errors import NonFiniteLogitsError

LARGEST = 1.0 - 2.0**-53  # the largest value that `uniforms` can give


def one(logits: list[float], temperature: float, u: float) -> tuple[int, float]:
    """Sample a single row in float64."""
    row = torch.tensor([logits], dtype=torch.float64)
    ids, logprobs = sample(row, np.array([temperature]), np.array([u]))
    return int(ids[0]), float(logprobs[0])


def test_uniforms_are_splitmix64() -> None:
    """First outputs of SplitMix64 seeded with 0 (reference values of its authors' code)."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([golden, 2 * golden % 2**64], dtype=np.uint64)
    assert [hex(x) for x in sampling._mix(states)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]


def test_uniforms_fill_the_unit_interval() -> None:
    seeds = np.repeat(np.arange(200, dtype=np.uint64), 100)
    counters = np.tile(np.arange(100, dtype=np.int64), 200)
    u = uniforms(seeds, counters)
    assert u.min() >= 0
    assert u.max() <= LARGEST
    assert len(np.unique(u)) == len(u)
    counts, _ = np.histogram(u, bins=20, range=(0, 1))
    chi2 = ((counts - 1000.0) ** 2 / 1000.0).sum()
    assert chi2 < 43.8  # 0.999 quantile of chi-squared with 19 degrees of freedom
    table = u.reshape(200, 100)
    for shift in (1, 2):  # neither neighbouring steps nor neighbouring seeds go together
        assert abs(np.corrcoef(table[:, shift:].ravel(), table[:, :-shift].ravel())[0, 1]) < 0.03
        assert abs(np.corrcoef(table[shift:].ravel(), table[:-shift].ravel())[0, 1]) < 0.03


def test_streams_are_not_shifted_copies_of_each_other() -> None:
    step = 0x9E3779B97F4A7C15  # by which SplitMix64 itself advances
    counters = np.arange(4, dtype=np.int64)
    streams = [uniforms(np.full(4, i * step % 2**64, dtype=np.uint64), counters) for i in range(4)]
    assert len(np.unique(streams)) == 16


def test_uniforms_of_a_row_ignore_other_rows() -> None:
    seeds = np.array([3, 2**64 - 1, 0], dtype=np.uint64)
    counters = np.array([0, 5, 6_000], dtype=np.int64)
    together = uniforms(seeds, counters)
    for row in range(3):
        assert uniforms(seeds[row : row + 1], counters[row : row + 1])[0] == together[row]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    n = 20_000
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, -torch.inf, 0.5])
    u = uniforms(np.full(n, 17, dtype=np.uint64), np.arange(n))
    ids, _ = sample(logits.expand(n, -1), np.full(n, temperature), u)
    expected = n * (logits / temperature).softmax(0).double().numpy()
    counts = np.bincount(ids.numpy(), minlength=6)
    assert counts[4] == 0
    alive = expected > 0
    chi2 = ((counts[alive] - expected[alive]) ** 2 / expected[alive]).sum()
    assert chi2 < 18.5  # 0.999 quantile of chi-squared with 4 degrees of freedom


@given(
    logits=arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 40)),
        elements=st.floats(-200, 200, width=32) | st.just(-np.inf),
    ),
    u=st.sampled_from([0.0, 2.0**-53, 0.5, LARGEST]) | st.floats(0, LARGEST),
    temperature=st.sampled_from([0.0, 1e-3, 0.7, 1.0, 5.0]),
)
def test_only_possible_ids_with_their_logprob(
    logits: np.ndarray, u: float, temperature: float
) -> None:
    logits[:, -1] = np.maximum(logits[:, -1], -200)  # at least one id is possible
    rows = len(logits)
    given_ = torch.from_numpy(logits)
    ids, logprobs = sample(given_, np.full(rows, temperature), np.full(rows, u))
    reference = (given_.double() / (temperature or 1.0)).log_softmax(-1)
    expected = reference.gather(1, ids[:, None])[:, 0]
    assert bool((ids >= 0).all())
    assert bool((ids < logits.shape[1]).all())
    assert bool(expected.isfinite().all())
    np.testing.assert_allclose(logprobs.numpy(), expected.numpy(), rtol=1e-5, atol=1e-4)
    if temperature == 0:
        assert ids.tolist() == given_.argmax(-1).tolist()


def test_inverse_of_the_cumulative_distribution() -> None:
    logits = np.log([0.25, 0.5, 0.25]).tolist()
    cases = [(0.0, 0), (0.2499, 0), (0.2501, 1), (0.7499, 1), (0.7501, 2), (LARGEST, 2)]
    assert [one(logits, 1.0, u)[0] for u, _ in cases] == [expected for _, expected in cases]
    assert one(logits, 1.0, 0.5)[1] == pytest.approx(np.log(0.5), abs=1e-14)


def test_impossible_ids_at_both_ends_are_never_drawn() -> None:
    logits = [-np.inf, 0.0, -np.inf]
    assert [one(logits, 1.0, u)[0] for u in (0.0, LARGEST)] == [1, 1]


@given(st.lists(st.floats(-5, 0), min_size=1, max_size=8))
def test_largest_uniform_stays_inside_the_sum(logits: list[float]) -> None:
    assert one([0.0, *logits], 1.0, LARGEST)[0] == len(logits)


def test_last_id_of_a_large_vocabulary_can_be_drawn() -> None:
    """In float32 the running sum of so many ids would be off by more than the last one."""
    logits = torch.zeros(1, 150_000)
    ids, logprobs = sample(logits, np.ones(1), np.array([LARGEST]))
    assert ids.tolist() == [149_999]
    assert float(logprobs[0]) == pytest.approx(-np.log(150_000), abs=1e-9)


def test_temperatures_are_per_row() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        logits = torch.randn(4, 30, dtype=torch.float64)
    temperatures, u = np.array([0.0, 0.5, 1.0, 3.0]), np.full(4, 0.77)
    ids, logprobs = sample(logits, temperatures, u)
    for row in range(4):
        expected = one(logits[row].tolist(), temperatures[row], u[row])
        assert (int(ids[row]), float(logprobs[row])) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_without_a_distribution_are_refused(value: float) -> None:
    logits = torch.zeros(3, 5)
    logits[2, 1] = value
    with pytest.raises(NonFiniteLogitsError, match=r"rows \[2\]"):
        sample(logits, np.ones(3), np.full(3, 0.5))
