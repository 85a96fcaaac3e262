"""Commands: plain English in, a new world and what you notice out; nothing is ever refused hard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from at2po_envs.household.house import (
    APPLIANCES,
    HANDS,
    HELD_AT_MOST,
    KEY,
    Furniture,
    Thing,
    World,
    a,
    describe_piece,
    describe_room,
    describe_thing,
    listed,
)
from at2po_envs.household.parser import read_command

COMMANDS = (
    "look, inventory, go ROOM, open THING, close THING, take THING, put THING in/on FURNITURE, "
    "clean THING (at a sink), heat THING (at a stove), cool THING (at a fridge), "
    "switch on LAMP, switch off LAMP, unlock ROOM, examine THING"
)


class _Refusal(Exception):
    """A command that does nothing, with what the agent is told."""


def obey(world: World, command: str) -> tuple[World, str]:
    """Carry out a command.

    Args:
        world: The household as it is.
        command: Any text.

    Returns:
        The household after it and what you notice; the same household, and why, if it cannot be.
    """
    verb, what, where = read_command(command)
    if not verb:
        return world, f"That is no command. Commands: {COMMANDS}."
    try:
        return _HANDLERS[verb](world, what, where)
    except _Refusal as refusal:
        return world, str(refusal)


def _look(world: World, what: str, where: str) -> tuple[World, str]:
    return world, describe_room(world)


def _inventory(world: World, what: str, where: str) -> tuple[World, str]:
    held = listed(describe_thing(thing, world) for thing in world.at(HANDS))
    return world, f"You hold {held}."


def _examine(world: World, what: str, where: str) -> tuple[World, str]:
    named = what or where
    if not named or named in ("room", world.room):
        return _look(world, "", "")
    things = [*world.at(HANDS), *world.visible()]
    name = _named(named, [t.name for t in things] + [p.name for p in world.here()], world)
    thing = next((thing for thing in things if thing.name == name), None)
    seen = describe_thing(thing, world) if thing else describe_piece(_piece(world, name), world)
    return world, f"You see {seen}."


def _go(world: World, what: str, where: str) -> tuple[World, str]:
    exits = world.house.exits(world.room)
    if what.split() == world.room.split():
        raise _Refusal(f"You are in the {world.room} already.")
    room = _named(
        what or where, exits, world, f"From here you can go to: {', '.join(sorted(exits))}."
    )
    if world.is_locked(room):
        raise _Refusal(f"The door to the {room} is locked. Unlock it with a key first.")
    after = replace(world, room=room)
    return after, describe_room(after)


def _open(world: World, what: str, where: str) -> tuple[World, str]:
    if what.startswith("door") or what in world.house.exits(world.room):
        return _unlock(world, what, where)
    piece = _piece(world, what)
    if not piece.opens:
        raise _Refusal(f"The {piece.name} is nothing that opens.")
    if piece.name in world.opened:
        raise _Refusal(f"The {piece.name} is open already.")
    after = replace(world, opened=world.opened | {piece.name})
    inside = listed(describe_thing(thing, after) for thing in after.at(piece.name))
    return after, f"You open the {piece.name}. In it you see {inside}."


def _close(world: World, what: str, where: str) -> tuple[World, str]:
    piece = _piece(world, what)
    if piece.name not in world.opened:
        raise _Refusal(f"The {piece.name} is not open.")
    return replace(world, opened=world.opened - {piece.name}), f"You close the {piece.name}."


def _take(world: World, what: str, where: str) -> tuple[World, str]:
    things = world.at(_piece(world, where).name) if where else world.visible()
    things = [thing for thing in things if thing in world.visible()]
    held = [thing.name for thing in world.at(HANDS)]
    if what in held:
        raise _Refusal(f"You hold the {what} already.")
    name = _named(what, [thing.name for thing in things], world)
    if name != KEY and len(set(held) - {KEY}) >= HELD_AT_MOST:
        raise _Refusal(f"Your hands are full: you hold {listed(map(a, held))}. Put one down first.")
    return _moved(world, name, HANDS), f"You take the {name}."


def _put(world: World, what: str, where: str) -> tuple[World, str]:
    thing = _held(world, what)
    here = listed(f"the {piece.name}" for piece in world.here() if piece.holds)
    if not where:
        raise _Refusal(f"Say where to put the {thing.name}. Here you could use {here}.")
    piece = _piece(world, where)
    if not piece.holds:
        raise _Refusal(f"Nothing can be put on the {piece.name}. Here you could use {here}.")
    if not world.shows(piece):
        raise _Refusal(f"The {piece.name} is closed. Open it first.")
    after = _moved(world, thing.name, piece.name)
    return after, f"You put the {thing.name} {piece.preposition} the {piece.name}."


def _treat(state: str, world: World, what: str, where: str) -> tuple[World, str]:
    """Clean, heat or cool a thing in hand."""
    use, kind = APPLIANCES[state]
    thing = _held(world, what)
    if kind not in [piece.kind for piece in world.here()]:
        raise _Refusal(f"There is no {kind} here to {use} the {thing.name}.")
    if use not in thing.uses:
        raise _Refusal(f"The {thing.name} is nothing to {use}.")
    name = {thing.name}
    if state == "clean":
        after = replace(world, dirty=world.dirty - name)
    elif state == "hot":
        after = replace(world, hot=world.hot | name, cold=world.cold - name)
    else:
        after = replace(world, cold=world.cold | name, hot=world.hot - name)
    verb = "wash" if use == "clean" else use
    return after, f"You {verb} the {thing.name}. It is {state} now."


def _switch(on: bool, world: World, what: str, where: str) -> tuple[World, str]:
    lamp = _piece(world, what)
    if lamp.kind != "lamp":
        raise _Refusal(f"The {lamp.name} cannot be switched on or off.")
    lit = world.lit | {lamp.name} if on else world.lit - {lamp.name}
    return replace(world, lit=lit), f"The {lamp.name} is {'on' if on else 'off'}."


def _unlock(world: World, what: str, where: str) -> tuple[World, str]:
    locked = [room for room in world.house.exits(world.room) if world.is_locked(room)]
    if not locked:
        raise _Refusal("No door here is locked.")
    if KEY not in [thing.name for thing in world.at(HANDS)]:
        raise _Refusal(f"The door to the {locked[0]} is locked and you hold no key.")
    return replace(world, unlocked=True), f"You unlock the door to the {locked[0]}."


def _use(world: World, what: str, where: str) -> tuple[World, str]:
    if what and set(what.split()) <= set(KEY.split()):
        return _unlock(world, what, where)
    piece = _piece(world, what)
    if piece.kind == "lamp":
        return _switch(piece.name not in world.lit, world, what, where)
    verb = next((use for use, kind in APPLIANCES.values() if kind == piece.kind), "")
    if not verb:
        raise _Refusal(f"Say what to do with the {piece.name}: open it, or put something there.")
    held = [thing.name for thing in world.at(HANDS) if thing.name != KEY]
    if len(held) != 1 and not where:
        raise _Refusal(f"Say what to {verb}: {verb} THING.")
    return _HANDLERS[verb](world, where or held[0], "")


_HANDLERS: dict[str, Callable[[World, str, str], tuple[World, str]]] = {
    "look": _look,
    "inventory": _inventory,
    "examine": _examine,
    "go": _go,
    "open": _open,
    "close": _close,
    "take": _take,
    "put": _put,
    **{use: partial(_treat, state) for state, (use, _) in APPLIANCES.items()},
    "on": partial(_switch, True),
    "off": partial(_switch, False),
    "unlock": _unlock,
    "use": _use,
}


def _named(words: str, names: Sequence[str], world: World, otherwise: str = "") -> str:
    """The one name that the words mean; `mug` is enough where there is one mug."""
    said = set(words.split()) - set(world.room.split()) or set(words.split())
    if words in names:
        return words
    meant = [name for name in names if said and said <= set(name.split())]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise _Refusal(f"Which one: {' or '.join(f'the {name}' for name in meant)}?")
    raise _Refusal(otherwise or "You see nothing of that name here. Try: look.")


def _piece(world: World, words: str) -> Furniture:
    return world.house.piece(_named(words, [piece.name for piece in world.here()], world))


def _held(world: World, words: str) -> Thing:
    held = world.at(HANDS)
    if not held:
        raise _Refusal("You hold nothing. Take something first.")
    holding = f"You hold {listed(a(thing.name) for thing in held)}, nothing else."
    name = _named(words, [thing.name for thing in held], world, holding)
    return next(thing for thing in held if thing.name == name)


def _moved(world: World, name: str, place: str) -> World:
    i = next(i for i, thing in enumerate(world.house.things) if thing.name == name)
    return replace(world, places=(*world.places[:i], place, *world.places[i + 1 :]))
