"""Evaluations that were interrupted or failed in part end as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import at2po_envs  # noqa: F401 - registers the ids
from at2po_agents.errors import AgentUnusableError
from at2po_agents.rollout.agents import Reply
from benchmarks import evaluate
from benchmarks.errors import EvaluationError
from benchmarks.evaluation.evaluate import FAILURES_IN_A_ROW
from tests.benchmarks.killable import run


@pytest.fixture(scope="module")
def env() -> Any:
    return gymnasium.make("at2po/MiniWiki-v0", questions=30, passages=100).unwrapped


class Wrapped:
    """The erring scripted agent, counting the questions that it is asked, with trouble on top."""

    name = "wrapped"

    def __init__(self, env: Any, bad: Sequence[int] = (), seed: int = 0) -> None:
        self.inner = env.expert(error_rate=0.3, seed=seed)
        self.settings = {"error_rate": 0.3, "seed": seed}
        self.bad = {env.core.begin(env.questions[i])[1] for i in bad}
        self.asked: list[str] = []

    def act(self, transcripts: Sequence[Sequence[str]]) -> list[str | Reply]:
        self.asked += [each[0] for each in transcripts if len(each) == 1]
        if any(each[0] in self.bad and len(each) == 3 for each in transcripts):
            raise OSError("the wire is cut")
        return self.inner.act(transcripts)


def files(folder: Path) -> tuple[bytes, bytes]:
    return tuple((folder / name).read_bytes() for name in ("summary.json", "card.json"))


def test_what_has_ended_is_not_asked_again(env: Any, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    evaluate(Wrapped(env), env, limit=20, batch=6, out=whole)
    first, second, third = Wrapped(env), Wrapped(env), Wrapped(env)
    evaluate(first, env, limit=7, out=parts)
    report = evaluate(second, env, limit=20, out=parts)
    assert (len(first.asked), len(second.asked)) == (7, 13)
    assert files(parts) == files(whole)
    assert list(evaluate(third, env, limit=20, out=parts).episodes) == list(report.episodes)
    assert third.asked == [] and files(parts) == files(whole)
    timing = json.loads((parts / "timing.json").read_text())
    assert [session["episodes"] for session in timing["sessions"]] == [7, 13, 0]


@given(cut=st.integers(0, 10**6), order=st.permutations(range(12)))
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_a_file_cut_at_any_byte_is_resumed(
    env: Any, tmp_path_factory: pytest.TempPathFactory, cut: int, order: list[int]
) -> None:
    whole, cut_off = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("cut")
    asked = [env.questions[i].id for i in order]
    evaluate(Wrapped(env), env, questions=asked, out=whole)
    written = (whole / "episodes.jsonl").read_bytes()
    cut %= len(written) + 1
    (cut_off / "episodes.jsonl").write_bytes(written[:cut])
    (cut_off / "card.json").write_bytes((whole / "card.json").read_bytes())
    agent = Wrapped(env)
    evaluate(agent, env, questions=asked, batch=1 + cut % 5, out=cut_off)
    assert files(cut_off) == files(whole)
    assert len(agent.asked) == 12 - written[:cut].count(b"\n")


def test_an_episode_that_fails_is_wrong_on_record_and_leaves_the_others_alone(
    env: Any, tmp_path: Path
) -> None:
    sound = evaluate(Wrapped(env), env, limit=10)
    bad = [i for i, episode in enumerate(sound.episodes) if episode["turns"] > 1 and episode["em"]]
    bad = bad[:2]
    assert len(bad) == 2
    reports = [
        evaluate(Wrapped(env, bad), env, limit=10, batch=batch, out=tmp_path / str(batch))
        for batch in (1, 10)
    ]
    assert reports[0].summary() == reports[1].summary()
    report = reports[0]
    assert [f["question_id"] for f in report.failures] == [env.questions[i].id for i in bad]
    assert report.failures[0]["error"] == "OSError: the wire is cut"
    assert report.em == pytest.approx(sound.em - 0.2)
    for i, (episode, whole) in enumerate(zip(report.episodes, sound.episodes, strict=True)):
        if i in bad:
            assert (episode["em"], episode["f1"], episode["cover_em"]) == (False, 0.0, False)
            assert (episode["prediction"], episode["format_ok"]) == (None, False)
            assert episode["transcript"] == whole["transcript"][:1] and episode["turns"] == 1
            assert not episode["truncated"]
        else:
            assert episode == whole


def test_failures_are_played_again_on_request_only(env: Any, tmp_path: Path) -> None:
    whole, mended = tmp_path / "whole", tmp_path / "mended"
    report = evaluate(Wrapped(env), env, limit=10, out=whole)
    bad = [i for i, episode in enumerate(report.episodes) if episode["turns"] > 1][:2]
    evaluate(Wrapped(env, bad), env, limit=10, out=mended)
    left, again = Wrapped(env), Wrapped(env)
    assert len(evaluate(left, env, limit=10, out=mended).failures) == 2 and left.asked == []
    assert not evaluate(again, env, limit=10, out=mended, retry_failed=True).failures
    assert len(again.asked) == 2
    assert files(mended) == files(whole)
    assert (mended / "episodes.jsonl").read_text().count("\n") == 10


class Fails:
    """Fails at all questions but those it knows how to say something about."""

    def __init__(self, env: Any, *answered: int) -> None:
        self.answered = {env.core.begin(env.questions[i])[1] for i in answered}

    def act(self, transcripts: Sequence[Any]) -> list[str | Reply]:
        failed = Reply("", 5, error="gave up", prompt_tokens=7)
        return ["</answer>" if each[0] in self.answered else failed for each in transcripts]


def test_a_reply_may_say_that_it_failed(env: Any) -> None:
    report = evaluate(Fails(env, 1), env, limit=4)
    assert [failure["error"] for failure in report.failures] == ["gave up"] * 3
    assert (report.failed, report.questions, report.turns) == (3, 4, 0.25)
    assert (report.em, report.tokens, report.prompt_tokens) == (0, 15, 21)


def test_an_evaluation_that_measured_nothing_ends_with_an_error(env: Any, tmp_path: Path) -> None:
    for _ in range(2):  # the second one finds all on record, and says the same
        with pytest.raises(EvaluationError, match="all 3 episodes failed, .* gave up; mend it"):
            evaluate(Fails(env), env, limit=3, out=tmp_path)
    assert (tmp_path / "episodes.jsonl").read_text().count("\n") == 3
    assert not (tmp_path / "summary.json").exists()
    report = evaluate(Fails(env, 0), env, limit=3, out=tmp_path, retry_failed=True)
    assert json.loads((tmp_path / "summary.json").read_text())["failed"] == report.failed == 2


def test_a_question_that_leaves_no_room_was_not_measured(env: Any) -> None:
    class Full:
        def act(self, transcripts: Sequence[Any]) -> list[Reply]:
            return [Reply("", truncated=True)] * len(transcripts)

    with pytest.raises(EvaluationError, match="all 2 episodes failed, .* leaves no room"):
        evaluate(Full(), env, limit=2)


def test_an_agent_that_only_fails_is_not_asked_for_ever(env: Any, tmp_path: Path) -> None:
    agent = Wrapped(env, range(30))
    agent.bad, agent.inner = set(), None
    with pytest.raises(EvaluationError, match="20 episodes in a row .* AttributeError"):
        evaluate(agent, env, batch=1, out=tmp_path)
    assert len(agent.asked) == FAILURES_IN_A_ROW
    assert not (tmp_path / "summary.json").exists()
    assert evaluate(Wrapped(env), env, out=tmp_path, retry_failed=True).failures == []


def test_an_agent_that_cannot_work_ends_the_evaluation(env: Any) -> None:
    class Barred:
        def act(self, transcripts: Any) -> list[str]:
            raise AgentUnusableError("no key")

    with pytest.raises(AgentUnusableError, match="no key"):
        evaluate(Barred(), env)


def test_another_evaluation_is_refused(env: Any, tmp_path: Path) -> None:
    evaluate(Wrapped(env), env, limit=5, out=tmp_path)
    before = (tmp_path / "episodes.jsonl").read_bytes()
    with pytest.raises(EvaluationError, match=r"agent_settings.seed: 0 there, 1 here\nchoose"):
        evaluate(Wrapped(env, seed=1), env, limit=5, out=tmp_path)
    other: Any = gymnasium.make("at2po/MiniWiki-v0", questions=30, passages=100, max_tool_calls=2)
    with pytest.raises(EvaluationError, match="max_tool_calls: 6 there, 2 here"):
        evaluate(Wrapped(env), other, limit=5, out=tmp_path)
    with pytest.raises(EvaluationError, match="of the 3 questions asked, found 2 of others"):
        evaluate(Wrapped(env), env, limit=3, out=tmp_path)
    assert (tmp_path / "episodes.jsonl").read_bytes() == before


def test_a_question_on_record_twice_is_refused(env: Any, tmp_path: Path) -> None:
    evaluate(Wrapped(env), env, limit=1, out=tmp_path)
    file = tmp_path / "episodes.jsonl"
    file.write_text(file.read_text() * 2)
    with pytest.raises(EvaluationError, match="jsonl:2: expected a new question"):
        evaluate(Wrapped(env), env, limit=1, out=tmp_path)


def test_two_processes_do_not_write_one_folder(env: Any, tmp_path: Path) -> None:
    class Second(Wrapped):
        def act(self, transcripts: Sequence[Sequence[str]]) -> list[str | Reply]:
            with pytest.raises(EvaluationError, match="found an evaluation by process"):
                evaluate(Wrapped(env), env, limit=1, out=tmp_path)
            return super().act(transcripts)

    assert evaluate(Second(env), env, limit=1, out=tmp_path).questions == 1


def test_text_without_a_utf8_form_is_kept(env: Any, tmp_path: Path) -> None:
    class Odd:
        def act(self, transcripts: Sequence[Any]) -> list[str]:
            return ["\ud800 \u2028 é"] * len(transcripts)

    (episode,) = evaluate(Odd(), env, limit=1, out=tmp_path).episodes
    assert episode["transcript"][0]["action"] == "\ud800 \u2028 é"


@pytest.mark.slow
def test_an_evaluation_killed_twenty_times_ends_as_one_that_was_not(tmp_path: Path) -> None:
    draw = random.Random(0)
    # Processes forked from a server that has imported everything: they start at once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run.__module__])

    def start(folder: Path, batch: int) -> Any:
        child = context.Process(target=run, args=(str(folder), batch))
        child.start()
        return child

    def finish(folder: Path) -> None:
        child = start(folder, 16)
        child.join()
        assert child.exitcode == 0

    def lines() -> int:
        file = killed / "episodes.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole)
    for number in range(20):
        before, child = lines(), start(killed, draw.randint(1, 16))
        # At a random moment after it has got somewhere, so that twenty kills fit into one run.
        goal = before + draw.randint(0, 12)
        while lines() < goal and child.is_alive():
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.05))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL, f"the evaluation ended before kill {number}"
    finish(killed)
    assert files(killed) == files(whole)
    assert lines() == 400


@pytest.mark.parametrize("name", ["card.json", "episodes.jsonl", "timing.json"])
def test_a_pipe_in_the_folder_is_not_waited_for(env: Any, tmp_path: Path, name: str) -> None:
    evaluate(Wrapped(env), env, limit=2, out=tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    if name == "timing.json":  # a mere record
        evaluate(Wrapped(env), env, limit=2, out=tmp_path)
        assert (tmp_path / name).is_file()
    else:
        with pytest.raises((EvaluationError, OSError), match="a pipe"):
            evaluate(Wrapped(env), env, limit=2, out=tmp_path)


def test_episodes_that_are_a_link_are_left_alone(env: Any, tmp_path: Path) -> None:
    evaluate(Wrapped(env), env, limit=2, out=tmp_path / "out")
    (tmp_path / "thesis").write_text("one line, without its end")
    (tmp_path / "out" / "episodes.jsonl").unlink()
    (tmp_path / "out" / "episodes.jsonl").symlink_to(tmp_path / "thesis")
    with pytest.raises(EvaluationError, match="found a link"):
        evaluate(Wrapped(env), env, limit=2, out=tmp_path / "out")
    assert (tmp_path / "thesis").read_text() == "one line, without its end"


def test_a_draft_that_is_a_link_is_not_followed(env: Any, tmp_path: Path) -> None:
    out, thesis = tmp_path / "out", tmp_path / "thesis"
    evaluate(Wrapped(env, bad=[0]), env, limit=2, out=out)
    thesis.write_text("mine")
    (out / f".episodes.jsonl.{os.getpid()}.draft").symlink_to(thesis)
    assert evaluate(Wrapped(env), env, limit=2, out=out, retry_failed=True).failed == 0
    assert thesis.read_text() == "mine" and not (out / "episodes.jsonl").is_symlink()


def test_an_evaluation_writes_nothing_where_another_has_taken_its_place(
    env: Any, tmp_path: Path
) -> None:
    out, agent = tmp_path / "out", Wrapped(env)
    evaluate(Wrapped(env), env, limit=2, out=out)
    act, before = agent.act, files(out)

    def renamed(transcripts: Sequence[Sequence[str]]) -> list[str | Reply]:
        if not (tmp_path / "moved").exists():
            out.rename(tmp_path / "moved")
            evaluate(Wrapped(env), env, limit=2, out=out)
        return act(transcripts)

    agent.act = renamed  # type: ignore[method-assign]
    with pytest.raises(EvaluationError, match="found it renamed or removed"):
        evaluate(agent, env, limit=4, out=out)
    assert files(out) == before
