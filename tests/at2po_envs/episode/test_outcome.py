"""How an episode ended, read from an info of Gymnasium, and the protocols of the seam."""

import dataclasses

import pytest

from at2po_envs import ForkableEnv, Outcome
from at2po_envs.episode.protocols import Forkable, Restorable
from at2po_envs.errors import At2poEnvError
from at2po_envs.forking.replay import ReplayFork
from tests.at2po_envs.third_party import Corridor

SCORES = {"em": False, "f1": 0.5, "format_ok": True}


def test_an_outcome_is_what_the_last_info_says():
    env = ReplayFork(Corridor, env_options={"length": 2})
    env.reset(seed=0)
    env.step("go right\n")
    *_, truncated, info = env.step("go right\n")
    outcome = Outcome.from_info(info, truncated=truncated)
    assert outcome == Outcome(True, 1.0, True, turns=2)
    assert Outcome.from_info(outcome.info()) == outcome
    with pytest.raises(dataclasses.FrozenInstanceError):
        outcome.em = False


def test_what_an_info_leaves_out_has_a_default_but_for_the_scores():
    assert Outcome.from_info(SCORES) == Outcome(False, 0.5, True)
    assert Outcome.from_info(SCORES | {"truncated": True}).truncated
    assert not Outcome.from_info(SCORES | {"truncated": True}, truncated=False).truncated
    cut = Outcome.from_info(SCORES | {"flags": ["tool_failed"]}, dropped_tokens=3)
    assert (cut.flags, cut.info()["dropped_tokens"]) == (("tool_failed",), 3)
    assert "dropped_tokens" not in Outcome.from_info(SCORES).info()


@pytest.mark.parametrize("name", SCORES)
def test_an_info_without_a_score_is_refused(name):
    rest = {key: value for key, value in SCORES.items() if key != name}
    with pytest.raises(At2poEnvError, match=f"found none of the name '{name}' among"):
        Outcome.from_info(rest)


@pytest.mark.parametrize("em", [0.5, None, "yes", float("nan")])
def test_success_is_true_or_false(em):
    with pytest.raises(At2poEnvError, match="expected em to be true or false"):
        Outcome.from_info(SCORES | {"em": em})


def test_a_replayed_environment_is_forkable_and_a_plain_one_is_not():
    env = ReplayFork(Corridor)
    assert isinstance(env, ForkableEnv) and isinstance(env, Forkable)
    assert not isinstance(Corridor(), Restorable)
