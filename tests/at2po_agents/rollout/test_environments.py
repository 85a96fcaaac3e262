"""Environments by id: ours as they are, other people's text environments through replay."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.spaces import Text

from at2po_agents.cli import main
from at2po_agents.errors import EnvironmentNotFoundError
from at2po_agents.rollout.collector import Collector
from at2po_agents.rollout.environments import make_env, on_test_split
from at2po_agents.rollout.expansion import EntropyGuided
from at2po_agents.training.warmstart import train_tokenizer
from tests.at2po_agents.rollout.test_collector import ScriptedEngine

ACTIONS = ("left\n", "right\n", "wait\n")


class Door(gymnasium.Env):  # type: ignore[type-arg]
    """Two doors: behind the one that is named there is a treasure, at the second try at most."""

    action_space = Text(20)
    observation_space = Text(200)

    def __init__(self, worth: float = 2.0) -> None:
        self.worth = worth

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.right, self.tries = bool(self.np_random.integers(2)), 0
        return f"The treasure is {'right' if self.right else 'left'}.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.tries += 1
        won = action == ("right" if self.right else "left")
        reward = self.worth if won else 0.0
        return "Gold!" if won else "Nothing.", reward, won or self.tries == 2, False, {}


class NumberWorld(Door):
    action_space = gymnasium.spaces.Discrete(2)  # type: ignore[assignment]


gymnasium.register("foreign/Door-v0", entry_point=Door)
gymnasium.register("foreign/Number-v0", entry_point=NumberWorld)


def test_ours_come_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="at2po_agents"):
        env = make_env("at2po/MiniWiki-v0", {"questions": 20, "passages": 100})
    assert type(env).__name__ == "MiniWikiEnv" and not caplog.records


def test_trees_grow_in_a_foreign_environment(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="at2po_agents"):
        env = make_env("foreign/Door-v0", {"worth": 3.0})
    assert "foreign/Door-v0" in caplog.text and "replaying" in caplog.text
    tokenizer = train_tokenizer([*ACTIONS, "The treasure is right.\nNothing. Gold!\n"], 300)
    collector = Collector(env, ScriptedEngine(tokenizer, turns=ACTIONS), tokenizer)
    assert collector.stop == ("\n",)
    trees = collector.collect(env.questions[:6], EntropyGuided(3, 2, 2), seed=1)
    leaves = [leaf for tree in trees for leaf in tree.leaves()]
    assert len(leaves) == 6 * (3 + 2 * 2)
    assert {leaf.reward for leaf in leaves} == {0.0, 3.0}
    for tree in trees:
        treasure = "right\n" if "right" in tree.root.state.first else "left\n"
        for leaf in tree.leaves():
            won = leaf.action == treasure
            assert (leaf.reward, leaf.outcome.em) == (3.0 * won, won)
            assert won or leaf.outcome.turns == 2


def test_what_cannot_be_played_is_refused() -> None:
    for name, message in (
        ("foreign/Dor-v0", "expected the id of an environment"),
        ("no_such_module:x/Y-v0", "expected the id of an environment"),
        ("foreign/Number-v0", "action_space is gymnasium.spaces.Text, found Discrete"),
    ):
        with pytest.raises(EnvironmentNotFoundError, match=message):
            make_env(name)
    with pytest.raises(
        EnvironmentNotFoundError,
        match="options that its constructor takes.*colour",
    ):
        make_env("foreign/Door-v0", {"colour": "red"})


def test_evaluation_is_on_the_test_split_where_there_is_one() -> None:
    assert on_test_split("at2po/HotpotQA-v0", {"top_k": 1}) == {"split": "test", "top_k": 1}
    assert on_test_split("at2po/HotpotQA-v0", {"split": "train"}) == {"split": "train"}
    assert on_test_split("foreign/Door-v0", {"worth": 1.0}) == {"worth": 1.0}
    with pytest.raises(EnvironmentNotFoundError, match="found 'nobody:knows/This-v0'"):
        on_test_split("nobody:knows/This-v0", {})


def test_training_on_a_foreign_environment(tmp_path: Path) -> None:
    small = ["--steps", "1", "--rollout.questions-per-step", "2", "--optim.mini-batches", "1"]
    small += ["--eval.questions", "2", "--rollout.max-response-tokens", "30"]
    main(["train", "--env", "foreign/Door-v0", *small, "--out", str(tmp_path)])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps"], summary["env"]) == (1, "foreign/Door-v0")
    assert summary["sampled_tokens"] > 0
