"""The card names what an evaluation's figures depend on, and nothing that changes by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import at2po_envs
from at2po_envs.scoring.answers import SCORER_VERSION
from benchmarks import evaluate
from benchmarks.evaluation.card import differences, evaluation_card, prompt_hash
from retrieval import BM25, Passages
from retrieval.http.errors import IdentityUnknownError
from retrieval.http.messages import Identity

QUESTIONS = [{"id": f"q{i}", "question": f"Who is {i}?", "golden_answers": ["A"]} for i in range(4)]
PASSAGES = [{"id": str(i), "contents": f'"P{i}"\nPage {i} is of {i}.'} for i in range(5)]


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    written = {"questions_path": QUESTIONS, "corpus_path": PASSAGES}
    for name, rows in written.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: str(tmp_path / name) for name in written}


class Silent:
    settings = {"model": object(), "where": Path("x")}

    def act(self, transcripts: Any) -> list[str]:
        return [""] * len(transcripts)


def env_of(**options: Any) -> Any:
    return gymnasium.make("at2po/HotpotQA-v0", **options).unwrapped


def test_a_card_says_what_was_evaluated_on_what(paths: dict[str, str]) -> None:
    settings = {"split": "dev", "top_k": 2, "max_tool_calls": 4, **paths}
    env = env_of(**settings)
    card = evaluate(Silent(), env, env_options={"split": "dev"}, limit=3).card
    corpus = Passages.from_jsonl(paths["corpus_path"])
    found = {name: card[name] for name in ("env", "set", "split", "questions", "questions_in_set")}
    assert list(found.values()) == ["at2po/HotpotQA-v0", "hotpotqa", "dev", 3, 4]
    assert (card["retriever"], card["documents"], card["top_k"]) == ("BM25", 5, 2)
    assert (card["corpus_hash"], card["index_hash"]) == (corpus.hash, BM25(corpus).index_hash)
    assert (card["max_tool_calls"], card["scorer_version"]) == (4, SCORER_VERSION)
    assert card["prompt"].endswith("{question}?")
    assert (card["agent"], card["seed"]) == ("Silent", None)
    assert card["agent_settings"] == {"model": "object", "where": "x"}
    assert json.loads(json.dumps(card)) == card
    again = evaluation_card(Silent(), env_of(**settings), {"split": "dev"}, env.questions[:3])
    assert again == card


def test_what_changes_results_changes_the_card(paths: dict[str, str]) -> None:
    env = env_of(**paths)
    card = evaluation_card(Silent(), env, {}, env.questions)
    fewer = evaluation_card(Silent(), env, {}, env.questions[:1])
    assert fewer != card and differences(card, fewer) == []
    assert differences(card, {**card, "commit": "another"}) == []
    for name, change in {"top_k": 5, "dialect": "search-r1", "max_tool_calls": 1}.items():
        other_env = env_of(**paths, **{name: change})
        other = evaluation_card(Silent(), other_env, {}, env.questions)
        assert other["fingerprint"] != card["fingerprint"]
        assert name in " ".join(differences(card, other))
    with Path(paths["corpus_path"]).open("a") as file:
        file.write(json.dumps({"id": "new", "contents": '"P"\nNew.'}) + "\n")
    other = evaluation_card(Silent(), env_of(**paths), {}, env.questions)
    changed = [line.partition(":")[0] for line in differences(card, other)]
    assert changed == ["corpus_hash", "documents", "index_hash"]
    older = {**card, "versions": {**card["versions"], "torch": "0.1"}}
    (line,) = differences(card, older)
    assert line.startswith("versions.torch: '0.1' there")


def test_servers_are_asked_what_they_serve(paths: dict[str, str]) -> None:
    class Served:
        def identity(self) -> Identity:
            return Identity(retriever="Dense", index_hash="h", documents=7)

    class Plain:
        def identity(self) -> Identity:
            raise IdentityUnknownError("no /health")

    cards = []
    for retriever in (Served(), Plain()):
        env = env_of(questions_path=paths["questions_path"], retriever=retriever)
        cards.append(evaluation_card(Silent(), env, {}, env.questions))
    names = ("retriever", "index_hash", "documents", "corpus_hash")
    assert [cards[0][name] for name in names] == ["Dense", "h", 7, None]
    assert [cards[1][name] for name in names] == ["Plain", None, None, None]


@pytest.mark.parametrize("name", ["MiniWiki", "Calculator", "Household"])
def test_every_world_has_a_card(name: str) -> None:
    env: Any = gymnasium.make(f"at2po/{name}-v0", split="test", questions=3).unwrapped
    report = evaluate(env.expert(), env)
    assert report.card["split"] == "test" and report.card["agent_settings"]["error_rate"] == 0
    assert report.em == 1.0 and "{question}" in report.card["prompt"]
    assert (report.card["index_hash"] is None) == (name != "MiniWiki")


def test_prompts_are_told_apart_by_what_a_model_sees() -> None:
    dialect = at2po_envs.make_dialect("tool-calls")
    prompt = dialect.prompt("Who?")
    assert prompt_hash(prompt) == prompt_hash(dialect.prompt("Who?"))
    assert prompt_hash(prompt) != prompt_hash(str(prompt))
