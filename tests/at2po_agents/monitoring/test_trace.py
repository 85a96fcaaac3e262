"""Time lines: what is appended is read back, and a step in figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.monitoring import trace as timeline
from at2po_agents.monitoring.trace import FILE, WORK, Span, sampled_tokens, summarise
from tests.at2po_agents.samples import random_tree

SPANS = [Span("rank-0", "collect", 1003.0, 1005.5, 70), Span("rank-0", "wait", 1005.5, 1006.25)]
NAMES = ("step", *Span._fields)
SINCE = [Span("rank-0", "collect", 3.0, 5.5, 70), Span("rank-0", "wait", 5.5, 6.25)]


def test_spans_are_read_back_in_seconds_since_the_run_began(tmp_path: Path) -> None:
    assert timeline.read(tmp_path) == []
    timeline.append(tmp_path, 1, SPANS, 1000.0)
    timeline.append(tmp_path, 2, SPANS[:1], 1000.0)
    assert timeline.read(tmp_path) == [(1, SINCE[0]), (1, SINCE[1]), (2, SINCE[0])]


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    timeline.append(tmp_path, 1, SPANS, 1000.0)
    path = tmp_path / timeline.FILE
    whole = path.read_bytes()
    for end in range(len(whole) - 1):
        path.write_bytes(whole[:end])
        found = timeline.read(tmp_path)
        assert found == [(1, span) for span in SINCE][: len(found)]
        assert len(found) == whole[: end + 1].count(b"\n")
    path.write_bytes(whole[:-9])
    timeline.append(tmp_path, 2, SPANS, 1000.0)  # its first line is glued to the rest of the other
    assert timeline.read(tmp_path) == [(1, SINCE[0]), (2, SINCE[1])]


NOT_SPANS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(NAMES), inner),
)


@given(st.lists(NOT_SPANS))
def test_lines_that_are_no_spans_block_no_run(
    tmp_path_factory: pytest.TempPathFactory, rows: list[object]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    timeline.append(folder, 1, SPANS[:1], 1000.0)
    with (folder / FILE).open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.write("[" * 100_000 + "]" * 100_000 + "\n")
    timeline.append(folder, 2, SPANS, 1000.0)
    assert timeline.last_end(folder) == 6.25
    with pytest.raises(TypeError, match="expected a piece of a time line"):
        timeline.read(folder)


@pytest.mark.parametrize(
    "change",
    [
        *({"step": None}, {"step": True}, {"start": "1"}, {"end": float("nan")}, {"end": 10**400}),
        *({"actor": 1}, {"stage": ["a"]}, {"tokens": "7"}, {"more": 1}),
        *({"step": -1}, {"step": 10**400}, {"tokens": -1}, {"tokens": 10**400}),
    ],
)
def test_a_span_of_other_types_is_none(change: dict[str, object], tmp_path: Path) -> None:
    row = {"step": 1, "actor": "rank-0", "stage": "wait", "start": 1.0, "end": 2, "tokens": 3}
    (tmp_path / FILE).write_text(json.dumps(row) + "\n")
    assert timeline.read(tmp_path) == [(1, Span("rank-0", "wait", 1.0, 2, 3))]
    (tmp_path / FILE).write_text(f"{json.dumps(row)}\n{json.dumps(row | {'end': 9.0} | change)}\n")
    assert timeline.last_end(tmp_path) == 2
    with pytest.raises(TypeError, match="found '{"):
        timeline.read(tmp_path)


def test_a_time_line_that_is_no_file_has_no_spans(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    assert timeline.read(tmp_path) == []
    assert timeline.last_end(tmp_path) == 0


STEP = [
    Span("rank-0", "collect", 100.0, 104.0, 40),
    Span("rank-1", "collect", 100.0, 102.0, 10),
    Span("rank-1", "wait", 102.0, 104.0),
    Span("rank-0", "update", 104.0, 110.0, 60),
    Span("rank-1", "update", 105.0, 110.0),
    Span("driver", "save", 109.0, 110.0),
]


def test_a_step_in_figures() -> None:
    assert summarise(STEP) == pytest.approx(
        {
            "busy_rank": (10 + 7) / 10 / 2,
            "rank_collect_s": 4.0,
            "rank_wait_s": 2.0,
            "rank_update_s": 6.0,
            "driver_save_s": 1.0,
            "tokens_per_s_collect": 50 / 4,
            "tokens_per_s_update": 60 / 6,
        }
    )


def test_kinds_of_actors_are_kept_apart() -> None:
    found = summarise(
        [
            Span("rollout_worker-0", "collect", 0.0, 4.0, 8),
            Span("learner_worker-0", "wait", 0.0, 3.0),
            Span("learner_worker-0", "update", 3.0, 4.0, 2),
        ]
    )
    assert (found["busy_rollout_worker"], found["busy_learner_worker"]) == (1.0, 0.25)
    assert found["learner_worker_update_s"] == 1.0 and "rollout_worker_update_s" not in found


def test_nothing_done_is_nothing_to_say() -> None:
    assert summarise([]) == {}
    assert "busy_rank" not in summarise([Span("rank-0", "update", 1.0, 1.0)])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["rollout_worker-0", "rollout_worker-1", "learner_worker-0"]),
            st.sampled_from([*WORK, "wait"]),
            st.floats(0, 10),
        ),
        min_size=1,
    )
)
def test_nobody_works_more_than_all_the_time(parts: list[tuple[str, str, float]]) -> None:
    """Each actor does one thing after the other."""
    clock = dict.fromkeys(["rollout_worker-0", "rollout_worker-1", "learner_worker-0"], 0.0)
    spans = []
    for actor, stage, lasted in parts:
        spans.append(Span(actor, stage, clock[actor], clock[actor] + lasted))
        clock[actor] += lasted
    found = summarise(spans)
    shares = [value for name, value in found.items() if name.startswith("busy_")]
    assert all(0 <= share <= 1 + 1e-9 for share in shares)


def test_only_sampled_tokens_are_counted() -> None:
    trees = [random_tree(seed) for seed in range(3)]
    rows = {id(node): node for tree in trees for row in tree.rows() for node in row.leaf.path()}
    assert sampled_tokens(trees) == sum(len(node.sampled) for node in rows.values()) > 0
