"""Calls to actors that are watched: they end, or their process is found dead or hung."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Concatenate, Generic, ParamSpec, Protocol, TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from at2po_agents.errors import AgentError, WorkersLostError

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")

TICK_S = 0.002
"""Seconds between two looks at what the actors do."""
PROBE_S = 1.0
"""Seconds between two questions for an actor's heartbeat."""
START_S = 600.0
"""Least time that an actor has to start: to find room, import, load a model, start vLLM."""
GRACE_S = 90.0
"""Seconds in which Ray should notice that a process is dead whose peers have noticed.

Source: `health_check_*` in src/ray/common/ray_config_def.h of github.com/ray-project/ray (2.60): a
machine is given up after 5 checks of up to 10 s, 3 s apart.
"""


class ActorLostError(AgentError):
    """An actor's process died or hung.

    Attributes:
        actor: Its name, from `await_all`.
    """

    actor = ""


class Actor(Protocol):
    """What runs in a process that Ray starts."""

    def heartbeat(self) -> object:
        """Return a value that changes as long as this process makes progress."""
        ...


class Call(Generic[R]):
    """A method that an actor carries out.

    Args:
        actor: Handle of the actor.
        stall_s: Seconds without any progress after which the actor counts as hung.
        starting: Whether it may still have to start; it then has `START_S` at least.
        method: The method, of the actor's class.
        *arguments: Its arguments.
        **named: Those that it takes by name.
    """

    def __init__(
        self,
        actor: ActorHandle,
        stall_s: float,
        starting: bool,
        method: Callable[Concatenate[A, P], R],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> None:
        self.reply = getattr(actor, method.__name__).remote(*arguments, **named)
        self._actor, self._unseen = actor, starting
        self._limit = max(stall_s, START_S) if starting else stall_s
        self._seen: object = None
        self._since = self._asked = time.monotonic()
        self._probe: ObjectRef | None = None

    def heartbeat_after(self) -> Call[object]:
        """Return a call of `heartbeat` by the same actor when it is free."""
        return Call(self._actor, self._limit, self._unseen, Actor.heartbeat)

    def done(self) -> bool:
        """Return whether the method has ended.

        Raises:
            ActorLostError: If its process died or hung.
            WorkersLostError: If it never came to life: another one would not either.
        """
        if ray.wait([self.reply], timeout=0)[0]:
            return True
        self._look()
        silent = time.monotonic() - self._since
        if silent > self._limit:
            if self._unseen:
                raise WorkersLostError(_no_room(silent))
            raise ActorLostError(f"made no progress for {silent:.0f} s")
        return False

    def result(self) -> R:
        """Return what the method returned, once it is done; its own errors are raised.

        Raises:
            ActorLostError: If its process died, or its machine with what it returned.
        """
        try:
            returned: R = ray.get(self.reply)
            return returned
        except RayTaskError:  # also where the method itself met one of those below
            raise
        except RayActorError as error:
            raise ActorLostError(f"died: {str(error).splitlines()[0]}") from error
        except ObjectLostError as error:
            raise ActorLostError("is gone, and what it returned with it") from error

    def _look(self) -> None:
        """Ask for the actor's heartbeat, and take the answer if there is one."""
        now = time.monotonic()
        if self._probe is None and now - self._asked >= PROBE_S:
            ask = self._actor.heartbeat.options(concurrency_group="health")
            self._probe, self._asked = ask.remote(), now
        if self._probe is None:
            return
        try:
            seen = ray.get(self._probe, timeout=0)
        except GetTimeoutError:
            return
        except RayActorError as error:
            raise ActorLostError(f"died: {str(error).splitlines()[0]}") from error
        self._probe, self._unseen = None, False
        if seen != self._seen:
            self._seen, self._since = seen, now


def await_all(calls: Mapping[str, Call[R]], meanwhile: Callable[[], None]) -> list[R]:
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
    results: dict[str, R] = {}
    while waiting:
        for name, call in list(waiting.items()):
            try:
                if call.done():
                    results[name] = call.result()
                    del waiting[name]
            except ActorLostError as error:
                error.actor = name
                raise
            except WorkersLostError:
                raise
            except Exception as error:
                # One may find the others gone before we do: its error is not the cause.
                if (lost := _lost_among(calls)) is None:
                    raise
                raise lost from error
        meanwhile()
        time.sleep(TICK_S)
    return [results[name] for name in calls]


def _lost_among(calls: Mapping[str, Call[R]]) -> ActorLostError | None:
    """Return the loss of a process that died or hung, if one is found before all answer again."""
    asked = {name: call.heartbeat_after() for name, call in calls.items()}
    end = time.monotonic() + GRACE_S
    while asked and time.monotonic() < end:
        for name, again in list(asked.items()):
            try:
                calls[name].done()
                if again.done():
                    again.result()
                    del asked[name]
            except ActorLostError as error:
                error.actor = name
                return error
        time.sleep(TICK_S)
    return None


def _no_room(waited: float) -> str:
    whole, free = ray.cluster_resources(), ray.available_resources()
    found = (f"{free.get(name, 0):g} of {whole.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
    return (
        f"expected room for a process in the Ray cluster within {waited:.0f} s, found free "
        f"{' and '.join(found)}; add machines, or lower cluster.rollout_workers or "
        "cluster.learner_workers, and go on with --resume"
    )
