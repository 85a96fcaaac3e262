from __future__ import annotations

import json

import pytest

from at2po_envs import At2poEnvError
from at2po_envs.question_sets.manifest import SplitReport, survey, verify
from at2po_envs.question_sets.questions import PUBLISHED


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A complete copy of small sets, published as such."""
    published = {"nq": {"train": 3, "test": 2}, "popqa": {"test": 2}}
    monkeypatch.setattr("at2po_envs.question_sets.manifest.PUBLISHED", published)
    for set_name, splits in published.items():
        for split, rows in splits.items():
            place = tmp_path / "questions" / set_name / f"{split}.jsonl"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("".join(line(f"{split}_{n}") for n in range(rows)), encoding="utf-8")
    return tmp_path


def line(name, **fields):
    row = {"id": name, "question": "Who?", "golden_answers": ["x"], **fields}
    return json.dumps(row) + "\n"


def test_a_complete_copy_has_no_differences(copy, monkeypatch):
    assert verify(copy) == []
    assert survey(copy)[0] == SplitReport("nq", "train", 3, 3)
    monkeypatch.setenv("AT2PO_DATA", str(copy))
    assert verify() == []


def test_what_differs_is_named(copy):
    questions = copy / "questions"
    (questions / "popqa/test.jsonl").unlink()
    (questions / "nq/dev.jsonl").write_text(line("d"))
    (questions / "nq/train.jsonl").write_text(line("a"))
    with (questions / "nq/test.jsonl").open("a") as file:
        file.write(line("new"))
    assert verify(copy) == [
        "nq/train: partial copy: 1 of 3 published rows",
        "nq/test: too long: 3 rows where 2 are published",
        "nq/dev: not published: 1 rows of another origin, such as a sample",
        "popqa/test: missing: 2 rows are published",
    ]


def test_bad_rows_are_named_and_counted(copy):
    bad = [line("a", golden_answers=[]), "{\n", "[]\n", line("a"), line("b"), line("a"), "\n"]
    bad += [line("c", question="")] * 3
    (copy / "questions/nq/train.jsonl").write_bytes("".join(bad).encode() + b"\xff\n")
    lines = verify(copy)
    # Line 7 is blank, and blank lines are no rows wherever rows are read.
    assert lines[0] == "nq/train: too long: 10 rows where 3 are published"
    assert [text.split(": ")[1] for text in lines[1:6]] == [
        f"train.jsonl:{number}" for number in (1, 2, 3, 6, 8)
    ]
    assert "golden_answers = []" in lines[1] and "found a JSON list" in lines[3]
    assert lines[4].endswith("expected a new id, found 'a' of line 4")
    assert lines[6:] == ["nq/train: 3 more bad rows"]


def test_a_copy_that_is_nowhere_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(At2poEnvError, match="found no such folder; pass its parent as root"):
        verify(tmp_path)
    monkeypatch.delenv("AT2PO_DATA", raising=False)
    with pytest.raises(At2poEnvError, match="AT2PO_DATA/questions"):
        survey()


def test_the_data_pack_is_named_as_a_sample(at2po_data):
    lines = verify(at2po_data)
    assert "hotpotqa/test: not published: 278 rows of another origin, such as a sample" in lines
    assert "hotpotqa/train: partial copy: 258 of 90,447 published rows" in lines
    assert "nq/test: partial copy: 264 of 3,610 published rows" in lines
    assert "musique/dev: missing: 2,417 rows are published" in lines
    assert not any("bad rows" in text or ".jsonl:" in text for text in lines)
    assert {report.set_name for report in survey(at2po_data)} == set(PUBLISHED)
