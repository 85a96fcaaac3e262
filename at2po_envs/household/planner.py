"""The planner: a shortest way to a goal, worked out with full sight of the household."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count
from typing import TypeVar

from at2po_envs.household.house import (
    APPLIANCES,
    HANDS,
    HELD_AT_MOST,
    KEY,
    Goal,
    House,
    Thing,
    World,
)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Stage:
    """As much of a world as decides how a plan goes on.

    Attributes:
        room: Where one is.
        places: Where each thing of the goal's noun is.
        ready: Which of them are in the state asked for.
        opened: Containers that are open.
        key: Where the key is.
        unlocked: Whether the locked room is open.
        lit: Whether the goal's lamp is on.
    """

    room: str
    places: tuple[str, ...]
    ready: tuple[bool, ...]
    opened: frozenset[str]
    key: str
    unlocked: bool
    lit: bool


def plan(world: World, goal: Goal) -> tuple[str, ...]:
    """Return commands that reach a goal, as few as possible unless the hands hold other things.

    Args:
        world: The household as it truly is, hidden things included.
        goal: What is to be done.

    Returns:
        The commands in order; none if it is done already.

    Raises:
        ValueError: If it cannot be done.
    """
    search = _Search(world, goal)
    first = search.first_stage()
    best: dict[_Stage, int] = {first: 0}
    came: dict[_Stage, tuple[_Stage, tuple[str, ...]]] = {}
    order = count()  # so that the heap never compares stages, and ties go the same way everywhere
    heap = [(search.at_least(first), next(order), first)]
    while heap:
        bound, _, stage = heappop(heap)
        if search.reached(stage):
            commands: list[tuple[str, ...]] = []
            while stage in came:
                stage, step = came[stage]
                commands.append(step)
            return (*search.unload, *(each for step in reversed(commands) for each in step))
        cost = best[stage]
        if bound > cost + search.at_least(stage):
            continue
        for after, step in search.steps(stage):
            total = cost + len(step)
            if total < best.get(after, total + 1):
                best[after], came[after] = total, (stage, step)
                heappush(heap, (total + search.at_least(after), next(order), after))
    raise ValueError(f"expected a goal that can be reached, found {goal}")


class _Search:
    """The stages that can follow a stage; each step walks somewhere and does one thing there."""

    def __init__(self, world: World, goal: Goal) -> None:
        self.goal, self.house = goal, world.house
        self.things = [thing for thing in self.house.things if thing.noun == goal.noun]
        self.room_of = {piece.name: piece.room for piece in self.house.furniture}
        self.opens = {piece.name for piece in self.house.furniture if piece.opens}
        self.unload, self.world = _unload(world, goal)
        self._walks: dict[tuple[str, bool], dict[str, tuple[str, ...]]] = {}
        self.hands = HELD_AT_MOST - len(_spare(self.world, goal))

    def first_stage(self) -> _Stage:
        world = self.world
        where = dict(zip((t.name for t in world.house.things), world.places, strict=True))
        return _Stage(
            room=world.room,
            places=tuple(where[thing.name] for thing in self.things),
            ready=tuple(self.goal.suits(thing, world) for thing in self.things),
            opened=world.opened,
            key=where.get(KEY, ""),
            unlocked=world.unlocked or not self.house.locked,
            lit=not self.goal.lamp or self.goal.lamp in world.lit,
        )

    def walks(self, stage: _Stage) -> Mapping[str, tuple[str, ...]]:
        key = stage.room, stage.unlocked
        if key not in self._walks:
            self._walks[key] = _walks(self.house, *key)
        return self._walks[key]

    def at_least(self, stage: _Stage) -> int:
        """How many commands are still needed if everything is within reach."""
        needs = sorted(
            1 + (place != HANDS) + (not ready)
            for place, ready in zip(stage.places, stage.ready, strict=True)
            if not (ready and place == self.goal.place)
        )
        return sum(needs[: max(0, self.goal.count - self._brought(stage))]) + (not stage.lit)

    def reached(self, stage: _Stage) -> bool:
        return stage.lit and self._brought(stage) >= self.goal.count

    def _brought(self, stage: _Stage) -> int:
        pairs = zip(stage.places, stage.ready, strict=True)
        return sum(ready and place == self.goal.place for place, ready in pairs)

    def steps(self, stage: _Stage) -> Iterator[tuple[_Stage, tuple[str, ...]]]:
        walks = self.walks(stage)
        held = stage.places.count(HANDS)
        # More things in hand than are still missing would be of no use.
        may_take = held < min(self.hands, self.goal.count - self._brought(stage))
        for i, (thing, place) in enumerate(zip(self.things, stage.places, strict=True)):
            if place != HANDS:
                done = place == self.goal.place and stage.ready[i]
                if may_take and not done and self.room_of[place] in walks:
                    after, walk = self._visit(stage, place, walks)
                    yield (
                        replace(after, places=_set(after.places, i, HANDS)),
                        (
                            *walk,
                            f"take {thing.name}",
                        ),
                    )
            elif stage.ready[i]:
                if self.room_of[self.goal.place] in walks:
                    after, walk = self._visit(stage, self.goal.place, walks)
                    piece = self.house.piece(self.goal.place)
                    put = f"put {thing.name} {piece.preposition} {piece.name}"
                    yield replace(after, places=_set(after.places, i, piece.name)), (*walk, put)
            else:
                verb, kind = APPLIANCES[self.goal.state]
                for room in [p.room for p in self.house.furniture if p.kind == kind]:
                    if room not in walks:
                        continue
                    after = replace(stage, room=room, ready=_set(stage.ready, i, True))
                    yield after, (*walks[room], f"{verb} {thing.name}")
        if not stage.unlocked:
            yield from self._towards_the_key(stage, walks)
        if not stage.lit and self.room_of[self.goal.lamp] in walks:
            room = self.room_of[self.goal.lamp]
            yield (
                replace(stage, room=room, lit=True),
                (*walks[room], f"switch on {self.goal.lamp}"),
            )

    def _towards_the_key(
        self, stage: _Stage, walks: Mapping[str, tuple[str, ...]]
    ) -> Iterator[tuple[_Stage, tuple[str, ...]]]:
        if stage.key != HANDS:
            after, walk = self._visit(stage, stage.key, walks)
            yield replace(after, key=HANDS), (*walk, f"take {KEY}")
        else:
            (before,) = self.house.exits(self.house.locked)
            after = replace(stage, room=before, unlocked=True)
            yield after, (*walks[before], f"unlock {self.house.locked}")

    def _visit(
        self, stage: _Stage, place: str, walks: Mapping[str, tuple[str, ...]]
    ) -> tuple[_Stage, tuple[str, ...]]:
        """Go to a piece of furniture and open it if need be."""
        room = self.room_of[place]
        if place in self.opens and place not in stage.opened:
            opened = stage.opened | {place}
            return replace(stage, room=room, opened=opened), (*walks[room], f"open {place}")
        return replace(stage, room=room), walks[room]


def _walks(house: House, start: str, unlocked: bool) -> dict[str, tuple[str, ...]]:
    """Each room that can be reached -> the commands that lead there."""
    walks: dict[str, tuple[str, ...]] = {start: ()}
    for room in (frontier := [start]):
        for exit_ in house.exits(room):
            if exit_ not in walks and (exit_ != house.locked or unlocked):
                walks[exit_] = (*walks[room], f"go {exit_}")
                frontier.append(exit_)
    return walks


def _unload(world: World, goal: Goal) -> tuple[tuple[str, ...], World]:
    """Where both hands are full, put down what the goal does not need at the nearest surface."""
    spare = _spare(world, goal)
    if not spare or len(spare) + len(_wanted(world, goal)) < HELD_AT_MOST:
        return (), world
    walks = _walks(world.house, world.room, world.unlocked)
    pieces = [p for p in world.house.furniture if p.kind == "surface" and p.name != goal.place]
    near = min((p for p in pieces if p.room in walks), key=lambda piece: len(walks[piece.room]))
    names = {thing.name for thing in spare}
    places = tuple(
        near.name if thing.name in names else place
        for thing, place in zip(world.house.things, world.places, strict=True)
    )
    commands = (*walks[near.room], *(f"put {thing.name} on {near.name}" for thing in spare))
    return commands, replace(world, room=near.room, places=places)


def _wanted(world: World, goal: Goal) -> list[Thing]:
    """The things in hand that the goal still needs."""
    missing = goal.count - sum(goal.suits(thing, world) for thing in world.at(goal.place))
    return [thing for thing in world.at(HANDS) if thing.noun == goal.noun][: max(missing, 0)]


def _spare(world: World, goal: Goal) -> list[Thing]:
    """The things in hand that it does not need."""
    wanted = _wanted(world, goal)
    return [t for t in world.at(HANDS) if t.name != KEY and t not in wanted]


def _set(values: tuple[_T, ...], i: int, value: _T) -> tuple[_T, ...]:
    return (*values[:i], value, *values[i + 1 :])
