from __future__ import annotations

import json
import random

import pytest

from at2po_envs import At2poTags, Question, ToolQA
from at2po_envs.miniwiki import MiniWikiEnv, ScriptedAgent
from at2po_envs.miniwiki.questions import plan_of
from tests.at2po_envs.playing import play, printed


def make(preset="demo", **settings):
    return MiniWikiEnv(preset, **{"questions": 100} | settings)


@pytest.fixture(scope="module")
def env():
    return make()


def em(taken):
    return sum(transition.info["em"] for transition in taken) / len(taken)


def actions(taken):
    return [[turn.action for turn in transition.state.turns] for transition in taken]


# -- the perfect agent ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 0},
        {"seed": 1, "split": "test"},
        {"preset": "standard", "seed": 0},
        {"preset": "standard", "seed": 1, "split": "test", "questions": 500},
        {"preset": "hard", "passages": 5000},
        {"preset": "standard", "phrasings": 1, "wordings": 1, "sentences": 0},
        pytest.param({"preset": "hard", "questions": 500}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_perfect_agent_is_right_and_has_read_what_it_answers(settings):
    env = make(**settings)
    taken = play(env, env.expert())
    assert em(taken) == 1.0 and all(t.reward == 1.0 and t.info["format_ok"] for t in taken)
    unread, spare = 0, 0
    for question, transition in zip(env.questions, taken, strict=True):
        state = transition.state
        seen = {title for turn in state.turns for title in turn.titles}
        unread += not seen.issuperset(question.metadata["supporting_titles"])
        spare += state.tool_calls - question.metadata["hops"]
        assert not state.limit_reached
        assert question.metadata["hops"] <= state.tool_calls <= env.core.max_tool_calls
    # A search may miss a page among many alike; in the demo it never does.
    assert unread <= 0.01 * len(taken) and spare <= 0.05 * len(taken)
    assert env.wiki.passages > 400 or unread == spare == 0


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_it_keeps_to_the_search_limit(limit):
    env = make("standard", max_tool_calls=limit)
    taken = play(env, env.expert())
    assert em(taken) == 1.0
    assert max(t.state.tool_calls for t in taken) == limit
    assert not any(t.state.limit_reached for t in taken)


def test_it_asks_in_other_words_until_the_page_comes(env):
    question = next(q for q in env.questions if q.metadata["hops"] == 1)
    (title,) = question.metadata["supporting_titles"]
    nothing = " <result>\nNo search results found.\n</result>"
    script = env.expert().play(question)
    queries = [next(script), script.send(nothing), script.send(nothing)]
    assert all(name in query for query in queries for name in [title.split(" (")[0]])
    assert len(set(queries)) == 3
    assert "<answer>" in script.send(nothing)
    script = env.expert().play(question)
    next(script)
    assert "<answer>" in script.send(f' <result>\nPage 1: "{title}"\nText.\n</result>')


def test_retries_leave_a_search_for_every_hop():
    env = make("standard", max_tool_calls=5)
    question = next(q for q in env.questions if q.metadata["hops"] == 4)
    script, observation, written = env.expert().play(question), None, []
    while "<answer>" not in (action := script.send(observation)):
        written.append(action)
        observation = " <result>\nNo search results found.\n</result>"
    assert len(written) == 5
    plan = plan_of(question)
    titles = [env.wiki.world.title(e) for c in plan.chains for e in c.entities(env.wiki.world)]
    for title in titles:
        words = title.replace("(", "").replace(")", "")
        assert any(title in action or words in action for action in written)


# -- the erring agent -----------------------------------------------------------------------------


def test_em_falls_with_the_rates(env):
    by_error = [em(play(env, env.expert(error_rate=rate))) for rate in (0.0, 0.2, 0.5, 1.0)]
    assert by_error == sorted(by_error, reverse=True)
    assert by_error[0] == 1.0 and 0.5 < by_error[1] < 0.95 and by_error[3] < 0.4
    by_haste = [em(play(env, env.expert(haste=rate))) for rate in (0.0, 0.3, 1.0)]
    assert by_haste == sorted(by_haste, reverse=True)
    assert by_haste[0] == 1.0 and 0.5 < by_haste[1] < 0.95


def test_haste_follows_each_chain_for_one_search_and_keeps_the_format(env):
    taken = play(env, env.expert(haste=1.0))
    for question, step in zip(env.questions, taken, strict=True):
        assert step.info["format_ok"]
        assert step.state.tool_calls <= len(plan_of(question).chains)
    singles = [
        t.info["em"]
        for q, t in zip(env.questions, taken, strict=True)
        if q.metadata["type"] == "single"
    ]
    assert all(singles) and singles


def test_errors_are_of_every_kind(env):
    taken = play(env, env.expert(error_rate=0.5))
    asked = [
        (question, turns)
        for question, turns in zip(env.questions, actions(taken), strict=True)
        if question.metadata["type"] == "single"
    ]
    first = [turns[0] for _, turns in asked]
    assert any("</think>" not in turn for turn in first)
    wrong = [
        turns[0]
        for question, turns in asked
        if question.metadata["supporting_titles"][0].split(" (")[0] not in turns[0]
    ]
    assert 0 < len(wrong) < len(asked)
    assert any("\\boxed" not in turns[-1] for _, turns in asked)
    misread = [
        t
        for t in taken
        if t.info["format_ok"]
        and not t.info["em"]
        and set(t.state.question.metadata["supporting_titles"])
        <= {title for turn in t.state.turns for title in turn.titles}
    ]
    assert misread


def test_errors_depend_on_seed_and_question_alone(env):
    written = actions(play(env, env.expert(error_rate=0.4, seed=3)))
    assert written == actions(play(make(), make().expert(error_rate=0.4, seed=3)))
    assert written != actions(play(env, env.expert(error_rate=0.4, seed=4)))
    some = env.questions[40:60]
    assert written[40:60] == actions(play(env, env.expert(error_rate=0.4, seed=3), some))


def test_errors_are_the_same_in_every_process(env):
    code = (
        "import json; from at2po_envs.miniwiki import MiniWikiEnv; env = MiniWikiEnv(questions=100)"
        "; agent = env.expert(error_rate=0.5, haste=0.5, seed=2)"
        "; print(json.dumps([next(agent.play(q)) for q in env.questions]))"
    )
    agent = env.expert(error_rate=0.5, haste=0.5, seed=2)
    assert json.loads(printed(code, 1)) == [
        next(agent.play(question)) for question in env.questions
    ]


def test_a_play_may_have_a_seed_of_its_own(env):
    agent = env.expert(error_rate=0.5, seed=3)
    question = env.questions[0]

    def first_turns(seeds):
        return [next(agent.play(question, seed)) for seed in seeds]

    assert first_turns(range(20)) == first_turns(range(20))
    assert len(set(first_turns(range(20)))) > 1
    assert first_turns([None]) == first_turns([3])


# -- acting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_act_is_a_function_of_the_transcript(env, rate):
    agent = env.expert(error_rate=rate, seed=1)
    taken = play(env, agent)
    pairs = []
    for transition in taken:
        transcript = [env.core.begin(transition.state.question)[1]]
        for turn in transition.state.turns:
            pairs.append((tuple(transcript), turn.action))
            transcript += [turn.action, turn.observation]
    random.Random(0).shuffle(pairs)
    assert agent.act([transcript for transcript, _ in pairs]) == [action for _, action in pairs]
    for transcript, action in pairs[:50]:
        assert env.expert(error_rate=rate, seed=1).act([transcript]) == [action]


def test_act_goes_on_answering_whatever_the_transcript_says(env):
    prompt = env.core.begin(env.questions[0])[1]
    for agent in (env.expert(), env.expert(error_rate=0.5), env.expert(haste=1.0)):
        (action,) = agent.act([(prompt, *("noise", "more noise") * 12)])
        assert "</answer>" in action


def test_bad_arguments_are_refused(env):
    for name in ("error_rate", "haste"):
        for rate in (-0.1, 1.1, float("nan")):
            with pytest.raises(ValueError, match=rf"{name}: expected a number in \[0, 1\], found"):
                env.expert(**{name: rate})
    with pytest.raises(ValueError, match="expected the prompt of one of 100 known questions"):
        env.expert().act([("Question: what?\n",)])
    paper = ScriptedAgent(env.wiki.world, env.questions, ToolQA(At2poTags("paper")))
    with pytest.raises(ValueError, match="known questions"):
        paper.act([(env.core.begin(env.questions[0])[1],)])
    with pytest.raises(ValueError, match="expected a question of MiniWiki"):
        next(env.expert().play(Question("q", "What?", ("that",))))
