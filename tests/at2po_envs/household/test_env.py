from __future__ import annotations

import numpy as np
import pytest

from at2po_envs import EMReward, Outcome, Question, State, ToolCost, ToolResult, WeightedSum
from at2po_envs.errors import EpisodeOverError, ToolResultError
from at2po_envs.household import HouseholdEnv, HouseholdRules, PlannerAgent, draw_questions
from at2po_envs.household.tasks import task_of
from tests.at2po_envs.playing import play

# -- episodes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def env():
    return HouseholdEnv(questions=30, render_mode="ansi", max_turns=12)


def act(command):
    return f"<think> a </think> <act> {command} </act>"


@pytest.mark.parametrize("preset", ["small", "standard"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_planner_always_reaches_the_goal(preset, split):
    env = HouseholdEnv(preset, split, seed=2, questions=25)
    for question, taken in zip(env.questions, play(env, env.expert()), strict=True):
        assert (taken.reward, taken.terminated, taken.truncated) == (1.0, True, False)
        assert len(taken.state.turns) == question.metadata["steps"]
        assert taken.info["em"] and taken.info["f1"] == 1 and taken.info["format_ok"]
        assert taken.observation.endswith("The task is done.\n</result>")


def test_a_planner_that_errs_recovers_where_turns_are_left():
    env = HouseholdEnv("standard", questions=15)
    taken = play(env, env.expert(error_rate=0.25))
    assert np.mean([t.reward for t in taken]) > 0.9
    assert not all(t.info["format_ok"] for t in taken)
    spare = [len(t.state.turns) - t.state.question.metadata["steps"] for t in taken]
    assert np.mean(spare) > 2
    small = HouseholdEnv(questions=15)
    first, again = (play(small, small.expert(error_rate=0.25)) for _ in range(2))
    assert first == again
    lost = play(small, small.expert(error_rate=1.0))
    assert np.mean([t.reward for t in lost]) < 0.3
    assert all(t.state.limit_reached or t.reward for t in lost)


def test_play_and_act_write_the_same(env):
    agent = env.expert(error_rate=0.3, seed=3)
    for question in env.questions[:10]:
        state, prompt = env.core.begin(question)
        transcript, script = [prompt], agent.play(question)
        for action in script:
            assert agent.act([transcript]) == [action]
            state = env.core.transition(state, action).state
            transcript += [action, state.turns[-1].observation]
        assert state.done


def test_the_planner_refuses_what_it_does_not_know(env):
    with pytest.raises(ValueError, match="one of 30 known tasks, found 'What"):
        env.expert().act([["What?"]])
    with pytest.raises(ValueError, match="error_rate: expected a number in"):
        PlannerAgent(env.questions, env.core, error_rate=-1)
    with pytest.raises(ValueError, match="expected a question of Household"):
        env.core.begin(Question("a", "b", ("c",)))


def test_an_episode_earns_one_once(env):
    env.reset(options={"index": 0})
    prompt, _ = env.reset(options={"index": 0})
    assert prompt.endswith(f"Task: {env.questions[0].question}\n") and "Commands: look" in prompt
    commands = env.questions[0].golden_answers[0].split("; ")
    rewards = []
    for command in commands:
        observation, reward, terminated, truncated, info = env.step(act(command))
        rewards.append(reward)
        assert terminated == (command is commands[-1]) and not truncated
    assert rewards == [0.0] * (len(commands) - 1) + [1.0]
    assert info["reward_em"] == 1.0 and info["tool_calls"] == len(commands)
    assert env.record(env.state, Outcome.from_info(info))["em"] is True
    assert env.render().startswith("Question: ") and "--- turn 2" in env.render()
    with pytest.raises(EpisodeOverError, match="expected a running episode"):
        env.step(act("look"))


def test_the_turn_limit_ends_without_reward(env):
    env.reset(options={"index": 1})
    for number in range(1, 13):
        _, reward, terminated, truncated, info = env.step(act("look"))
        assert (reward, terminated, truncated) == (0.0, number == 12, False)
    assert info["limit_reached"] and info["em"] is False and info["f1"] == 0 and info["format_ok"]


def test_turns_without_a_command_are_told_so_and_spoil_the_format(env):
    env.reset(options={"index": 1})
    world = env.state.world
    for text in ("nothing", "<act></act>", "</act>", r"<answer> \boxed{done} </answer>"):
        observation, reward, terminated, _, info = env.step(text)
        assert "command" in observation and reward == 0 and not terminated
    assert env.state.world is world and env.state.slips == 4 and info["tool_calls"] == 0
    taken = env.core.truncate(env.state, "<think> and then")
    assert taken.truncated and not taken.terminated and not taken.info["format_ok"]
    assert taken.state.done and taken.reward == 0 and not taken.state.limit_reached


def test_misuse_of_the_rules(env):
    state, _ = env.core.begin(env.questions[0])
    with pytest.raises(ToolResultError, match="expected no tool results, found 1"):
        env.core.transition(state, act("look"), [ToolResult(True, "")])
    with pytest.raises(TypeError, match="expected a HouseholdState, found a State"):
        env.core.transition(State(env.questions[0]), act("look"))


def test_rewards_are_composed():
    rules = HouseholdRules(reward=WeightedSum(((2.0, EMReward()), (1.0, ToolCost(0.1)))))
    question = draw_questions("small", "train", 0, 1)[0]
    state, _ = rules.begin(question)
    for command in task_of(question).commands:
        taken = rules.transition(state, act(command))
        state = taken.state
    assert taken.info["reward_em"] == 2.0 and taken.info["reward_tool_cost"] == -0.1
    assert state.total_reward == pytest.approx(2 - 0.1 * question.metadata["steps"])


def test_the_brief_prompt_is_the_task_alone():
    brief = HouseholdEnv(questions=2, prompt="brief")
    assert brief.reset(seed=0)[0] == f"Task: {brief.state.question.question}\n"


def test_another_dialect_gives_its_first_command():
    env = HouseholdEnv(questions=2, dialect="tool-calls")
    env.reset(seed=0)
    call = '<tool_call>{{"name": "act", "arguments": {{"command": "{}"}}}}</tool_call>'
    observation, *_, info = env.step(call.format("inventory") + call.format("look"))
    assert "You hold nothing." in observation and "Only the first command" in observation
    assert info["tool_calls"] == 1 and not env.state.slips
    with pytest.raises(ValueError, match="found 'tool-call'"):
        HouseholdEnv(questions=2, dialect="tool-call")


def test_sampled_actions_are_commands(env):
    env.action_space.seed(0)
    calls = [env.core.dialect.parse(env.action_space.sample()).calls for _ in range(30)]
    assert all(len(each) == 1 and not each[0].problem for each in calls)
    assert len({each[0].arguments["command"] for each in calls}) == 6


VERBS = "look go open close take put clean heat cool switch use unlock examine in on to the".split()


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_bytes_and_words_never_raise(env, count):
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    for i in range(count):
        noise = rng.bytes(int(rng.integers(0, 60)))
        text = noise.decode("latin-1" if i % 2 else "utf-8", errors="surrogateescape")
        if i % 3:
            names = [t.name for t in env.state.world.house.things] + VERBS
            words = [str(word) for word in rng.choice(names, size=rng.integers(0, 6))]
            text = f"<act>{' '.join(words)}{text if i % 5 else ''}</act>"
        observation, reward, terminated, truncated, info = env.step(text)
        assert observation.startswith(" <result>\n") and not truncated and not info["flags"]
        assert reward == float(info.get("em", False))
        if terminated:
            env.reset()
