"""The collector: questions in, rollout trees out; a tree expands once all its turns have ended."""

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
from at2po_agents.rollout.play import play
from at2po_agents.tree import Node, RolloutTree
from at2po_envs import ForkableEnv, Outcome, Question, State, ToolResult
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
        rollout = _Rollout(self, expansion, seed, temperature)
        numbers = range(len(questions)) if numbers is None else numbers
        growths = [
            rollout.plant(question, number)
            for question, number in zip(questions, numbers, strict=True)
        ]
        for growth in growths:
            rollout.sample(growth, [growth.tree.root] * rollout.expansion.initial())
        for turn, results in play(self.env, rollout, self.queues):
            rollout.advance(turn, results)
        return [growth.tree for growth in growths]


@dataclass(frozen=True, eq=False, slots=True)
class _Turn:
    """A turn that has been sampled, and the tree it belongs to."""

    growth: _Growth
    node: Node

    @property
    def state(self) -> State:
        """The environment's state in which the turn was taken."""
        state = self.node.parent.state if self.node.parent is not None else None
        if state is None:
            raise TreeError(f"expected a turn after a state, found {self.node.key}")
        return state

    @property
    def action(self) -> str:
        """What was sampled, as text."""
        return self.node.action

    @property
    def cut_off(self) -> bool:
        """Whether its tokens ended before the turn did."""
        return self.node.finish == "length"


class _Rollout:
    """One call of `Collector.collect`: the turns that the engine samples."""

    def __init__(
        self, collector: Collector, expansion: Expansion, seed: int, temperature: float
    ) -> None:
        self.c, self.expansion = collector, _scaled(expansion, collector.tokenizer)
        self.core = collector.env.core
        self.seed, self.temperature = seed, temperature
        self.by_query = isinstance(expansion, MeasuresEntropy) and expansion.entropy == "query"
        self.sampling: dict[Hashable, _Turn] = {}

    def __len__(self) -> int:
        return len(self.sampling)

    def step(self) -> list[_Turn]:
        return [self._sampled(completion) for completion in self.c.engine.step()]

    def _sampled(self, completion: Completion) -> _Turn:
        turn = self.sampling.pop(completion.key)
        node = turn.node
        node.sampled, node.logprobs = completion.ids, completion.logprobs
        node.action, node.finish = completion.text, completion.finish
        node.entropies = completion.entropies
        return turn

    def plant(self, question: Question, number: int) -> _Growth:
        """Return a tree of the prompt alone."""
        state, prompt = self.core.begin(question)
        ids = encode_prompt(self.c.tokenizer, prompt)
        if len(ids) > self.c.max_prompt_tokens:
            raise RequestError(
                f"question {question.id!r}: expected a prompt of at most "
                f"{self.c.max_prompt_tokens} tokens, found {len(ids)}; raise max_prompt_tokens"
            )
        return _Growth(question, number, RolloutTree(question, ids, prompt, state))

    def sample(self, growth: _Growth, parents: Sequence[Node]) -> None:
        """Begin a new turn under each parent."""
        requests = []
        for parent in parents:
            node = growth.tree.add(parent)
            key = (growth.number, node.key)
            ids = parent.ids()
            self.sampling[key] = _Turn(growth, node)
            growth.running += 1
            seed = stable_hash(self.seed, growth.question.key, *key)
            room = self._room(growth.tree, len(ids))
            requests.append(Request(key, ids, seed, room, self.temperature, self.c.stop))
        self.c.engine.submit(requests)

    def _room(self, tree: RolloutTree, used: int) -> int:
        """How many tokens may still follow the first `used` ones of a row."""
        prompt = len(tree.root.inserted)
        return min(prompt + self.c.max_response_tokens, self.c.context) - used

    def advance(self, turn: _Turn, results: Sequence[ToolResult]) -> None:
        """Give a turn to the environment, and begin what follows from it."""
        self._transition(turn, results)
        growth, node = turn.growth, turn.node
        growth.running -= 1
        if node.reward is None and not self.expansion.by_turn:
            self.sample(growth, [node])
        elif not growth.running:
            self.sample(growth, self._forks(growth))

    def _forks(self, growth: _Growth) -> list[Node]:
        """Ask the expansion where the tree grows on."""
        seed = stable_hash(self.seed, "forks", growth.question.key, growth.number, growth.iteration)
        growth.iteration += 1
        return self.expansion.forks(growth.tree, growth.iteration - 1, default_rng(seed))

    def _transition(self, turn: _Turn, results: Sequence[ToolResult]) -> None:
        """Give a turn to the environment; a leaf gets its reward here."""
        node, dropped = turn.node, 0
        if turn.cut_off:
            step = self.core.truncate(turn.state, turn.action)
        else:
            step = self.core.transition(turn.state, turn.action, results)
            if not (step.terminated or step.truncated):
                inserted = encode_inserted(self.c.tokenizer, step.observation, node.sampled)
                if self._room(turn.growth.tree, len(node.ids()) + len(inserted)) < 1:
                    # No token is left to read the reply with: the episode ends with this turn.
                    step, dropped = self.core.truncate(turn.state, turn.action), len(inserted)
                else:
                    node.inserted, node.observation = inserted, step.observation
        node.state, node.info = step.state, step.info | self._query(turn)
        if step.terminated or step.truncated:
            node.reward = step.state.total_reward
            node.outcome = Outcome.from_info(
                step.info, truncated=step.truncated, dropped_tokens=dropped
            )

    def _query(self, turn: _Turn) -> dict[str, tuple[int, int]]:
        """Note for the expansion which tokens of a turn are its query."""
        if not self.by_query or turn.cut_off:
            return {}
        calls = self.core.pending_calls(turn.state, turn.action)
        span = query_span(self.c.tokenizer, turn.node, calls)
        return {"query": span} if span else {}


def _scaled(expansion: Expansion, tokenizer: PreTrainedTokenizerBase) -> Expansion:
    """Tell an expansion that measures by the vocabulary's size how large that is."""
    if isinstance(expansion, ScaledByVocabulary) and expansion.vocabulary is None:
        return replace(expansion, vocabulary=len(tokenizer.get_vocab()))
    return expansion
