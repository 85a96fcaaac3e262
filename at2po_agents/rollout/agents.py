"""Agents: whatever writes the next turn of an episode from its transcript, and how they play."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from at2po_agents.rollout.play import play
from at2po_envs import Core, ForkableEnv, Outcome, Question, State, ToolResult, Transition

Transcript = Sequence[str]
"""An episode so far: observation, action, observation, …, observation."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One turn of an agent.

    Attributes:
        text: What it writes.
        tokens: Tokens it sampled for that, 0 where nobody counts.
        truncated: Whether its budget ended before the turn did; the episode is then cut off.
        prompt_tokens: Tokens it read for that, 0 where nobody counts.
        cost: What that cost in US dollars, 0 where nobody charges.
        error: Why there is no turn, "" if there is one; the episode has then failed.
    """

    text: str
    tokens: int = 0
    truncated: bool = False
    prompt_tokens: int = 0
    cost: float = 0.0
    error: str = ""


class Agent(Protocol):
    """Writes turns; a transcript determines the reply, so an agent keeps no state that matters.

    Where it has a `name`, and `settings` (a JSON-able mapping of all that decides about its
    replies), an evaluation puts them on record.
    """

    def act(self, transcripts: Sequence[Transcript]) -> Sequence[str | Reply]:
        """Return the next turn of every episode.

        Args:
            transcripts: One an episode, of any number of episodes in any order.

        Returns:
            One text or reply an episode, in the same order.

        Raises:
            AgentUnusableError: If there is no use in asking again, about whatever episode. After
                any other error each episode is tried on its own, and those that fail are on record.
        """
        ...


@runtime_checkable
class Described(Protocol):
    """An agent that can say all that decides about its replies."""

    @property
    def settings(self) -> Mapping[str, object]:
        """JSON-able, for the record."""
        ...


@runtime_checkable
class Seeded(Protocol):
    """An agent whose replies follow from a seed."""

    @property
    def seed(self) -> int:
        """For the record."""
        ...


Act = Callable[[Sequence[Transcript]], Sequence[Reply]]
"""What `Agent.act` does, its replies checked."""

NO_ROOM = (
    "the question leaves no room for a turn: expected a longer context of the model, or fewer "
    "tokens asked of a turn"
)
"""Error of an episode whose agent could not even read the question."""


@dataclass(eq=False, slots=True)
class Episode:
    """An episode that an agent plays.

    Attributes:
        state: State before the turn that is being written; once it has ended, the last one.
        transcript: What the agent has seen and written, without the last turn.
        before: State before the turn before that, None at the first turn.
        reply: The latest turn.
        tokens: Tokens sampled so far.
        prompt_tokens: Tokens read so far, in all calls together.
        cost: US dollars spent so far.
    """

    state: State
    transcript: list[str]
    before: State | None = None
    reply: Reply = field(default_factory=lambda: Reply(""))
    tokens: int = 0
    prompt_tokens: int = 0
    cost: float = 0.0

    @property
    def action(self) -> str:
        """What the agent wrote."""
        return self.reply.text

    @property
    def cut_off(self) -> bool:
        """Whether the agent's budget ended before its turn did, or it failed."""
        return self.reply.truncated or bool(self.reply.error)

    def take(self, reply: Reply) -> None:
        """Note the agent's turn."""
        nothing = not (reply.text or reply.tokens or reply.error)
        if reply.truncated and nothing and self.before is None:
            reply = replace(reply, truncated=False, error=NO_ROOM)
        self.reply = reply
        self.tokens += reply.tokens
        self.prompt_tokens += reply.prompt_tokens
        self.cost += reply.cost

    def advance(self, core: Core, results: Sequence[ToolResult]) -> Outcome | None:
        """Give the turn to the environment; return how the episode ended, if it has."""
        step = self._transition(core, results)
        before, self.state = self.state, step.state
        if step.terminated or step.truncated:
            cut = step.truncated and not self.reply.error
            return Outcome.from_info(step.info, truncated=cut)
        self.before = before
        self.transcript += [self.action, step.observation]
        return None

    def _transition(self, core: Core, results: Sequence[ToolResult]) -> Transition:
        if self.reply.error:
            return core.truncate(self.state, "")
        if not self.reply.truncated:
            return core.transition(self.state, self.action, results)
        if not (self.action or self.reply.tokens) and self.before is not None:
            # Not a token was left to read the last observation with: as in training, the episode
            # ends with the turn that asked for it.
            return core.truncate(self.before, self.state.turns[-1].action)
        return core.truncate(self.state, self.action)


def play_agent(
    act: Act, env: ForkableEnv, questions: Sequence[Question], batch: int
) -> Iterator[tuple[Episode, Outcome]]:
    """Let an agent play questions, one episode each.

    Args:
        act: Writes the next turn of every episode.
        env: The environment.
        questions: What is asked.
        batch: Episodes that run at a time, >= 1.

    Yields:
        Each episode as it ends, and how it did; a new one takes its place.
    """
    writer = _AgentWriter(act, env, deque(questions), batch)
    for episode, results in play(env, writer):
        writer.at_tools -= 1
        if (outcome := episode.advance(env.core, results)) is not None:
            writer.running.remove(episode)
            yield episode, outcome


@dataclass
class _AgentWriter:
    """An agent, which is asked about all episodes at once when all have their tool results."""

    act: Act
    env: ForkableEnv
    questions: deque[Question]
    batch: int
    running: list[Episode] = field(default_factory=list)
    at_tools: int = 0

    def __len__(self) -> int:
        if self.at_tools:
            return 0
        return min(self.batch, len(self.running) + len(self.questions))

    def step(self) -> list[Episode]:
        while self.questions and len(self.running) < self.batch:
            state, prompt = self.env.core.begin(self.questions.popleft())
            self.running.append(Episode(state, [prompt]))
        replies = self.act([tuple(episode.transcript) for episode in self.running])
        for episode, reply in zip(self.running, replies, strict=True):
            episode.take(reply)
        self.at_tools = len(self.running)
        return list(self.running)
