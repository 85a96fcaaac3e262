"""Whatever an agent returns or raises: a turn, a failed episode, or an error that names it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import at2po_envs  # noqa: F401 - registers the ids
from at2po_agents.rollout.agents import Reply
from benchmarks import evaluate
from benchmarks.errors import EvaluationError, ReplyError

NAN, INF = float("nan"), float("inf")
SURROGATE = "\ud83d"


@pytest.fixture(scope="module")
def env() -> Any:
    return gymnasium.make("at2po/MiniWiki-v0", questions=4, passages=100).unwrapped


class Returns:
    """Plays the first question soundly, then returns what it is told to."""

    name = "hostile"

    def __init__(self, env: Any, odd: Callable[[int], Any]) -> None:
        self.expert, self.odd = env.expert(), odd
        self.first = env.core.begin(env.questions[0])[1]

    def act(self, transcripts: Sequence[Sequence[str]]) -> Any:
        if all(each[0] == self.first for each in transcripts):
            return self.expert.act(transcripts)
        return self.odd(len(transcripts))


class Uncounted(int):
    """A number that cannot be had."""

    def __int__(self) -> int:
        raise RuntimeError("no number")


class Shouts(str):
    """A text that does not look like what it holds."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (lambda n: None, "found NoneType"),
        (lambda n: [Reply("a", cost=Fraction(10**400))] * n, "found Fraction"),
        (lambda n: [Reply("a", tokens=Uncounted(1))] * n, "found 1 .Uncounted"),
        (lambda n: (text for text in ["a"] * n), "found generator"),
        (lambda n: {i: "a" for i in range(n)}, "found dict"),
        (lambda n: "a" * n, "expected a list of turns, one an episode, found str"),
        (lambda n: b"a" * n, "found bytes"),
        (lambda n: {"a"}, "found set"),
        (lambda n: 3, "found int"),
        (lambda n: ["a"] * (n + 1), "expected 1 turns, one an episode, found 2"),
        (lambda n: [], "expected 1 turns, one an episode, found 0"),
        (lambda n: [None] * n, "expected a str or Reply as turn, found NoneType"),
        (lambda n: [b"a"] * n, "as turn, found bytes"),
        (lambda n: [["a"]] * n, "as turn, found list"),
        (lambda n: [Reply(None)] * n, "expected a str as text of a Reply, found None"),
        (lambda n: [Reply(b"a")] * n, "expected a str as text of a Reply, found b'a'"),
        (lambda n: [Reply("a", tokens=NAN)] * n, "number of tokens as tokens .* found nan"),
        (lambda n: [Reply("a", tokens=-1)] * n, "as tokens of a Reply, found -1"),
        (lambda n: [Reply("a", tokens=2.0)] * n, "as tokens of a Reply, found 2.0"),
        (lambda n: [Reply("a", tokens=True)] * n, "as tokens of a Reply, found True"),
        (lambda n: [Reply("a", tokens=10**5000)] * n, "as tokens of a Reply, found int"),
        (lambda n: [Reply("a", prompt_tokens="7")] * n, "as prompt_tokens .* found '7'"),
        (lambda n: [Reply("a", cost=INF)] * n, "finite number of dollars as cost .* found inf"),
        (lambda n: [Reply("a", cost=NAN)] * n, "as cost of a Reply, found nan"),
        (lambda n: [Reply("a", cost=-0.5)] * n, "as cost of a Reply, found -0.5"),
        (lambda n: [Reply("a", cost=None)] * n, "as cost of a Reply, found None"),
        (lambda n: [Reply("a", truncated=1)] * n, "True or False as truncated .* found 1"),
        (lambda n: [Reply("a", error=None)] * n, "expected a str as error .* found None"),
        (lambda n: [Reply("a", error=OSError("x"))] * n, "as error of a Reply, found OSError"),
    ],
)
def test_a_reply_that_is_none_names_agent_and_expectation_and_loses_nothing(
    env: Any, tmp_path: Path, odd: Callable[[int], Any], message: str
) -> None:
    with pytest.raises(ReplyError, match=f"^hostile: .*{message}"):
        evaluate(Returns(env, odd), env, batch=1, out=tmp_path)
    (line,) = (tmp_path / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["question_id"] == env.questions[0].id
    report = evaluate(Returns(env, lambda n: [""] * n), env, batch=1, out=tmp_path)
    assert (report.questions, report.failed) == (4, 0)


def test_numbers_and_texts_of_other_libraries_are_taken_as_what_they_are(env: Any) -> None:
    odd = Reply(Shouts("</answer>"), np.int64(3), False, np.int32(5), np.float32(0.25))
    report = evaluate(Returns(env, lambda n: (odd,) * n), env, batch=1)
    assert (report.tokens, report.prompt_tokens, report.cost) == (9, 15, 0.75)
    assert report.episodes[1]["transcript"][0]["action"] == "</answer>"
    assert type(report.episodes[1]["transcript"][0]["action"]) is str


def test_an_agent_that_takes_the_transcripts_apart_loses_nothing(env: Any) -> None:
    class Empties:
        def act(self, transcripts: list[Any]) -> list[str]:
            count = len(transcripts)
            transcripts.clear()
            return [""] * count

    assert evaluate(Empties(), env).failed == 0


def test_a_list_that_cannot_be_read_fails_its_episodes(env: Any) -> None:
    class Odd(list[str]):
        def __iter__(self) -> Any:
            raise RuntimeError("not mine")

    report = evaluate(Returns(env, lambda n: Odd([""] * n)), env, batch=1)
    assert [failure["error"] for failure in report.failures] == ["RuntimeError: not mine"] * 3


class NoText(Exception):
    def __str__(self) -> str:
        raise ValueError("not even that")


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (OSError(f"{SURROGATE} is cut"), "OSError: \ufffd is cut"),
        (NoText(), "NoText"),
        (ValueError("x" * 10**6), "ValueError: " + "x" * 1988),
    ],
)
def test_an_error_of_any_text_is_on_record(
    env: Any, tmp_path: Path, error: Exception, kept: str
) -> None:
    def fail(_: int) -> Any:
        raise error

    report = evaluate(Returns(env, fail), env, batch=2, out=tmp_path)
    assert [failure["error"] for failure in report.failures] == [kept] * 3
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["failed"] == 3


def test_name_settings_and_ids_that_utf8_cannot_hold_are_written_and_resumed(
    env: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [replace(question, id=question.id + SURROGATE) for question in env.questions]
    monkeypatch.setattr(env, "questions", tuple(asked))
    agent = Returns(env, lambda n: [Reply("", error=SURROGATE)] * n)
    agent.name, agent.seed = f"a{SURROGATE}", np.int64(3)  # type: ignore[attr-defined]
    agent.settings = {  # type: ignore[attr-defined]
        SURROGATE: SURROGATE,
        "top_p": NAN,
        "limit": INF,
        "n": np.float64(0.5),
    }
    first = evaluate(agent, env, limit=2, batch=1, out=tmp_path)
    again = evaluate(agent, env, batch=1, out=tmp_path)
    assert again.card["agent"] == "a\ufffd" and again.card["seed"] == 3
    wanted = {"\ufffd": "\ufffd", "top_p": "NaN", "limit": "Infinity", "n": 0.5}
    assert again.card["agent_settings"] == wanted
    assert first.failures[0]["question_id"].endswith("\ufffd") and again.failed == 3
    for name in ("card.json", "summary.json"):
        json.loads((tmp_path / name).read_text(encoding="utf-8"), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([1], "expected a mapping as the agent's settings, found list"),
        ({("a", "b"): 1}, "can be written as JSON, found keys must be"),
        ({"n": 10**5000}, "can be written as JSON, found Exceeds the limit"),
    ],
)
def test_settings_that_cannot_go_on_record_are_refused(
    env: Any, settings: Any, message: str
) -> None:
    agent = Returns(env, lambda n: [""] * n)
    agent.settings = settings  # type: ignore[attr-defined]
    with pytest.raises(EvaluationError, match=f"^hostile: .*{message}"):
        evaluate(agent, env)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({"metadata": {"supporting_titles": titles}}, "a list of titles")
            for titles in (5, [[1]], "abc", {"a": 1}, [None], True)
        ),
        ({"golden_answers": "answer"}, "a list of texts as golden_answers"),
        ({"golden_answers": (5,)}, "a list of texts as golden_answers"),
        ({"id": 5}, "a text as id"),
        ({"question": None}, "a text as question"),
        ({"metadata": None}, "a dict as metadata"),
    ],
)
def test_questions_that_cannot_be_scored_are_refused_before_the_first_episode(
    env: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    message: str,
) -> None:
    bad = replace(env.questions[3], **changes)
    monkeypatch.setattr(env, "questions", (*env.questions[:3], bad))
    with pytest.raises(EvaluationError, match=f"question {bad.id!r}: expected {message}"):
        evaluate(env.expert(), env, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_metadata_without_titles_are_fine(env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = [replace(question, metadata={}) for question in env.questions[:2]]
    none = [replace(question, metadata={"supporting_titles": None}) for question in bare]
    for asked in (bare, none):
        monkeypatch.setattr(env, "questions", tuple(asked))
        assert evaluate(Returns(env, lambda n: [""] * n), env).retrieval_recall is None


@pytest.mark.parametrize("value", [0, -1, 2.5, NAN, "3", True])
@pytest.mark.parametrize("name", ["limit", "batch"])
def test_numbers_out_of_range_are_refused(env: Any, name: str, value: Any) -> None:
    with pytest.raises(EvaluationError, match=f"expected {name} >= 1, found"):
        evaluate(env.expert(), env, **{name: value})
