"""The collector: trees that follow from seeds, and rows that repeat what was sampled."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import at2po_envs  # noqa: F401 - registers the ids
from at2po_agents.engines import Completion, EngineStats, Request, TransformersEngine
from at2po_agents.errors import RequestError
from at2po_agents.policy.encoding import encode_inserted, encode_prompt
from at2po_agents.policy.loading import load_model
from at2po_agents.rollout.collector import Collector
from at2po_agents.rollout.expansion import AEPOBranching, ARPOBranching, Chains, EntropyGuided
from at2po_agents.tree import Node, RolloutTree
from at2po_envs import Outcome
from at2po_envs.seeds import stable_hash

TURNS = (
    "<think> I look. </think> <search> river </search>",
    "<think> I look again. </think> <search> the founder of it </search>",
    "<think> It is clear. </think> <answer> \\boxed{ yes } </answer>",
    "I do not know the format",
    "<think> nothing to ask </think> <search> </search>",
)
QUESTIONS = 3


class ScriptedEngine:
    """Says the turn that the request's seed picks; requests end in an order of its own."""

    def __init__(self, tokenizer: Any, order: int = 0, turns: Sequence[str] = TURNS) -> None:
        self.tokenizer, self.texts = tokenizer, turns
        self.rng = np.random.default_rng(order)
        self.waiting: list[Request] = []
        self.seen: dict[Any, list[int]] = {}
        self.stats = EngineStats()

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting.extend(requests)
        self.seen |= {request.key: list(request.ids) for request in requests}

    def step(self) -> list[Completion]:
        ending = [r for r in self.waiting if self.rng.random() < 0.4]
        self.waiting = [r for r in self.waiting if r not in ending]
        return [self._complete(request) for request in ending]

    def _complete(self, request: Request) -> Completion:
        ids = self.tokenizer.encode(
            self.texts[request.seed % len(self.texts)], add_special_tokens=False
        )
        cut = ids[: request.max_new_tokens]
        finish = "stop" if len(cut) == len(ids) else "length"
        logprobs = np.random.default_rng(request.seed).uniform(-2, 0, len(cut)).tolist()
        return Completion(request.key, cut, logprobs, self.tokenizer.decode(cut), finish)

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def grow(
    env: Any, engine: ScriptedEngine, expansion: Any, *, seed: int = 0, **limits: int
) -> list[RolloutTree]:
    collector = Collector(env, engine, engine.tokenizer, **limits)
    return collector.collect(env.questions[:QUESTIONS], expansion, seed=seed)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), room=st.integers(20, 400))
def test_rows_repeat_what_the_engine_saw_and_sampled(
    env: Any, tokenizer: Any, seed: int, room: int
) -> None:
    engine = ScriptedEngine(tokenizer, seed)
    trees = grow(env, engine, EntropyGuided(3, 2, 2), seed=seed, max_response_tokens=room)
    for number, tree in enumerate(trees):
        for node in tree.nodes()[1:]:
            assert node.parent is not None
            assert engine.seen[(number, node.key)] == node.parent.ids()
            assert tokenizer.decode(node.sampled) == node.action
            assert node.inserted == tokenizer.encode(node.observation, add_special_tokens=False)
            assert node.is_leaf == (node.reward is not None)
        for leaf in tree.leaves():
            assert len(leaf.ids()) - len(tree.root.inserted) <= room


@given(order=st.integers(1, 2**16), seed=st.integers(0, 2**16))
@settings(max_examples=15)
def test_trees_do_not_depend_on_the_order_in_which_turns_end(
    env: Any, tokenizer: Any, order: int, seed: int
) -> None:
    expansion = EntropyGuided(3, 2, 2)
    first = grow(env, ScriptedEngine(tokenizer, 0), expansion, seed=seed)
    again = grow(env, ScriptedEngine(tokenizer, order), expansion, seed=seed)
    assert [t.to_dict() for t in first] == [t.to_dict() for t in again]


@given(
    chosen=st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=15)
def test_a_part_of_a_collection_gives_its_trees(
    env: Any, tokenizer: Any, chosen: list[int], seed: int
) -> None:
    """Under their numbers in the whole, in any order, also where a question occurs twice."""
    questions = [env.questions[number] for number in (0, 1, 0, 2, 1, 3)]
    expansion = EntropyGuided(2, 1, 2)

    def collect(numbers: list[int] | None) -> list[RolloutTree]:
        engine = ScriptedEngine(tokenizer, seed)
        collector = Collector(env, engine, tokenizer)
        asked = questions if numbers is None else [questions[number] for number in numbers]
        return collector.collect(asked, expansion, seed=seed, numbers=numbers)

    whole, part = collect(None), collect(chosen)
    assert [tree.to_dict() for tree in part] == [whole[number].to_dict() for number in chosen]


def test_another_seed_gives_other_trees(env: Any, tokenizer: Any) -> None:
    trees = [grow(env, ScriptedEngine(tokenizer), Chains(4), seed=seed) for seed in (0, 1)]
    assert [t.to_dict() for t in trees[0]] != [t.to_dict() for t in trees[1]]


def test_the_same_question_twice_gets_two_different_trees(env: Any, tokenizer: Any) -> None:
    collector = Collector(env, ScriptedEngine(tokenizer), tokenizer)
    first, second = collector.collect([env.questions[0]] * 2, Chains(6))
    assert first.to_dict() != second.to_dict()


def test_turns_are_counted_at_the_engine_and_at_tools(env: Any, tokenizer: Any) -> None:
    engine = ScriptedEngine(tokenizer)
    collector = Collector(env, engine, tokenizer)
    trees = collector.collect(env.questions[:QUESTIONS], Chains(4))
    at_engine, at_tools = (queue.take() for queue in collector.queues)
    assert at_engine.longest == QUESTIONS * 4  # all first turns at once, and never more
    assert 1 <= at_tools.longest <= QUESTIONS * 4
    assert sum(len(tree.nodes()) - 1 for tree in trees) > at_engine.longest
    assert [queue.take().longest for queue in collector.queues] == [0, 0]  # nothing is left


def test_expansion_gives_m_plus_l_times_k_leaves(env: Any, tokenizer: Any) -> None:
    trees = grow(env, ScriptedEngine(tokenizer), EntropyGuided(5, 2, 3))
    assert [len(tree.leaves()) for tree in trees] == [11] * QUESTIONS


def test_forks_share_the_state_before_the_turn(env: Any, tokenizer: Any) -> None:
    for tree in grow(env, ScriptedEngine(tokenizer), EntropyGuided(4, 2, 4)):
        for node in tree.nodes():
            for child in node.children:
                assert child.state.turns[:-1] == node.state.turns
                assert child.state.turns[-1].action == child.action


@pytest.mark.parametrize(("more", "given_", "added"), [(0, None, 0), (1000, None, 1000), (5, 7, 0)])
@pytest.mark.parametrize("rule", [ARPOBranching, AEPOBranching])
def test_entropies_are_scaled_by_the_policy_s_own_vocabulary(
    rule: type[ARPOBranching], more: int, given_: int | None, added: int, env: Any, tokenizer: Any
) -> None:
    """Added tokens count, as in the released code; what a caller has set stays."""
    asked: list[Any] = []

    class Watched(rule):  # type: ignore[valid-type, misc]
        def forks(self, *arguments: Any) -> list[Node]:
            asked.append(self.vocabulary)
            parents: list[Node] = super().forks(*arguments)
            return parents

    speaker = copy.deepcopy(tokenizer)
    speaker.add_tokens([f"<more{number}>" for number in range(more)])
    expansion = Watched(chains=3, initial_chains=2, vocabulary=given_)
    trees = grow(env, ScriptedEngine(speaker), expansion)
    assert set(asked) == {given_ or len(tokenizer.get_vocab()) + added}
    assert expansion.vocabulary == given_
    assert any("branching" in node.info for tree in trees for node in tree.nodes())


def test_a_turn_without_room_is_truncated_and_judged_as_it_stands(env: Any, tokenizer: Any) -> None:
    trees = grow(env, ScriptedEngine(tokenizer), Chains(5), max_response_tokens=12)
    leaves = [leaf for tree in trees for leaf in tree.leaves()]
    cut = [leaf for leaf in leaves if leaf.truncated]
    assert cut
    assert all(leaf.reward == -1 for leaf in cut)
    assert all(not leaf.inserted for leaf in leaves)


def test_the_request_over_the_limit_gets_the_notice_and_one_more_turn(tokenizer: Any) -> None:
    env: Any = gymnasium.make(
        "at2po/MiniWiki-v0", questions=20, passages=100, max_tool_calls=1
    ).unwrapped
    trees = grow(env, ScriptedEngine(tokenizer), Chains(20))
    limited = [leaf for tree in trees for leaf in tree.leaves() if leaf.outcome.limit_reached]
    assert limited
    for leaf in limited:
        assert leaf.depth == 3
        assert leaf.parent is not None
        assert leaf.parent.observation == env.core.dialect.limit_notice


def test_a_prompt_over_the_limit_is_refused(env: Any, tokenizer: Any) -> None:
    with pytest.raises(RequestError, match="raise max_prompt_tokens"):
        grow(env, ScriptedEngine(tokenizer), Chains(1), max_prompt_tokens=3)


class Delayed:
    """A tool whose calls take random times in threads of their own."""

    batched = False

    def __init__(self, tool: Any) -> None:
        self.tool, self.spec = tool, tool.spec
        self.rng, self.threads = np.random.default_rng(0), set[threading.Thread]()

    def __call__(self, arguments: Sequence[Any]) -> Any:
        self.threads.add(threading.current_thread())
        time.sleep(self.rng.uniform(0, 0.02))
        return self.tool(arguments)


def delayed(env: Any) -> Any:
    """Return a copy of an environment whose tools run in the background."""
    twin = copy.copy(env)
    twin.tools = {name: Delayed(tool) for name, tool in env.tools.items()}
    twin.tool_timeout_s = 60.0
    return twin


def one_by_one(
    env: Any, engine: Any, tokenizer: Any, expansion: Any, number: int, seed: int, room: int
) -> RolloutTree:
    """Grow the tree of a question in the plainest order: a single turn at a time, depth first."""
    question = env.questions[number]
    state, prompt = env.core.begin(question)
    tree = RolloutTree(question, encode_prompt(tokenizer, prompt), prompt, state)

    def turn(parent: Node) -> None:
        node = tree.add(parent)
        used = len(parent.ids()) - len(tree.root.inserted)
        own = stable_hash(seed, question.key, number, node.key)
        engine.submit([Request(0, parent.ids(), own, room - used, 1.0, env.core.dialect.stop)])
        done: list[Completion] = []
        while not done:
            done = engine.step()
        node.sampled, node.logprobs = done[0].ids, done[0].logprobs
        node.action, node.finish = done[0].text, done[0].finish
        if node.finish == "length":
            step = env.core.truncate(parent.state, node.action)
        else:
            results = env.run_tools(env.core.pending_calls(parent.state, node.action))
            step = env.core.transition(parent.state, node.action, results)
            inserted = encode_inserted(tokenizer, step.observation, node.sampled)
            if not step.terminated and used + len(node.sampled) + len(inserted) >= room:
                step = env.core.truncate(parent.state, node.action)
        node.state, node.info = step.state, step.info
        if step.terminated or step.truncated:
            node.reward = step.state.total_reward
            node.outcome = Outcome.from_info(step.info, truncated=step.truncated)
        else:
            node.inserted = inserted
            turn(node)

    for _ in range(expansion.initial()):
        turn(tree.root)
    iteration = 0
    while True:
        draws = np.random.default_rng(stable_hash(seed, "forks", question.key, number, iteration))
        forks = expansion.forks(tree, iteration, draws)
        if not forks:
            return tree
        for parent in forks:
            turn(parent)
        iteration += 1


def test_every_node_equals_that_of_the_simple_order(env: Any) -> None:
    """In fp64, with tools that answer in any order while other turns are being sampled."""
    model, tokenizer = load_model("mini", torch.float64)
    expansion, room, questions = EntropyGuided(2, 2, 2), 200, env.questions[:2]
    simple = [
        one_by_one(
            env,
            TransformersEngine(model, tokenizer, max_batch=1, cache_bytes=0),
            *(tokenizer, expansion, number, 5, room),
        )
        for number in range(len(questions))
    ]
    slow = delayed(env)
    for played in (env, slow):
        engine = TransformersEngine(model, tokenizer)
        collector = Collector(played, engine, tokenizer, max_response_tokens=room)
        trees = collector.collect(questions, expansion, seed=5)
        for tree, expected in zip(trees, simple, strict=True):
            nodes = expected.nodes()
            assert [node.key for node in tree.nodes()] == [node.key for node in nodes]
            for node, twin in zip(tree.nodes(), nodes, strict=True):
                assert (node.sampled, node.inserted) == (twin.sampled, twin.inserted)
                assert (node.action, node.reward) == (twin.action, twin.reward)
                assert node.logprobs == pytest.approx(twin.logprobs, abs=1e-9)
    (tool,) = slow.tools.values()
    assert threading.main_thread() not in tool.threads and len(tool.threads) > 3


def test_a_hung_tool_delays_only_its_own_episode(env: Any, tokenizer: Any) -> None:
    """The first call hangs until all other trees are complete, down to their last expansion."""
    expansion = EntropyGuided(3, 2, 2)
    usual = grow(env, ScriptedEngine(tokenizer), expansion, seed=2)
    sizes = [len(tree.nodes()) - 1 for tree in usual]
    others_done, waited = threading.Event(), list[bool]()

    class Hanging(Delayed):
        def __call__(self, arguments: Sequence[Any]) -> Any:
            if not waited:
                waited.append(False)
                waited[0] = others_done.wait(30)
            return self.tool(arguments)

    class Counting(ScriptedEngine):
        turns = 0

        def step(self) -> list[Completion]:
            ended = super().step()
            self.turns += len(ended)
            if self.turns >= sum(sizes) - max(sizes):
                others_done.set()
            return ended

    played = delayed(env)
    played.tools = {name: Hanging(tool) for name, tool in env.tools.items()}
    trees = grow(played, Counting(tokenizer), expansion, seed=2)
    assert waited == [True]
    assert [t.to_dict() for t in trees] == [t.to_dict() for t in usual]


def test_a_tool_that_never_answers_is_an_observation(env: Any, tokenizer: Any) -> None:
    never = threading.Event()

    class Hanging(Delayed):
        def __call__(self, arguments: Sequence[Any]) -> Any:
            return self.tool(arguments) if self.rng.random() < 0.8 else never.wait()

    played = delayed(env)
    played.tools = {name: Hanging(tool) for name, tool in env.tools.items()}
    played.tool_timeout_s = 0.5
    trees = grow(played, ScriptedEngine(tokenizer), Chains(4), seed=2)
    turns = [node for tree in trees for node in tree.nodes()[1:]]
    failed = [node for node in turns if "did not answer" in node.observation]
    never.set()
    assert failed and all(node.children and "tool_failed" in node.state.flags for node in failed)
