"""Reports and comparisons of damaged folders: they show what is sound, or name file and line."""

from __future__ import annotations

import copy
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.comparison.compare import compare
from benchmarks.comparison.text import markdown, write
from benchmarks.errors import ComparisonError, RunFolderError
from benchmarks.evaluation.reading import read_folder, read_methods
from benchmarks.report import write_report
from benchmarks.report.folders import _natural, read
from benchmarks.report.page import page
from benchmarks.report.write import write_difference
from tests.benchmarks.report.report_samples import (
    EVIL,
    FAULT,
    record,
    training_run,
    write_evaluation,
    write_status,
    write_timeline,
)

DEEP = "[" * 100_000
HUGE = "1" * 5000
ODD: list[Any] = [
    None,
    True,
    -1,
    5,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "abc",
    "\ud83d",
    EVIL,
    [],
    [[1]],
    [None],
    {},
    {"a": {"b": [1]}},
]


def evaluation(folder: Path, *names: str) -> Path:
    own = {"f1": 0.5, "error": "", "flags": [], "cover_em": True, "tokens": 3}
    return write_evaluation(
        folder,
        [record(name, True) | own for name in names],
        agent="me",
        env="at2po/NQ-v0",
        failed=0,
        em_interval=[0.5, 1.0],
        failures=[],
        card={"split": "test", "agent_settings": {"max_prompt_tokens": 9}},
    )


def as_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to all parts of a JSON value."""
    parts: Any = ()
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
    inner = [place for name, part in parts for place in places(part, (*path, name))]
    return [path, *inner] if path else inner


def damaged(value: Any, place: tuple[Any, ...], change: Any) -> Any:
    """A copy in which a part is replaced, or missing where the change is `...`."""
    whole = copy.deepcopy(value)
    part = whole
    for name in place[:-1]:
        part = part[name]
    if change is ...:
        del part[place[-1]]
    else:
        part[place[-1]] = change
    return whole


def damage_line(path: Path, number: int, data: st.DataObject) -> None:
    lines = path.read_text().splitlines()
    value = json.loads(lines[number])
    place = data.draw(st.sampled_from(places(value)))
    lines[number] = json.dumps(damaged(value, place, data.draw(st.sampled_from([..., *ODD]))))
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", ["summary.json", "episodes.jsonl"])
@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_an_evaluation_with_any_part_changed_has_a_report_or_an_error_that_names_the_file(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    folder = evaluation(tmp_path_factory.mktemp("x") / "A", "a", "b")
    other = evaluation(folder.parent / "B", "a", "b")
    damage_line(folder / name, 0, data)
    try:
        page(read(folder)).encode("utf-8", "surrogatepass")
    except RunFolderError as error:
        assert str(folder) in str(error)
    try:
        markdown(compare(read_methods([str(folder), str(other)]), common=True))
    except ComparisonError as error:
        assert str(folder) in str(error) or "NQ" in str(error)


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_a_training_run_with_any_part_changed_has_a_report_or_an_error_that_names_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    run = training_run(tmp_path_factory.mktemp("run"))
    write_status(run, faults=[FAULT])
    write_timeline(run)
    names = [
        "metrics.jsonl",
        "summary.json",
        "status.json",
        "timeline.jsonl",
        "trees/step_000002.jsonl",
        "episodes/step_000002.jsonl",
    ]
    damage_line(run / data.draw(st.sampled_from(names)), 0, data)
    try:
        read(run)
    except RunFolderError as error:
        assert str(run) in str(error)


@pytest.mark.parametrize(
    "line",
    [DEEP, HUGE, "[]", "5", "null", "{", '{"em": true}', '{"question_key": 5, "em": true}', "\x00"]
    + [b"\xff\xfe"],
)
def test_a_line_that_is_no_episode_is_named(tmp_path: Path, line: str | bytes) -> None:
    folder = evaluation(tmp_path / "A", "a", "b")
    with (folder / "episodes.jsonl").open("ab") as file:
        file.write(as_bytes(line) + b"\n")
    with pytest.raises(ComparisonError, match=r"episodes.jsonl:3: expected the record"):
        read_folder(folder)
    with pytest.raises(RunFolderError, match=r"episodes.jsonl:3: expected"):
        write_report(folder)


@pytest.mark.parametrize(
    "content", [DEEP, HUGE, "[]", "{}", '{"env": 5}', '{"env": "e", "card": 3}', b"\xff\xfe"]
)
def test_a_summary_that_is_none_is_named(tmp_path: Path, content: str | bytes) -> None:
    folder = evaluation(tmp_path / "A", "a")
    (folder / "summary.json").write_bytes(as_bytes(content))
    with pytest.raises(ComparisonError, match="summary.json: expected"):
        read_folder(folder)
    with pytest.raises(RunFolderError, match="summary.json: expected"):
        write_report(folder)


def test_a_summary_of_an_earlier_call_is_not_taken_for_that_of_all_episodes(
    tmp_path: Path,
) -> None:
    folder = evaluation(tmp_path / "A", "a", "b")
    with (folder / "episodes.jsonl").open("a") as file:
        file.write(json.dumps(record("c", False)) + "\n")
    with pytest.raises(ComparisonError, match="found 3 episodes beside a summary of 2"):
        read_folder(folder)


def test_an_evaluation_that_lost_episodes_has_no_report(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "A", "a", "b")
    (folder / "episodes.jsonl").write_text("")
    with pytest.raises(RunFolderError, match="expected the 2 episodes .* found 0; evaluate again"):
        write_report(folder)


@pytest.mark.parametrize("sets", [{}, {"../B": {}}, {"C": {}}, [], "A"])
def test_a_suite_names_folders_of_its_own(tmp_path: Path, sets: Any) -> None:
    evaluation(tmp_path / "suite" / "A", "a")
    evaluation(tmp_path / "B", "b")
    summary = {"agent": "me", "questions": 1, "sets": sets}
    (tmp_path / "suite" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RunFolderError, match="summary.json: expected"):
        write_report(tmp_path / "suite")


@pytest.mark.parametrize(
    "names",
    [["\u0663", "a", "9", "10"], ["9" * 5000, "a", "1" * 5001], ["\ud83d", "b"], ["", "1a", "a1"]],
)
def test_questions_of_any_name_have_an_order(tmp_path: Path, names: list[str]) -> None:
    html = write_report(evaluation(tmp_path / "A", *names)).read_text(encoding="utf-8")
    assert html.endswith("</html>\n")


def test_ten_comes_after_nine() -> None:
    names = ["q10", "q9", "p10", "10", "9b", "9", "q010", "q9a"]
    assert sorted(names, key=_natural) == ["9", "9b", "10", "p10", "q9", "q9a", "q010", "q10"]


@given(st.lists(st.text(st.characters(), max_size=5)))
def test_any_names_have_an_order(names: list[str]) -> None:
    assert sorted(names, key=_natural) == sorted(reversed(names), key=_natural)


@pytest.mark.parametrize(
    ("name", "text"), [("status.json", '{"faults": 5}'), ("trees/step_x.jsonl", "notes")]
)
def test_mere_records_and_foreign_files_do_not_keep_a_run_from_its_report(
    tmp_path: Path, name: str, text: str
) -> None:
    run = training_run(tmp_path)
    (run / name).write_text(text)
    assert write_report(run).exists()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("metrics.jsonl", '{"step": 3, "rollout/em": "high"}'),
        ("metrics.jsonl", '{"step": 3, "eval/em": 5}'),
        ("metrics.jsonl", "{}"),
        ("trees/step_000002.jsonl", '{"question": "q", "nodes": [{"parent": 4}]}'),
        ("trees/step_000002.jsonl", DEEP),
        ("episodes/step_000002.jsonl", '{"question_key": "a"}'),
    ],
)
def test_a_damaged_line_of_a_run_is_named(tmp_path: Path, name: str, line: str) -> None:
    run = training_run(tmp_path)
    path = run / name
    path.write_text(line + "\n" + path.read_text())
    with pytest.raises(RunFolderError, match=f"{name}:1: "):
        write_report(run)


@pytest.mark.parametrize(
    "cut", [b"{", b'{"step": 3, "rollout/em": 0.', '{"step": 3, "é'.encode()[:-1]]
)
def test_a_last_row_that_was_cut_off_costs_itself_alone(tmp_path: Path, cut: bytes) -> None:
    """As after a loss of power, or beside a run that is writing it."""
    run = training_run(tmp_path)
    path = run / "metrics.jsonl"
    expected = read(run)
    path.write_bytes(path.read_bytes() + cut)
    assert read(run) == expected
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(RunFolderError, match="metrics.jsonl:"):
        read(run)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("config.toml", text) for text in ("\x00", "a = [", "n = " + HUGE, "")),
        ("config.toml", "[algorithm]\nchains = 'x'"),
        ("summary.json", "{"),
        ("timeline.jsonl", '{"step": 1, "other": 2}\n'),
    ],
)
def test_a_damaged_file_of_a_run_is_named(tmp_path: Path, name: str, text: str) -> None:
    run = training_run(tmp_path)
    (run / name).write_text(text)
    with pytest.raises(RunFolderError, match=f"{name}: expected"):
        write_report(run)


def test_a_report_says_how_many_episodes_failed(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "A", "a", "b")
    summary = json.loads((folder / "summary.json").read_text())
    assert "counted as wrong" not in write_report(folder).read_text(encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary | {"failed": 1}))
    html = write_report(folder).read_text(encoding="utf-8")
    assert "<b>1</b><span>failed, counted as wrong</span>" in html


def test_names_that_would_break_a_table_do_not(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "a|b", "a")
    second = evaluation(tmp_path / "c\nd", "a")
    text = markdown(compare(read_methods([str(first), str(second)])))
    rows = [line for line in text.splitlines() if line.startswith("| NQ")]
    assert len(rows) == 1 and rows[0].count(" | ") == 7


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "config.toml", "summary.json", "status.json", "episodes", "trees"]
)
def test_a_pipe_in_a_run_is_not_waited_for(tmp_path: Path, name: str) -> None:
    run = training_run(tmp_path)
    path = next((run / name).iterdir()) if (run / name).is_dir() else run / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with ExitStack() as refused:
        if name != "status.json":  # a mere record
            refused.enter_context(pytest.raises(OSError, match="found a pipe or a device"))
        write_report(run)


@pytest.mark.parametrize("name", ["episodes.jsonl", "summary.json"])
def test_a_pipe_in_an_evaluation_is_not_waited_for(tmp_path: Path, name: str) -> None:
    folders = [evaluation(tmp_path / each, "q1", "q2") for each in "ab"]
    (folders[1] / name).unlink()
    os.mkfifo(folders[1] / name)
    with pytest.raises(OSError, match="found a pipe or a device"):
        write_report(folders[1])
    with pytest.raises(OSError, match="found a pipe or a device"):
        compare(read_methods([str(each) for each in folders]))


def test_pages_and_comparisons_replace_only_their_own(tmp_path: Path) -> None:
    a, b = (evaluation(tmp_path / each, "q1", "q2") for each in "ab")
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    out.mkdir()
    training_run(run)
    places = [a / "report.html", b / "difference.html", run / "report.html"]
    places += [run / "learning_curve.svg", out / "comparison.json", out / "comparison.md"]
    for path in places:
        path.write_text("mine")
    for _ in range(2):  # the second time they are ours
        write_report(a)
        write_difference(a, b)
        write_report(run)
        write(compare(read_methods([str(a), str(b)])), out)
    for path in places:
        assert path.with_name(f"{path.name}.1").read_text() == "mine"
        assert path.read_text() != "mine"
        assert not path.with_name(f"{path.name}.2").exists()


@pytest.mark.parametrize("figure", ["em", "f1", "cover_em", "format_ok"])
def test_scores_are_shares(tmp_path: Path, figure: str) -> None:
    folder = evaluation(tmp_path / "a", "q1")
    line = json.loads((folder / "episodes.jsonl").read_text()) | {figure: 1e17}
    (folder / "episodes.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(RunFolderError, match=f"found {figure} = 1e"):
        write_report(folder)
