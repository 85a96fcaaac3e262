"""Tasks: a house, where everything is in it, and what is to be done, all drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from at2po_envs.errors import check_integer, check_known
from at2po_envs.household.house import (
    APPLIANCES,
    KEY,
    Furniture,
    Goal,
    House,
    Kind,
    Thing,
    World,
    a,
    describe_room,
)
from at2po_envs.household.planner import plan
from at2po_envs.question_sets.questions import Question
from at2po_envs.seeds import SPLITS, Split, choose, stable_hash

_ROOMS: Mapping[str, Mapping[str, Kind]] = {
    "kitchen": {
        "counter": "surface",
        "cabinet": "container",
        "drawer": "container",
        "fridge": "fridge",
        "stove": "stove",
        "sink": "sink",
    },
    "living room": {
        "sofa": "surface",
        "coffee table": "surface",
        "sideboard": "container",
        "floor lamp": "lamp",
    },
    "bedroom": {
        "bed": "surface",
        "nightstand": "surface",
        "wardrobe": "container",
        "bedside lamp": "lamp",
    },
    "study": {
        "desk": "surface",
        "bookcase": "surface",
        "filing cabinet": "container",
        "desk lamp": "lamp",
    },
    "bathroom": {"washing machine": "container", "stool": "surface", "washbasin": "sink"},
    "hallway": {"bench": "surface", "shoe cupboard": "container"},
    "dining room": {"dining table": "surface", "display case": "container"},
    "pantry": {"shelf": "surface", "crate": "container"},
    "garage": {"workbench": "surface", "toolbox": "container"},
}
_CLEAN, _ALL = ("clean",), ("clean", "heat", "cool")
# Noun -> its plural, what can be done to it, and the adjectives that tell several apart.
_THINGS: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "mug": ("mugs", _ALL, ("red", "blue", "white", "striped")),
    "plate": ("plates", _ALL, ("round", "square", "flat", "deep")),
    "bowl": ("bowls", _ALL, ("wooden", "steel", "green", "china")),
    "spoon": ("spoons", _CLEAN, ("silver", "big", "tin", "long")),
    "apple": ("apples", _ALL, ("green", "ripe", "yellow", "russet")),
    "potato": ("potatoes", _ALL, ("small", "old", "large", "sweet")),
    "egg": ("eggs", _ALL, ("brown", "speckled", "white", "tiny")),
    "towel": ("towels", _CLEAN, ("grey", "soft", "purple", "torn")),
    "shirt": ("shirts", _CLEAN, ("plain", "checked", "black", "silk")),
    "book": ("books", (), ("thick", "thin", "leather", "dusty")),
    "letter": ("letters", (), ("folded", "short", "sealed", "crumpled")),
    "candle": ("candles", (), ("tall", "scented", "orange", "burnt")),
    "hammer": ("hammers", (), ("heavy", "rusty", "rubber", "claw")),
    "brush": ("brushes", _CLEAN, ("wire", "broad", "stiff", "narrow")),
}
_NUMBERS = {1: "", 2: "two", 3: "three"}


@dataclass(frozen=True, slots=True)
class Size:
    """How large households are and how long their tasks.

    Attributes:
        rooms: Number of rooms, the kitchen among them, 2 to 9.
        things: Number of things that can be taken.
        most: Most things that a goal asks for, 1 to 3.
        locked: Whether one room is locked, with its key somewhere else.
        shortest: Least number of commands that a task takes.
        turns: Turns after which an episode ends.
    """

    rooms: int
    things: int
    most: int
    locked: bool
    shortest: int
    turns: int


SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "small": Size(rooms=3, things=8, most=1, locked=False, shortest=3, turns=20),
        "standard": Size(rooms=6, things=20, most=3, locked=True, shortest=8, turns=50),
    }
)


@dataclass(frozen=True, slots=True)
class Task:
    """Something to be done in a household.

    Attributes:
        world: The household at first.
        goal: What is to be done.
        commands: A shortest way to do it.
        text: The goal in words, and the room that one is in.
    """

    world: World
    goal: Goal
    commands: tuple[str, ...]
    text: str


@lru_cache(maxsize=4096)
def draw_task(size: str, split: Split, seed: int, number: int) -> Task:
    """Draw a task; it can be done, in at most three fifths of the turns.

    Args:
        size: Name in `SIZES`.
        split: `"train"` or `"test"`: no kind of thing is brought to the same piece of furniture
            in the same state in both.
        seed: Any integer.
        number: Which of the seed's tasks.

    Returns:
        The task, the same for the same arguments in every process.

    Raises:
        UnknownNameError: If there is no such size or split.
    """
    check_known("the size of a household", size, SIZES)
    check_known("the split", split, SPLITS)
    rng = np.random.default_rng(stable_hash("household", size, split, seed, number))
    limits = SIZES[size]
    while True:
        world = _draw_world(limits, rng)
        world, goal = _draw_goal(world, limits, rng)
        # A quarter of what can be asked is kept for the test split.
        for_test = stable_hash(goal.noun, goal.state, goal.place) % 4 == 0
        if for_test == (split == "test") and goal.progress(world) == 0:
            commands = plan(world, goal)
            if limits.shortest <= len(commands) <= 0.6 * limits.turns:
                text = f"{_in_words(goal, world.house, rng)} {describe_room(world)}"
                return Task(world, goal, commands, text)


def draw_questions(size: str, split: Split, seed: int, count: int) -> tuple[Question, ...]:
    """Draw tasks that all read differently, as questions.

    Args:
        size: Name in `SIZES`.
        split: `"train"` or `"test"`.
        seed: Any integer.
        count: How many, >= 1.

    Returns:
        Questions whose golden answer is a shortest plan; `metadata` holds its length as
        `steps`, and what `task_of` needs.

    Raises:
        ValueError: If `count` is below 1, or as `draw_task` does.
    """
    seed, count = check_integer("seed", seed), check_integer("questions", count, 1)
    found: dict[str, Question] = {}
    number = 0
    while len(found) < count:
        task = draw_task(size, split, seed, number)
        metadata = {
            "size": size,
            "split": split,
            "seed": seed,
            "number": number,
            "steps": len(task.commands),
        }
        name = f"household_{size}_{split}_{seed}_{number}"
        found.setdefault(
            task.text, Question(name, task.text, ("; ".join(task.commands),), metadata)
        )
        number += 1
    return tuple(found.values())


def task_of(question: Question) -> Task:
    """Return the task that a question of `draw_questions` is about.

    Raises:
        ValueError: If it is no such question.
    """
    names = ("size", "split", "seed", "number")
    if not all(name in question.metadata for name in names):
        raise ValueError(f"expected a question of Household, found {question!r:.200}")
    return draw_task(*(question.metadata[name] for name in names))


def _draw_world(size: Size, rng: np.random.Generator) -> World:
    others = [room for room in _ROOMS if room != "kitchen"]
    rooms = ["kitchen", *_some(others, size.rooms - 1, rng)]
    rng.shuffle(rooms)
    doors = [(rooms[int(rng.integers(i))], room) for i, room in enumerate(rooms) if i]
    ends = [room for room in rooms if sum(room in door for door in doors) == 1]
    locked = choose([r for r in ends if r != "kitchen"] or [""], rng) if size.locked else ""
    free = [room for room in rooms if room != locked]
    if len(free) > 3:  # a second way round makes a better house
        first, second = _some(free, 2, rng)
        if (first, second) not in doors and (second, first) not in doors:
            doors.append((first, second))
    furniture = tuple(
        Furniture(name, room, kind) for room in rooms for name, kind in _ROOMS[room].items()
    )
    nouns = _some(list(_THINGS), size.things * 2 // 5, rng)
    names = [f"{adjective} {noun}" for noun in nouns for adjective in _THINGS[noun][2]]
    things = [
        Thing(name, name.split()[-1], _THINGS[name.split()[-1]][1])
        for name in _some(names, min(size.things, len(names)), rng)
    ]
    spots = [piece for piece in furniture if piece.holds]
    places = [choose(spots, rng).name for _ in things]
    if locked:
        things.append(Thing(KEY, "key"))
        places.append(choose([spot for spot in spots if spot.room != locked], rng).name)
    house = House(tuple(rooms), tuple(doors), furniture, tuple(things), locked)
    dirty = frozenset(thing.name for thing in things if thing.uses and rng.random() < 0.3)
    return World(house, choose(free, rng), tuple(places), dirty=dirty)


def _draw_goal(world: World, size: Size, rng: np.random.Generator) -> tuple[World, Goal]:
    """A goal, and the world with all things dirty that are to be brought clean."""
    house = world.house
    noun = choose(sorted({thing.noun for thing in house.things if thing.name != KEY}), rng)
    alike = [thing for thing in house.things if thing.noun == noun]
    state = choose(["", *(s for s, (use, _) in APPLIANCES.items() if use in alike[0].uses)], rng)
    place = choose([piece.name for piece in house.furniture if piece.holds], rng)
    lamps = [piece.name for piece in house.furniture if piece.kind == "lamp"]
    lamp = choose(lamps, rng) if lamps and size.most > 1 and rng.random() < 0.25 else ""
    many = int(rng.integers(1, min(size.most, len(alike)) + 1))
    if state == "clean":
        world = World(
            house,
            world.room,
            world.places,
            dirty=world.dirty | {thing.name for thing in alike},
        )
    return world, Goal(noun, many, state, place, lamp)


def _in_words(goal: Goal, house: House, rng: np.random.Generator) -> str:
    piece = house.piece(goal.place)
    one = goal.count == 1
    noun = goal.noun if one else _THINGS[goal.noun][0]
    named = " ".join(word for word in (_NUMBERS[goal.count], goal.state, noun) if word)
    named = a(named) if one else named
    where = f"the {piece.name} in the {piece.room}"
    text = choose([f"Put {named} {piece.preposition} {where}", f"Bring {named} to {where}"], rng)
    if goal.lamp:
        text += f" and switch on the {goal.lamp} in the {house.piece(goal.lamp).room}"
    return f"{text}."


def _some(options: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    return [options[int(i)] for i in rng.permutation(len(options))[:count]]
