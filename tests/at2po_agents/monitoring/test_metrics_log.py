from __future__ import annotations

import io
import logging
import math
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from at2po_agents.errors import MetricsError
from at2po_agents.monitoring.metrics_log import FILE, MetricsLog, read_metrics
from at2po_agents.monitoring.progress import RunProgress


def write(run_dir: Path, steps: range, *, keep_through: int = -1) -> None:
    with MetricsLog(run_dir, keep_through=keep_through, tensorboard=False) as log:
        for step in steps:
            log.write(step, {"em": step / 10}, {"step_s": 0.1})


def steps(run_dir: Path) -> list[int]:
    return [row["step"] for row in read_metrics(run_dir / FILE)]


def test_a_row_is_one_json_line_in_a_fixed_order(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "new" / "run", tensorboard=False) as log:
        log.write(0, {"em": 0.5, "answer": "yes", "done": True}, {"b_s": 2.0, "a_s": 1.0})
        log.write(3, {"z": 1, "a": 2})
    assert (tmp_path / "new" / "run" / FILE).read_text() == (
        '{"step": 0, "answer": "yes", "done": true, "em": 0.5, "time": {"a_s": 1.0, "b_s": 2.0}}\n'
        '{"step": 3, "a": 2, "z": 1, "time": {}}\n'
    )


def test_rows_are_on_disk_as_soon_as_written(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, tensorboard=False)
    log.write(1, {"em": 0.5})
    assert steps(tmp_path) == [1]
    log.close()


@given(
    values=st.dictionaries(
        st.text().map("m/".__add__), st.floats() | st.integers() | st.booleans() | st.text()
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back(values: dict[str, float], tmp_path: Path) -> None:
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write(1, values, {"tokens_per_s": math.inf})
    (row,) = read_metrics(tmp_path / FILE)
    assert row["time"] == {"tokens_per_s": None}
    assert row.keys() - {"step", "time", "non_finite"} == values.keys()
    for name, value in values.items():
        finite = not isinstance(value, float) or math.isfinite(value)
        assert row[name] == (value if finite else None)
        assert (name in row.get("non_finite", [])) is not finite


@given(cut=st.integers(0, 200), keep_through=st.integers(0, 6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_resumed_log_equals_an_uninterrupted_one(
    cut: int, keep_through: int, tmp_path: Path
) -> None:
    write(tmp_path, range(7))
    whole = (tmp_path / FILE).read_bytes()
    # Killed while writing: the end is missing, but all rows that are to be kept are there.
    end = len(b"".join(whole.splitlines(keepends=True)[: keep_through + 1]))
    (tmp_path / FILE).write_bytes(whole[: end + cut])
    write(tmp_path, range(keep_through + 1, 7), keep_through=keep_through)
    assert (tmp_path / FILE).read_bytes() == whole


def test_a_new_log_starts_afresh(tmp_path: Path) -> None:
    write(tmp_path, range(5))
    write(tmp_path, range(1, 3))
    assert steps(tmp_path) == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_step_cannot_come_twice(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    with MetricsLog(tmp_path, keep_through=2, tensorboard=False) as log:
        with pytest.raises(MetricsError, match="expected more than 2.*found 2.*keep_through=1"):
            log.write(2, {})
        log.write(3, {})
        with pytest.raises(MetricsError, match="expected more than 3"):
            log.write(3, {})
    assert steps(tmp_path) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["step", "time", "non_finite"])
def test_reserved_names_are_refused(tmp_path: Path, name: str) -> None:
    with MetricsLog(tmp_path, tensorboard=False) as log, pytest.raises(MetricsError, match=name):
        log.write(1, {name: 1.0})
    assert steps(tmp_path) == []


def test_a_last_line_that_only_lacks_its_end_is_a_row(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with MetricsLog(tmp_path, keep_through=2, tensorboard=False):
        pass
    assert path.read_bytes() == whole


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(MetricsError, match="found a pipe or a device"):
        read_metrics(tmp_path / FILE)


DEEP = '{"step": 1, "a": ' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize(
    "line",
    [
        *('{"step": 1', "[]", "{}", '{"step": "one"}', "\udcff", "", "1", "null", DEEP),
        *('{"step": true}', '{"step": 1.0}', '{"step": 1, "loss": NaN}', '{"step": 1e999}'),
        *('{"step": 0}', '{"step": -1}', f'{{"step": {"9" * 5000}}}'),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    write(tmp_path, range(3))
    lines = (tmp_path / FILE).read_text().splitlines()
    lines[1] = line
    damaged = "\n".join(lines) + "\n"
    (tmp_path / FILE).write_bytes(damaged.encode(errors="surrogateescape"))
    with pytest.raises(MetricsError, match=rf"{FILE}:2: expected a JSON object"):
        MetricsLog(tmp_path, keep_through=2, tensorboard=False)
    assert (tmp_path / FILE).read_bytes() == damaged.encode(errors="surrogateescape")


def test_rows_are_kept_as_they_stand(tmp_path: Path) -> None:
    line = '{"step":0,"em": 0.50, "\\u00e9": 1}\n'
    (tmp_path / FILE).write_text(line + '{"step": 1}\n')
    with MetricsLog(tmp_path, keep_through=0, tensorboard=False):
        pass
    assert (tmp_path / FILE).read_text() == line


def test_rows_that_are_missing_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, range(3))
    with MetricsLog(tmp_path, keep_through=5, tensorboard=False):
        pass
    assert f"{FILE}: expected rows up to step 5, found 2" in caplog.text
    assert steps(tmp_path) == [0, 1, 2]


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(MetricsError, match="expected a metrics file.*move it away"):
        read_metrics(tmp_path)


def test_a_disk_that_is_full_ends_the_tracker_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tracked:
        ended = False

        def log(self, values: object, step: int) -> None: ...

        def finish(self) -> None:
            self.ended = True

    tracker = Tracked()
    log = MetricsLog(tmp_path, tensorboard=False, tracker=tracker)
    log._file.close()
    log._file = open("/dev/full", "a")  # noqa: SIM115 - closing it is what fails
    with pytest.raises(OSError, match="No space"), log:
        log.write(1, {"em": 0.5})
    assert tracker.ended


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / FILE) == []


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(tmp_path) as log:
        log.write(1, {"em": 0.25, "answer": "yes"}, {"step_s": 2.0})
        log.write(2, {"em": 0.5})
        log.write(3, {"em": 9.0})
    with MetricsLog(tmp_path, keep_through=2) as log:
        log.write(3, {"em": 0.75})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("em")] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert [(e.step, e.value) for e in events.Scalars("time/step_s")] == [(1, 2.0)]
    assert set(events.Tags()["scalars"]) == {"em", "time/step_s"}


@pytest.fixture
def clock() -> list[float]:
    """The time in seconds, to be set by the test."""
    return [100.0]


def test_progress_off_a_terminal_is_a_log_line(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    shown = io.StringIO()
    with (
        caplog.at_level(logging.INFO),
        RunProgress(
            80, done=2, console=Console(file=shown, force_terminal=False), clock=lambda: clock[0]
        ) as progress,
    ):
        clock[0] += 10
        progress.update(4, tokens=12_000, figures={"reward": 0.25, "em": 0.5})
    assert caplog.messages == [
        "train step 4/80 · reward 0.250 · em 0.500 · 1,200 tokens/s · 0:06:20 left"
    ]
    assert shown.getvalue() == ""


def test_progress_on_a_terminal_is_a_live_line(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120)
    with (
        caplog.at_level(logging.INFO),
        RunProgress(2, console=console, clock=lambda: clock[0]) as progress,
    ):
        progress.update(0, tokens=0, figures={})
        clock[0] += 3700
        progress.update(1, tokens=37, figures={"em": 1 / 3})
    assert caplog.messages == []
    assert "train" in shown.getvalue()
    assert "step 1/2 · em 0.333 · 0 tokens/s · 1:01:40 left" in shown.getvalue()
