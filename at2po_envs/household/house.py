"""What a household is made of: the house, which stays, and the world, which commands change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Kind = Literal["surface", "container", "fridge", "stove", "sink", "lamp"]

HANDS = "hands"
"""Where a thing is that you hold."""

KEY = "brass key"
"""The thing that unlocks the locked room; it hangs on a finger and fills no hand."""

HELD_AT_MOST = 2

APPLIANCES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"clean": ("clean", "sink"), "hot": ("heat", "stove"), "cold": ("cool", "fridge")}
)
"""State of a thing -> the verb and the kind of furniture that bring it about."""


@dataclass(frozen=True, slots=True)
class Furniture:
    """Something that stands in a room for good.

    Attributes:
        name: Its name, unique in the house.
        room: Where it stands.
        kind: What it is good for.
    """

    name: str
    room: str
    kind: Kind

    @property
    def opens(self) -> bool:
        """Whether it must be opened to look into it."""
        return self.kind in ("container", "fridge")

    @property
    def holds(self) -> bool:
        """Whether things can be put there."""
        return self.kind in ("surface", "container", "fridge")

    @property
    def preposition(self) -> str:
        """How things lie there."""
        return "in" if self.opens else "on"


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that can be taken.

    Attributes:
        name: Its name, unique in the house.
        noun: What it is: the last word of its name.
        uses: What can be done to it, of `"clean"`, `"heat"` and `"cool"`.
    """

    name: str
    noun: str
    uses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class House:
    """What no command changes.

    Attributes:
        rooms: Names of the rooms.
        doors: Pairs of rooms with a way between them.
        furniture: What stands in the rooms.
        things: What can be taken.
        locked: The room whose only door is locked at first, empty if there is none.
    """

    rooms: tuple[str, ...]
    doors: tuple[tuple[str, str], ...]
    furniture: tuple[Furniture, ...]
    things: tuple[Thing, ...]
    locked: str = ""

    def exits(self, room: str) -> list[str]:
        """The rooms next to one, locked or not."""
        pairs = [pair for pair in self.doors if room in pair]
        return [second if first == room else first for first, second in pairs]

    def piece(self, name: str) -> Furniture:
        """The furniture of that name."""
        return next(each for each in self.furniture if each.name == name)


@dataclass(frozen=True, slots=True)
class World:
    """A household at one moment; a command makes a new one that shares all it leaves alone.

    Attributes:
        house: What stays.
        room: Where you are.
        places: Where each thing of the house is: the name of a piece of furniture, or `HANDS`.
        opened: Containers that are open.
        dirty: Names of dirty things.
        hot: Names of hot things; they stay hot.
        cold: Names of cold things; they stay cold.
        lit: Lamps that are on.
        unlocked: Whether the locked room has been unlocked.
    """

    house: House
    room: str
    places: tuple[str, ...]
    opened: frozenset[str] = frozenset()
    dirty: frozenset[str] = frozenset()
    hot: frozenset[str] = frozenset()
    cold: frozenset[str] = frozenset()
    lit: frozenset[str] = frozenset()
    unlocked: bool = False

    def at(self, place: str) -> list[Thing]:
        """The things at a place."""
        pairs = zip(self.house.things, self.places, strict=True)
        return [thing for thing, where in pairs if where == place]

    def here(self) -> list[Furniture]:
        """The furniture of the room that you are in."""
        return [each for each in self.house.furniture if each.room == self.room]

    def shows(self, piece: Furniture) -> bool:
        """Whether one sees what is there."""
        return piece.holds and (not piece.opens or piece.name in self.opened)

    def visible(self) -> list[Thing]:
        """The things of this room that one sees and does not hold."""
        return [t for piece in self.here() if self.shows(piece) for t in self.at(piece.name)]

    def is_locked(self, room: str) -> bool:
        """Whether a room cannot be entered yet."""
        return room == self.house.locked and not self.unlocked


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be done; once it is, it is done for good.

    Attributes:
        noun: What is to be brought.
        count: How many of them.
        state: `"clean"`, `"hot"`, `"cold"`, or empty where that does not matter.
        place: Name of the furniture that they are brought to.
        lamp: A lamp to be switched on, empty if there is none.
    """

    noun: str
    count: int
    state: str
    place: str
    lamp: str = ""

    def suits(self, thing: Thing, world: World) -> bool:
        """Whether a thing is in the state asked for."""
        wanted = {"clean": thing.name not in world.dirty, "": True}
        wanted |= {"hot": thing.name in world.hot, "cold": thing.name in world.cold}
        return thing.noun == self.noun and wanted[self.state]

    def progress(self, world: World) -> float:
        """The share of the goal that is reached, in [0, 1]; 1 ends the episode."""
        brought = sum(self.suits(thing, world) for thing in world.at(self.place))
        done = min(brought, self.count) + bool(self.lamp and self.lamp in world.lit)
        return done / (self.count + bool(self.lamp))


def describe_room(world: World) -> str:
    """Where you are, what stands there, what lies there in sight, and where you can go."""
    exits = [
        f"{room} (locked)" if world.is_locked(room) else room
        for room in sorted(world.house.exits(world.room))
    ]
    pieces = "; ".join(describe_piece(piece, world) for piece in world.here())
    return f"You are in the {world.room}. You see: {pieces}. Exits: {', '.join(exits)}."


def describe_piece(piece: Furniture, world: World) -> str:
    """A piece of furniture and what one sees in or on it."""
    if piece.kind == "lamp":
        return f"{a(piece.name)} ({'on' if piece.name in world.lit else 'off'})"
    if not piece.holds:
        return a(piece.name)
    if not world.shows(piece):
        return f"{a(piece.name)} (closed)"
    things = listed(describe_thing(thing, world) for thing in world.at(piece.name))
    inside = "empty" if things == "nothing" else f"{piece.preposition} it: {things}"
    return f"{a(piece.name)} ({'open, ' if piece.opens else ''}{inside})"


def describe_thing(thing: Thing, world: World) -> str:
    """A thing and the states that one sees."""
    states = [
        state
        for state, names in (("dirty", world.dirty), ("hot", world.hot), ("cold", world.cold))
        if thing.name in names
    ]
    return a(" ".join([*states, thing.name]))


def a(name: str) -> str:
    """A name with its indefinite article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def listed(parts: Iterable[str]) -> str:
    """Parts in a row: `a cup, a pan and a pot`, or `nothing`."""
    names = list(parts)
    if len(names) < 2:
        return names[0] if names else "nothing"
    return f"{', '.join(names[:-1])} and {names[-1]}"
