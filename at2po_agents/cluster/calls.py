"""Calls to actors that are watched: they end, or their process is found dead or hung."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from at2po_agents.errors import AgentError

_log = logging.getLogger(__name__)

TICK_S = 0.002
"""Seconds between two looks at what the actors do."""
PROBE_S = 1.0
"""Seconds between two questions after an actor's progress."""
START_S = 600.0
"""Least time that an actor has to start: to import, to load a model, to start vLLM."""
GRACE_S = 10.0
"""Seconds in which Ray should notice that a process is dead whose peers have noticed."""


class ActorLostError(AgentError):
    """An actor's process died or hung.

    Attributes:
        actor: Its name, from `await_all`.
    """

    actor = ""


class Call:
    """A method that an actor carries out.

    Args:
        actor: Handle of the actor, which has a method `progress` beside.
        method: Name of the method.
        arguments: Its arguments.
        stall_s: Seconds without any progress after which the actor counts as hung.
    """

    def __init__(self, actor: Any, method: str, arguments: Sequence[Any], stall_s: float) -> None:
        self.reply = getattr(actor, method).remote(*arguments)
        self._actor, self._stall_s = actor, stall_s
        self._seen: Any = None
        self._since = self._asked = time.monotonic()
        self._probe: Any = None

    def done(self) -> bool:
        """Return whether the method has ended.

        Raises:
            ActorLostError: If its process died or hung.
        """
        if ray.wait([self.reply], timeout=0)[0]:
            return True
        self._look()
        silent = time.monotonic() - self._since
        if silent > self._stall_s:
            raise ActorLostError(f"made no progress for {silent:.0f} s")
        return False

    def result(self) -> Any:
        """Return what the method returned, once it is done; its own errors are raised.

        Raises:
            ActorLostError: If its process died.
        """
        try:
            return ray.get(self.reply)
        except RayActorError as error:
            raise ActorLostError(f"died: {str(error).splitlines()[0]}") from error

    def _look(self) -> None:
        """Ask after the actor's progress, and take the answer if there is one."""
        now = time.monotonic()
        if self._probe is None and now - self._asked >= PROBE_S:
            ask = self._actor.progress.options(concurrency_group="health")
            self._probe, self._asked = ask.remote(), now
        if self._probe is None:
            return
        try:
            seen = ray.get(self._probe, timeout=0)
        except GetTimeoutError:
            return
        except RayActorError as error:
            raise ActorLostError(f"died: {str(error).splitlines()[0]}") from error
        self._probe = None
        if seen != self._seen:
            self._seen, self._since = seen, now


def await_all(calls: Mapping[str, Call], meanwhile: Callable[[], None]) -> list[Any]:
    """Wait for actors that work together, so that losing one of them ends it for all.

    Args:
        calls: What each of them carries out, by its name.
        meanwhile: Called again and again while they do.

    Returns:
        What the methods returned, in order.

    Raises:
        ActorLostError: If a process died or hung; says which.
        Exception: What a method itself raised, and none was lost.
    """
    waiting = dict(calls)
    results: dict[str, Any] = {}
    while waiting:
        for name, call in list(waiting.items()):
            try:
                if call.done():
                    results[name] = call.result()
                    del waiting[name]
            except ActorLostError as error:
                error.actor = name
                raise
            except Exception as error:
                # One may find the others gone before we do: its error is not the cause.
                if (lost := _lost_among(waiting)) is None:
                    raise
                raise lost from error
        meanwhile()
        time.sleep(TICK_S)
    return [results[name] for name in calls]


def _lost_among(calls: Mapping[str, Call]) -> ActorLostError | None:
    """Return the loss of a process that died or hung, if one is found within a while."""
    end = time.monotonic() + GRACE_S
    while time.monotonic() < end:
        for name, call in calls.items():
            try:
                if call.done():
                    call.result()
            except ActorLostError as error:
                error.actor = name
                return error
            except Exception as error:
                _log.debug("%s failed: %s", name, error)
        time.sleep(TICK_S)
    return None
