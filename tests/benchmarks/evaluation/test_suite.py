"""Several sets: a folder each, and averages that weigh questions or sets alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from at2po_agents.errors import EnvironmentNotFoundError
from at2po_agents.rollout.agents import Reply
from at2po_agents.rollout.environments import make_env
from benchmarks import evaluate, evaluate_suite
from benchmarks.errors import EvaluationError
from benchmarks.statistics.intervals import wilson

ENVS = ["at2po/MiniWiki-v0", "at2po/Calculator-v0"]
SIZES = {"at2po/MiniWiki-v0": 30, "at2po/Calculator-v0": 10}


def options(env_id: str) -> dict[str, Any]:
    return {"questions": SIZES[env_id]}


def agent_for(env: Any) -> Any:
    return env.expert(error_rate=0.3 if len(env.questions) == 30 else 0.0)


def test_averages_weigh_questions_and_sets(tmp_path: Path) -> None:
    suite = evaluate_suite(agent_for, ENVS, env_options=options, out=tmp_path)
    wiki, sums = suite.sets["MiniWiki"], suite.sets["Calculator"]
    assert (wiki.questions, sums.questions, sums.em) == (30, 10, 1.0) and 0 < wiki.em < 1
    for name in ("em", "cover_em", "f1"):
        first, second = getattr(wiki, name), getattr(sums, name)
        assert suite.micro[name] == pytest.approx((30 * first + 10 * second) / 40)
        assert suite.macro[name] == pytest.approx((first + second) / 2)
        for average in (suite.micro, suite.macro):
            low, high = average[f"{name}_interval"]
            assert low < average[name] < high
    assert suite.micro["em_interval"] == wilson(suite.micro["em"], 40)
    # Only MiniWiki varies, and it is half of the macro average.
    low, high = wiki.f1_interval
    assert suite.macro["f1_interval"][1] - suite.macro["f1_interval"][0] == pytest.approx(
        (high - low) / 2, rel=0.15
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == json.loads(json.dumps(suite.summary()))
    assert (summary["questions"], summary["failures"]) == (40, 0)
    assert summary["sets"]["MiniWiki"]["em"] == wiki.em
    assert (tmp_path / "Calculator" / "episodes.jsonl").read_text().count("\n") == 10


def test_a_suite_goes_on_where_it_stopped(tmp_path: Path) -> None:
    evaluate_suite(agent_for, ENVS, env_options=options, out=tmp_path / "whole")
    evaluate_suite(agent_for, ENVS[:1], env_options=options, limit=20, out=tmp_path / "cut")
    evaluate_suite(agent_for, ENVS, env_options=options, out=tmp_path / "cut")
    whole, cut = ((tmp_path / name / "summary.json").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


class Fails:
    """Answers one question, and fails at the others."""

    def __init__(self, env: Any) -> None:
        self.first = env.core.begin(env.questions[0])[1]

    def act(self, transcripts: Any) -> list[Reply]:
        return [Reply("", error="" if each[0] == self.first else "no") for each in transcripts]


def test_failures_of_all_sets_are_counted() -> None:
    suite = evaluate_suite(Fails, ENVS, env_options=options, limit=4)
    assert suite.summary()["failures"] == 6 and suite.micro["em"] == 0
    assert [each["failed"] for each in suite.summary()["sets"].values()] == [3, 3]


def test_what_is_wrong_with_the_last_set_is_known_before_the_first_is_played(
    tmp_path: Path,
) -> None:
    with pytest.raises(EnvironmentNotFoundError, match="Nowhere"):
        evaluate_suite(
            agent_for, [ENVS[0], "at2po/Nowhere-v0"], env_options=lambda _: {}, out=tmp_path
        )
    assert not list(tmp_path.iterdir())


def test_a_suite_and_an_evaluation_do_not_share_a_folder(tmp_path: Path) -> None:
    env = make_env(ENVS[0], options(ENVS[0]))
    evaluate(env.expert(), env, limit=2, out=tmp_path / "one")
    evaluate_suite(agent_for, ENVS, env_options=options, limit=2, out=tmp_path / "many")
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*.json*")}
    with pytest.raises(EvaluationError, match="expected the folder of a suite"):
        evaluate_suite(agent_for, ENVS, env_options=options, out=tmp_path / "one")
    with pytest.raises(EvaluationError, match="expected card.json beside summary.json"):
        evaluate(env.expert(), env, out=tmp_path / "many")
    (tmp_path / "summary.json").write_text("my thesis in figures")
    with pytest.raises(EvaluationError, match="found summary.json of something else"):
        evaluate_suite(agent_for, ENVS, env_options=options, out=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.glob("*/*.json*")} == before


@pytest.mark.parametrize("envs", [[], ["at2po/MiniWiki-v0", "other/MiniWiki-v3"]])
def test_sets_need_names_of_their_own(envs: list[str]) -> None:
    with pytest.raises(EvaluationError, match="each of another name"):
        evaluate_suite(agent_for, envs)
