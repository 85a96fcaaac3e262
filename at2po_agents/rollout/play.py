"""The loop that plays episodes: of training, of evaluation and of demonstrations."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Protocol, TypeVar, cast

from at2po_agents.monitoring.queue_length import QueueWatch
from at2po_envs import ForkableEnv, State, ToolCall, ToolResult


class WrittenTurn(Hashable, Protocol):
    """A turn of an episode, hashable by identity."""

    @property
    def state(self) -> State:
        """The environment's state in which it is taken."""
        ...

    @property
    def action(self) -> str:
        """What was written."""
        ...

    @property
    def cut_off(self) -> bool:
        """Whether writing ended before the turn did; its tool calls are not carried out then."""
        ...


T = TypeVar("T", bound=WrittenTurn)
T_co = TypeVar("T_co", bound=WrittenTurn, covariant=True)


class Writer(Protocol[T_co]):
    """What writes turns: a generation engine for a collector, or an agent."""

    def __len__(self) -> int:
        """Return how many turns it can go on writing now."""
        ...

    def step(self) -> Sequence[T_co]:
        """Go on writing; return the turns that have ended."""
        ...


def play(
    env: ForkableEnv, writer: Writer[T], queues: tuple[QueueWatch, QueueWatch] | None = None
) -> Iterator[tuple[T, list[ToolResult]]]:
    """Play episodes without barriers until no turn is being written and none waits for its tools.

    As soon as a turn ends its tool calls begin, together with those of all turns that ended in the
    same step. The writer goes on with other turns meanwhile, so a slow tool delays only the
    episode that waits for it.

    Args:
        env: Carries out tool calls.
        writer: Writes the turns; what follows on a turn is given to it by the caller, between one
            turn that is yielded and the next.
        queues: Told how many turns are being written, and how many wait for their tools.

    Yields:
        Each turn with the results of its tool calls, ready for the environment's transition.

    Raises:
        ToolResultError: If a tool does not return one result per call.
        At2poEnvError: If a tool raises one: no episode could go well.
        RetrievalError: Likewise.
    """
    tools = env.tool_runner()

    def note_queues() -> None:
        for queue, length in zip(queues or (), (len(writer), len(tools)), strict=False):
            queue.note(length)

    note_queues()
    while len(writer) or len(tools):
        if len(writer):
            asked: list[tuple[Hashable, Sequence[ToolCall]]] = []
            for turn in writer.step():
                cut = turn.cut_off
                calls = () if cut else env.core.pending_calls(turn.state, turn.action)
                asked.append((turn, calls))
            tools.submit(asked)
            note_queues()
        for key, results in tools.collect(wait=not len(writer)):
            yield cast(T, key), results
        note_queues()
