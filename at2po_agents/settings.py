"""Settings between dataclasses, TOML and KEY=VALUE options: strict reading, exact writing."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    ClassVar,
    Literal,
    TypeGuard,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)
from urllib.parse import urlsplit

import tyro

from at2po_agents.errors import ConfigError
from retrieval.errors import nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")
N = TypeVar("N")
Scalar = bool | int | float | str
Table = dict[str, "Scalar | Table"]
"""Settings as TOML has them."""


def parse_options(arguments: Sequence[str]) -> dict[str, Scalar]:
    """Return KEY=VALUE pairs as a dict; a value that is no TOML scalar is text as it stands.

    Raises:
        ValueError: An argument is no KEY=VALUE pair (tyro turns this into a message).
    """
    options: dict[str, Scalar] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not (key and equals):
            raise ValueError(f"expected KEY=VALUE, found {argument!r}; write it like split=test")
        try:
            parsed = tomllib.loads(f"value = {text}")
        except (ValueError, RecursionError):
            parsed = {}
        value = parsed.get("value")
        # A line break in the text would have made further keys: then it is just text.
        options[key] = value if isinstance(value, Scalar) and len(parsed) == 1 else text
    return options


Options = Annotated[
    dict[str, Scalar],
    tyro.constructors.PrimitiveConstructorSpec[dict[str, Scalar]](
        nargs="*",
        metavar="KEY=VALUE",
        instance_from_str=parse_options,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda options: [f"{key}={_toml(v)}" for key, v in options.items()],
    ),
]
"""Keyword arguments, `KEY=VALUE KEY=VALUE …` on the command line; given there, they replace all."""


PATHS = tyro.constructors.ConstructorRegistry()
"""How commands read paths: an empty text, which `Path` takes for the current folder, is refused."""


@PATHS.primitive_rule
def _path_rule(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Path] | None:
    if info.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: path_of(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


def path_of(text: str, prefix: str = "") -> Path:
    """Return the path that a setting names.

    Args:
        text: The path.
        prefix: Of messages, such as "out: ".

    Raises:
        ConfigError: The text is empty.
    """
    if not text:
        raise ConfigError(f"{prefix}expected a path, found ''; write . for the current folder")
    return Path(text)


@dataclass(frozen=True)
class Range:
    """Numbers that a setting may have, all of them finite.

    Attributes:
        least: The smallest of them.
        most: The largest of them.
        above: Whether `least` itself is left out.
    """

    least: float
    most: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        # Comparisons take integers of any size, and NaN fails all of them.
        over = value > self.least if self.above else value >= self.least
        return over and value <= self.most and value < math.inf

    def __str__(self) -> str:
        least = f"{'above' if self.above else 'of at least'} {_shown(self.least)}"
        return least if math.isinf(self.most) else f"{least} and at most {_shown(self.most)}"


def _shown(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:.12g}"


COUNT_OF_BYTES = Range(0, 2**53)
SECONDS = Range(0, 1e9, above=True)

Count = Annotated[int, Range(1, 2**31 - 1)]
CountOrZero = Annotated[int, Range(0, 2**31 - 1)]
Fraction = Annotated[float, Range(0, 1)]
Seconds = Annotated[float, SECONDS]
Seed = Annotated[int, Range(0, 2**63 - 1)]


class Settings:
    """Base of dataclasses of settings: a field that is annotated with a `Range` is held to it.

    Attributes:
        group: Put before the names of fields in messages, such as "lora.".

    Raises:
        ConfigError: A number is not finite, or not in its range.
    """

    group: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check ranges now rather than when the settings are used."""
        ranges = _ranges(type(self))  # type: ignore[arg-type]  # mypy takes no class for hashable
        for name, allowed in ranges:
            if (value := vars(self)[name]) not in allowed:
                kind = "number" if -math.inf < value < math.inf else "finite number"
                raise ConfigError(f"{self.group}{name}: expected a {kind} {allowed}, found {value}")


@cache
def _ranges(cls: type[object]) -> list[tuple[str, Range]]:
    """The fields that have a range, by a class or by those that it extends.

    A subclass that gives a field another default says nothing of its range.
    """
    hints = (get_type_hints(base, include_extras=True) for base in cls.__mro__)
    found = ((name, note) for own in hints for name in own for note in _notes(own[name], Range))
    return list(dict.fromkeys(found))


def check_url(name: str, text: str) -> None:
    """Refuse what is no address of a server.

    Args:
        name: Of the setting, for messages.
        text: Such as `http://127.0.0.1:8000`.

    Raises:
        ConfigError: It is another scheme, has no host, or a port outside 1 to 65535.
    """
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a bracket or a port that is none
        sound = False
    if not sound:
        raise ConfigError(f"{name}: expected http://HOST:PORT, found {text!r}")


@dataclass(frozen=True)
class Choice:
    """Annotation of a field whose value is one of several dataclasses.

    Attributes:
        find: Gives the class that the key `name` of the field's table stands for, or raises
            `ConfigError`.
        name_of: Gives that name for a value.
        default: Name where the table has none.
    """

    find: Callable[[str], type[DataclassInstance]]
    name_of: Callable[..., str]
    default: str


def from_table(cls: type[C], table: Mapping[str, object], prefix: str = "") -> C:
    """Return an instance of the dataclass `cls` whose fields come from a TOML table.

    Args:
        cls: A dataclass all of whose fields have defaults.
        table: Field name to value; missing fields keep their defaults.
        prefix: Where the table lies in its file, for messages: empty or "name.".

    Raises:
        ConfigError: An unknown key, a value of the wrong type, or one that `cls` refuses.
    """
    hints = _hints(cls)
    groups = {name: _hints(hint) for name, hint in hints.items() if _is_group(hint)}
    known = [*hints, *(f"{name}.{inner}" for name in groups for inner in groups[name])]
    for key in table:
        if key not in hints:
            raise ConfigError(f"unknown key {prefix + key!r}; {nearest(key, known)}")
    return cls(**{key: _convert(hints[key], table[key], prefix + key) for key in table})


def to_table(settings: object) -> Table:
    """Return settings, or a mapping, as TOML has them; None has no form there and is left out."""
    if isinstance(settings, Mapping):
        return {key: _written(value) for key, value in settings.items() if value is not None}
    table = to_table({name: vars(settings)[name] for name in _hints(type(settings))})
    for name, hint in _hints(type(settings)).items():
        for choice in _notes(hint, Choice):
            table[name] = {"name": choice.name_of(vars(settings)[name]), **cast(Table, table[name])}
    return table


def to_toml(table: Table) -> str:
    """Return the TOML text of what `to_table` returned."""
    lines: list[str] = []
    tables = [("", table)]
    while tables:
        name, table = tables.pop(0)
        lines += ["", f"[{name}]"] if name else []
        for key, value in table.items():
            bare = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)
            if isinstance(value, dict):
                tables.append((f"{name}.{bare}" if name else bare, value))
            else:
                lines.append(f"{bare} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def choices(cls: type[DataclassInstance], prefix: str = "") -> Iterator[tuple[str, Choice]]:
    """Yield the fields whose class is chosen by name, with their dotted names."""
    for name, hint in _hints(cls).items():
        yield from ((prefix + name, choice) for choice in _notes(hint, Choice))
        if _is_group(hint):
            yield from choices(hint, f"{prefix}{name}.")


def _hints(cls: type[object]) -> dict[str, object]:
    """Return the declared types of a dataclass's fields, with their annotations."""
    hints = get_type_hints(cls, include_extras=True)
    return {item.name: hints[item.name] for item in fields(cast("type[DataclassInstance]", cls))}


def _is_group(hint: object) -> TypeGuard[type[DataclassInstance]]:
    return isinstance(hint, type) and is_dataclass(hint)


def _notes(hint: object, kind: type[N]) -> Iterator[N]:
    """Yield what a type is annotated with, of one kind."""
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    yield from (note for note in notes if isinstance(note, kind))


def _convert(hint: object, value: object, key: str) -> object:
    """Return a TOML value as the type that a field declares, or raise `ConfigError`."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{key}: expected an integer of at most 64 bits, found a larger one")
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated and not any(_notes(hint, Choice)):
        return _convert(arguments[0], value, key)
    if isinstance(value, Mapping):
        for choice in _notes(hint, Choice):
            name = str(_convert(str, value.get("name", choice.default), f"{key}.name"))
            rest = {inner: item for inner, item in value.items() if inner != "name"}
            return from_table(choice.find(name), rest, f"{key}.")
        if _is_group(hint):
            return from_table(hint, value, f"{key}.")
        if origin is dict:
            return {name: _convert(arguments[1], v, f"{key}.{name}") for name, v in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if hint is Path and type(value) is str:
        return path_of(value, f"{key}: ")
    # No isinstance: `true` is not an integer here.
    allowed = arguments if origin in (Union, UnionType) else (hint,)
    if type(value) in allowed or (origin is Literal and value in arguments):
        return value
    raise ConfigError(f"{key}: expected {_spell(hint)}, found {value!r} ({type(value).__name__})")


def _written(value: object) -> Scalar | Table:
    """Return one value as TOML has it."""
    if is_dataclass(value) or isinstance(value, Mapping):
        return to_table(value)
    return value.as_posix() if isinstance(value, Path) else cast(Scalar, value)


def _spell(hint: object) -> str:
    """Return a type in a person's words."""
    if get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_spell(member) for member in get_args(hint))
    words = {bool: "true or false", int: "an integer", float: "a number"}
    words |= {str: "text", Path: "a path as text"}
    if _is_group(hint):
        return f"a table with {', '.join(item.name for item in fields(hint))}"
    return words.get(hint, "a table") if isinstance(hint, type) else "a table"


def _toml(value: Scalar) -> str:
    """Return one value in TOML's notation."""
    if isinstance(value, str):
        # A JSON string is a TOML string, except that TOML wants DEL escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower() if isinstance(value, bool) else repr(value)
