"""The policy as an agent: the same tokens, budgets and turns as the collector of training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import at2po_envs  # noqa: F401 - registers the ids
from at2po_agents.engines import Completion, EngineStats, Request
from at2po_agents.evaluation import policy_agent as agents
from at2po_agents.evaluation.policy_agent import PolicyAgent
from at2po_agents.policy.encoding import encode_inserted, encode_prompt
from at2po_agents.rollout.agents import Reply
from at2po_agents.rollout.collector import Collector
from at2po_agents.rollout.expansion import Chains

TURNS = (
    "<think> I look. </think> <search> river </search>",
    "<think> I look again. </think> <search> the founder of it </search>",
    "<think> It is clear. </think> <answer> \\boxed{ yes } </answer>",
    "I do not know the format",
)
LIMITS = {"max_prompt_tokens": 100, "max_response_tokens": 600, "context": 4096}


class SpellingEngine:
    """Spells a turn letter by letter, as no tokenizer would; which one follows from the context."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.waiting: list[Request] = []
        self.seen: list[Request] = []
        self.stats = EngineStats()

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting += requests
        self.seen += requests

    def step(self) -> list[Completion]:
        request = self.waiting.pop()  # the last one first: order must not matter
        seed = request.seed if request.temperature else 0
        digest = hashlib.sha256(f"{list(request.ids)} {seed}".encode()).digest()
        ids = [i for c in TURNS[digest[0] % len(TURNS)] for i in self.letter(c)]
        cut = ids[: request.max_new_tokens]
        finish = "stop" if cut == ids else "length"
        return [Completion(request.key, cut, [-1.0] * len(cut), self.tokenizer.decode(cut), finish)]

    def letter(self, character: str) -> list[int]:
        return self.tokenizer.encode(character, add_special_tokens=False)


def policy(env: Any, tokenizer: Any, **changes: Any) -> PolicyAgent:
    settings = {**LIMITS, "stop": env.core.dialect.stop, **changes}
    return PolicyAgent(SpellingEngine(tokenizer), tokenizer, **settings)


def play(env: Any, agent: PolicyAgent, numbers: Sequence[int]) -> dict[int, list[Any]]:
    """Play questions side by side; return each one's transcript with the replies in it."""
    transcripts, replies, states = {}, {n: [] for n in numbers}, {}
    for n in numbers:
        states[n], prompt = env.core.begin(env.questions[n])
        transcripts[n] = [prompt]
    while states:
        acted = agent.act([transcripts[n] for n in states])
        for n, reply in zip(list(states), acted, strict=True):
            replies[n].append(reply)
            if reply.truncated:
                del states[n]
                continue
            results = env.run_tools(env.core.pending_calls(states[n], reply.text))
            step = env.core.transition(states[n], reply.text, results)
            states[n] = step.state
            transcripts[n] += [reply.text, step.observation]
        states = {n: state for n, state in states.items() if not state.done}
    return replies


@pytest.mark.parametrize("response", [40, 250, 600])
def test_the_engine_sees_the_same_contexts_as_in_training(
    env: Any, tokenizer: Any, response: int
) -> None:
    agent = policy(env, tokenizer, max_response_tokens=response)
    play(env, agent, range(20))
    engine = SpellingEngine(tokenizer)
    limits = {**LIMITS, "max_response_tokens": response}
    Collector(env, engine, tokenizer, **limits).collect(env.questions, Chains(1), temperature=0)

    def contexts(requests: Sequence[Request]) -> list[tuple[list[int], int, tuple[str, ...]]]:
        return sorted((list(r.ids), r.max_new_tokens, r.stop) for r in requests)

    assert contexts(agent.engine.seen) == contexts(engine.seen)
    assert len(engine.seen) == 20 if response == 40 else len(engine.seen) > 20


@given(order=st.permutations(range(6)), split=st.integers(1, 6))
@settings(max_examples=10)
def test_replies_do_not_depend_on_company_or_order(
    env: Any, tokenizer: Any, order: list[int], split: int
) -> None:
    together = play(env, policy(env, tokenizer, temperature=1.0), range(6))
    agent = policy(env, tokenizer, temperature=1.0)
    apart = play(env, agent, order[:split]) | play(env, agent, order[split:])
    assert apart == together


def test_another_seed_draws_other_turns(env: Any, tokenizer: Any) -> None:
    first, second = (
        play(env, policy(env, tokenizer, temperature=1.0, seed=seed), range(6)) for seed in (0, 1)
    )
    assert first != second


def test_a_turn_of_someone_else_is_encoded_alone(env: Any, tokenizer: Any) -> None:
    agent = policy(env, tokenizer)
    transcript = ("Question: Who?\n", TURNS[0], " <result>\nnothing\n</result>")
    agent.act([transcript])
    rest = (encode_inserted(tokenizer, text) for text in transcript[1:])
    expected = [*encode_prompt(tokenizer, transcript[0]), *(i for ids in rest for i in ids)]
    assert list(agent.engine.seen[0].ids) == expected


def test_a_turn_forgotten_is_encoded_again(
    env: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "_REMEMBERED", 1)
    agent = policy(env, tokenizer)
    kept, lost = ["Question: Who?\n"], ["Question: What?\n"]
    for transcript in (lost, kept):
        (reply,) = agent.act([transcript])
        transcript += [reply.text, " <result>\nnothing\n</result>"]
    agent.act([lost, kept])
    shorter, longer = (len(request.ids) for request in agent.engine.seen[-2:])
    assert len(encode_inserted(tokenizer, lost[1])) < len(lost[1])
    assert shorter < longer
    assert longer > len(kept[1])


def test_a_turn_over_the_budget_is_cut_off(env: Any, tokenizer: Any) -> None:
    prompt = env.core.begin(env.questions[0])[1]
    agent = policy(env, tokenizer, max_response_tokens=10)
    (reply,) = agent.act([[prompt]])
    read = len(encode_prompt(tokenizer, prompt))
    assert reply == Reply(reply.text, tokens=10, truncated=True, prompt_tokens=read)
    assert any(turn.startswith(reply.text) for turn in TURNS)


def test_the_context_bounds_a_turn_as_the_response_does(env: Any, tokenizer: Any) -> None:
    prompt = env.core.begin(env.questions[0])[1]
    agent = policy(env, tokenizer, context=len(encode_prompt(tokenizer, prompt)) + 7)
    assert agent.act([[prompt]])[0].tokens == 7


def test_an_observation_that_leaves_no_room_gets_an_empty_reply(env: Any, tokenizer: Any) -> None:
    long = ("Question: Who?\n", TURNS[0], "word " * 100)
    used = sum(len(encode_inserted(tokenizer, text)) for text in long[1:])
    for room in (0, 1):
        agent = policy(env, tokenizer, max_response_tokens=used + room)
        full, fresh = agent.act([long, long[:1]])
        assert (full.tokens, full.truncated) == (room, True)
        assert fresh.tokens > 1
        assert len(agent.engine.seen) == 1 + room


def test_a_prompt_over_the_limit_fails_its_own_episode_alone(env: Any, tokenizer: Any) -> None:
    # It is on record then, and no other episode of the batch has to be asked again on its own.
    prompts = [["Question: Who is the founder?\n"], ["Who?"]]
    long, short = policy(env, tokenizer, max_prompt_tokens=6).act(prompts)
    assert long.error.startswith("RequestError: expected a prompt of at most 6 tokens, found")
    assert "raise max_prompt_tokens" in long.error and not long.text
    assert not short.error and short.tokens > 0


def test_what_a_failed_call_left_in_the_engine_is_no_reply(env: Any, tokenizer: Any) -> None:
    agent, engine = policy(env, tokenizer), SpellingEngine(tokenizer)
    prompts = [(env.core.begin(question)[1],) for question in env.questions[:3]]
    alone = policy(env, tokenizer).act(prompts[2:])
    step, agent.engine = engine.step, engine
    engine.step = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(ZeroDivisionError):
        agent.act(prompts[:2])
    engine.step = lambda: [step()[0] for _ in engine.waiting[:]]  # type: ignore[method-assign]
    assert len(engine.waiting) == 2
    assert agent.act(prompts[2:]) == alone
