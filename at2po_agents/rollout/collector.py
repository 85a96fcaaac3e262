"""The collector: questions in, rollout trees out, as an event loop without barriers.

As soon as a turn ends its tool calls begin, together with those of all turns that ended in the same
tick; as soon as the chains of a tree have ended the tree expands. The engine goes on with all other
turns meanwhile, so a slow tool delays only the episode that waits for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from numpy.random import default_rng
from transformers import PreTrainedTokenizerBase

from at2po_agents.engines import Completion, Engine, Request
from at2po_agents.errors import RequestError, TreeError
from at2po_agents.monitoring.queue_length import QueueWatch
from at2po_agents.policy.encoding import check_dialect, encode_inserted, encode_prompt
from at2po_agents.rollout.expansion import Expansion
from at2po_agents.rollout.expansion.base import MeasuresEntropy, ScaledByVocabulary
from at2po_agents.rollout.expansion.entropy_measures import query_span
from at2po_agents.tree import Node, RolloutTree
from at2po_envs import ForkableEnv, Outcome, Question, State, ToolCall, ToolResult
from at2po_envs.seeds import stable_hash


@dataclass(eq=False)
class _Growth:
    """A tree that is still growing.

    Attributes:
        question: What it is about.
        number: Keeps it apart from other trees of the same question.
        tree: The tree.
        running: Turns being sampled or waiting for their tools.
        iteration: Times that the expansion was asked so far.
    """

    question: Question
    number: int
    tree: RolloutTree
    running: int = 0
    iteration: int = 0


class Collector:
    """Plays questions in an environment and keeps every turn in a tree.

    Args:
        env: The environment, unwrapped.
        engine: Samples turns.
        tokenizer: The policy's tokenizer.
        max_prompt_tokens: Longest prompt, in tokens, >= 1.
        max_response_tokens: Most tokens after the prompt, inserted ones included, >= 1.
        context: Most tokens the model can attend to.

    Attributes:
        queues: Turns at the engine, and turns that wait for their tools.
    """

    def __init__(
        self,
        env: ForkableEnv,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_prompt_tokens: int = 2000,
        max_response_tokens: int = 6192,
        context: int = 1 << 20,
    ) -> None:
        self.env, self.engine, self.tokenizer = env, engine, tokenizer
        self.max_prompt_tokens = max_prompt_tokens
        self.max_response_tokens = max_response_tokens
        self.context = context
        self.stop = env.core.dialect.stop
        self.queues = (QueueWatch("engine"), QueueWatch("tools"))
        check_dialect(env.core.dialect, tokenizer)

    def collect(
        self,
        questions: Sequence[Question],
        expansion: Expansion,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        numbers: Sequence[int] | None = None,
    ) -> list[RolloutTree]:
        """Grow one tree a question.

        What a turn samples follows from (seed, question, place in the tree) and the weights, so it
        does not depend on the order in which turns end, floating-point noise apart. Even that is
        the same in a repetition, unless tools with a deadline (which run in threads) decide by
        their speed which turns are sampled together.

        Args:
            questions: Questions of the environment; the same one may occur twice.
            expansion: Says where a tree grows.
            seed: Seed of this collection, such as a hash of run seed and step.
            temperature: Sampling temperature; 0 is greedy.
            numbers: A number for each question that keeps apart trees of the same one; by default
                its place. Part of a collection gives the same trees under their numbers there.

        Returns:
            Complete trees in the order of the questions; every leaf has a reward.

        Raises:
            RequestError: If a prompt is longer than allowed.
        """
        run = _Run(self, expansion, seed, temperature)
        return run.grow(questions, range(len(questions)) if numbers is None else numbers)


class _Run:
    """One call of `Collector.collect`."""

    def __init__(
        self, collector: Collector, expansion: Expansion, seed: int, temperature: float
    ) -> None:
        self.c, self.expansion = collector, _scaled(expansion, collector.tokenizer)
        self.seed, self.temperature = seed, temperature
        self.by_query = isinstance(expansion, MeasuresEntropy) and expansion.entropy == "query"
        self.tools = collector.env.tool_runner()
        self.sampling: dict[Hashable, tuple[_Growth, Node]] = {}
        self.waiting: dict[Hashable, tuple[_Growth, Node, Sequence[ToolCall]]] = {}

    def grow(self, questions: Sequence[Question], numbers: Sequence[int]) -> list[RolloutTree]:
        growths = [
            _Growth(question, number, self._plant(question))
            for question, number in zip(questions, numbers, strict=True)
        ]
        for growth in growths:
            self._start(growth, [growth.tree.root] * self.expansion.initial())
        while self.sampling or self.waiting:
            self._note_queues()
            if self.sampling:
                self._call_tools(self.c.engine.step())
                self._note_queues()
            for key, results in self.tools.collect(wait=not self.sampling):
                self._go_on(key, results)
        self._note_queues()
        return [growth.tree for growth in growths]

    def _note_queues(self) -> None:
        engine, tools = self.c.queues
        engine.note(len(self.sampling))
        tools.note(len(self.waiting))

    def _plant(self, question: Question) -> RolloutTree:
        state, prompt = self.c.env.core.begin(question)
        ids = encode_prompt(self.c.tokenizer, prompt)
        if len(ids) > self.c.max_prompt_tokens:
            raise RequestError(
                f"question {question.id!r}: expected a prompt of at most "
                f"{self.c.max_prompt_tokens} tokens, found {len(ids)}; raise max_prompt_tokens"
            )
        return RolloutTree(question, ids, prompt, state)

    def _start(self, growth: _Growth, parents: Sequence[Node]) -> None:
        """Begin a new turn under each parent."""
        requests = []
        for parent in parents:
            node = growth.tree.add(parent)
            # The number keeps apart two trees of the same question in one collection.
            key = (growth.number, node.key)
            ids = parent.ids()
            self.sampling[key] = (growth, node)
            growth.running += 1
            seed = stable_hash(self.seed, growth.question.key, *key)
            room = self._room(growth.tree, len(ids))
            requests.append(Request(key, ids, seed, room, self.temperature, self.c.stop))
        self.c.engine.submit(requests)

    def _room(self, tree: RolloutTree, used: int) -> int:
        """How many tokens may still follow the first `used` ones of a row."""
        prompt = len(tree.root.inserted)
        return min(prompt + self.c.max_response_tokens, self.c.context) - used

    def _call_tools(self, completions: Sequence[Completion]) -> None:
        """Begin the tool calls of all turns that have just ended."""
        asked = []
        for completion in completions:
            growth, node = self.sampling.pop(completion.key)
            node.sampled, node.logprobs = completion.ids, completion.logprobs
            node.action, node.finish = completion.text, completion.finish
            node.entropies = completion.entropies
            cut = completion.finish == "length"
            calls = () if cut else self.c.env.core.pending_calls(_before(node), node.action)
            self.waiting[completion.key] = (growth, node, calls)
            asked.append((completion.key, calls))
        self.tools.submit(asked)

    def _go_on(self, key: Hashable, results: Sequence[ToolResult]) -> None:
        """Give an ended turn to the environment, and start what follows from it."""
        growth, node, calls = self.waiting.pop(key)
        self._transition(growth, node, results)
        if self.by_query and (span := query_span(self.c.tokenizer, node, calls)):
            node.info = {**node.info, "query": span}
        growth.running -= 1
        if node.reward is None and not self.expansion.by_turn:
            self._start(growth, [node])
        elif not growth.running:
            self._start(growth, self._forks(growth))

    def _forks(self, growth: _Growth) -> list[Node]:
        """Ask the expansion where the tree grows on."""
        seed = stable_hash(self.seed, "forks", growth.question.key, growth.number, growth.iteration)
        growth.iteration += 1
        return self.expansion.forks(growth.tree, growth.iteration - 1, default_rng(seed))

    def _transition(self, growth: _Growth, node: Node, results: Sequence[ToolResult]) -> None:
        """Move the node's episode on; a leaf gets its reward here."""
        core, before, dropped = self.c.env.core, _before(node), 0
        if node.finish == "length":
            step = core.truncate(before, node.action)
        else:
            step = core.transition(before, node.action, results)
            if not (step.terminated or step.truncated):
                inserted = encode_inserted(self.c.tokenizer, step.observation, node.sampled)
                if self._room(growth.tree, len(node.ids()) + len(inserted)) < 1:
                    # No token is left to read the reply with: the episode ends with this turn.
                    step, dropped = core.truncate(before, node.action), len(inserted)
                else:
                    node.inserted, node.observation = inserted, step.observation
        node.state, node.info = step.state, step.info
        if step.terminated or step.truncated:
            node.reward = step.state.total_reward
            node.outcome = Outcome.from_info(
                step.info, truncated=step.truncated, dropped_tokens=dropped
            )


def _scaled(expansion: Expansion, tokenizer: PreTrainedTokenizerBase) -> Expansion:
    """Tell an expansion that measures by the vocabulary's size how large that is."""
    if isinstance(expansion, ScaledByVocabulary) and expansion.vocabulary is None:
        return replace(expansion, vocabulary=len(tokenizer.get_vocab()))
    return expansion


def _before(node: Node) -> State:
    """The environment's state in which the node's turn was taken."""
    state = node.parent.state if node.parent is not None else None
    if state is None:
        raise TreeError(f"expected a turn after a state of the environment, found {node.key}")
    return state
