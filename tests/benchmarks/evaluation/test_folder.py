"""Folders of evaluations: whose they are, who writes them, and what damage costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import at2po_envs  # noqa: F401 - registers the ids
from at2po_agents.rollout.agents import Reply
from benchmarks import evaluate
from benchmarks.errors import EvaluationError
from benchmarks.evaluation.episode_log import EpisodeLog

DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def env() -> Any:
    return gymnasium.make("at2po/MiniWiki-v0", questions=4, passages=100).unwrapped


class Says:
    """Fails at some questions, and says nothing about the others."""

    name = "says"

    def __init__(self, env: Any, *bad: int) -> None:
        self.bad = {env.core.begin(env.questions[i])[1] for i in bad}

    def act(self, transcripts: Sequence[Sequence[str]]) -> list[Reply]:
        return [Reply("", error="no" if each[0] in self.bad else "") for each in transcripts]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize(
    "name", ["summary.json", "timing.json", "report.html", "episodes.jsonl", "card.json"]
)
@pytest.mark.parametrize("text", ["my thesis", "{}", '{"env": "mine"}'])
def test_files_that_no_evaluation_wrote_are_left_alone(
    env: Any, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(EvaluationError, match="choose another folder"):
        evaluate(Says(env), env, out=tmp_path)
    assert contents(tmp_path) == before


def test_other_files_do_not_matter(env: Any, tmp_path: Path) -> None:
    for name in ("notes.txt", "episodes.tmp", "summary.json.tmp", "data.jsonl"):
        (tmp_path / name).write_text("mine")
    evaluate(Says(env, 0), env, out=tmp_path)
    evaluate(Says(env), env, out=tmp_path, retry_failed=True)
    for name in ("notes.txt", "episodes.tmp", "summary.json.tmp", "data.jsonl"):
        assert (tmp_path / name).read_text() == "mine"
    assert not list(tmp_path.glob("*.draft")) and not list(tmp_path.glob(".*.draft"))


def test_the_folder_is_held_while_failures_are_taken_out(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(Says(env, 0), env, out=tmp_path)
    drop = EpisodeLog._drop

    def drop_with_a_neighbour(log: EpisodeLog, keys: set[str]) -> None:
        with pytest.raises(EvaluationError, match="expected no other writer"):
            evaluate(Says(env), env, out=tmp_path)
        drop(log, keys)
        with pytest.raises(EvaluationError, match="expected no other writer"):
            evaluate(Says(env), env, out=tmp_path)

    monkeypatch.setattr(EpisodeLog, "_drop", drop_with_a_neighbour)
    assert not evaluate(Says(env), env, out=tmp_path, retry_failed=True).failed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        "[]",
        "5",
        DEEP,
        '{"sessions": 5}',
        '{"sessions": [5]}',
        '{"sessions": [{}]}',
        '{"sessions": [{"started": 5}]}',
        '{"sessions": [{"started": "now", "seconds": "long"}]}',
        '{"sessions": [{"started": "now", "seconds": NaN}]}',
    ],
)
def test_a_damaged_timing_costs_earlier_times_alone(env: Any, tmp_path: Path, text: str) -> None:
    evaluate(Says(env), env, limit=2, out=tmp_path)
    (tmp_path / "timing.json").write_text(text)
    assert evaluate(Says(env), env, out=tmp_path).questions == 4
    (session,) = json.loads((tmp_path / "timing.json").read_text())["sessions"]
    assert session["episodes"] == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "5", DEEP, "1" * 5000, "\x00", '"text"', "cut"])
def test_a_damaged_card_is_named(env: Any, tmp_path: Path, text: str) -> None:
    evaluate(Says(env), env, limit=2, out=tmp_path)
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(EvaluationError, match="card.json: expected the card of an evaluation"):
        evaluate(Says(env), env, out=tmp_path)


ODD: list[Any] = [None, "abc", float("nan"), float("inf"), [], {}, -(10**30)]


@pytest.mark.parametrize(
    "name",
    "question_key question_id error em f1 cover_em format_ok turns searches truncated "
    "limit_reached tokens prompt_tokens cost flags transcript".split(),
)
def test_a_damaged_record_is_named_and_its_line_can_be_taken_out(
    env: Any, tmp_path: Path, name: str
) -> None:
    evaluate(Says(env, 0), env, limit=2, out=tmp_path)
    path = tmp_path / "episodes.jsonl"
    first, second = path.read_text().splitlines()
    kind = type(json.loads(first)[name])
    damaged = [json.loads(first) | {name: odd} for odd in ODD if not isinstance(odd, kind)]
    damaged = [each for each in damaged if not (kind is float and each[name] == 0)]
    for record in [{k: v for k, v in json.loads(first).items() if k != name}, *damaged]:
        path.write_text(f"{json.dumps(record)}\n{second}\n")
        with pytest.raises(EvaluationError, match=f"jsonl:1: expected the record .*{name}.*take"):
            evaluate(Says(env, 0), env, limit=2, out=tmp_path)
    path.write_text(f"{second}\n")
    assert evaluate(Says(env, 0), env, limit=2, out=tmp_path).failed == 1


def test_a_record_without_a_recall_is_as_one_whose_recall_is_null(env: Any, tmp_path: Path) -> None:
    evaluate(Says(env), env, limit=2, out=tmp_path)
    path = tmp_path / "episodes.jsonl"
    first, second = path.read_text().splitlines()
    bare = {k: v for k, v in json.loads(first).items() if k != "retrieval_recall"}
    path.write_text(f"{json.dumps(bare)}\n{second}\n")
    report = evaluate(Says(env), env, limit=2, out=tmp_path)
    assert report.retrieval_recall == json.loads(second)["retrieval_recall"]


@pytest.mark.parametrize(
    "line", [DEEP, "[]", "null", "1" * 5000, "\x00" * 9, "", "{", '"a"', '{"a": 1}', b"\xff\xfe"]
)
def test_a_line_that_is_no_record_is_named(env: Any, tmp_path: Path, line: str | bytes) -> None:
    evaluate(Says(env), env, limit=2, out=tmp_path)
    with (tmp_path / "episodes.jsonl").open("ab") as file:
        file.write((line.encode() if isinstance(line, str) else line) + b"\n")
    with pytest.raises(EvaluationError, match="jsonl:3: expected the record of an episode"):
        evaluate(Says(env), env, out=tmp_path)


def test_a_file_that_is_changed_meanwhile_is_named(env: Any, tmp_path: Path) -> None:
    report = evaluate(Says(env), env, out=tmp_path)
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(EvaluationError, match="episodes.jsonl: byte 0: expected the record"):
        list(report.episodes)


def test_a_full_disk_costs_the_episode_that_did_not_fit(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = EpisodeLog.__setitem__

    def full(log: EpisodeLog, key: str, record: dict[str, Any]) -> None:
        if len(log) == 2:
            with (tmp_path / "episodes.jsonl").open("ab") as file:
                file.write(b'{"question_id": "half a li')
            raise OSError(28, "No space left on device")
        append(log, key, record)

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeLog, "__setitem__", full)
        with pytest.raises(OSError, match="No space"):
            evaluate(Says(env), env, out=tmp_path)
    report = evaluate(Says(env), env, out=tmp_path)
    assert report.questions == 4
    assert (tmp_path / "episodes.jsonl").read_text().count("\n") == 4
