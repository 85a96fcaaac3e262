"""Reading a command: which verb, of what, and where."""

from __future__ import annotations

import re
from types import MappingProxyType

_MOST_CHARACTERS = 200
_WORD = re.compile(r"[a-z]+")
_IDLE = frozenset("the a an my some please now then i you it that this of".split())

_VERBS = MappingProxyType(
    {
        "look around": "look",
        "look at": "examine",
        "look in": "examine",
        "look into": "examine",
        "look inside": "examine",
        "look on": "examine",
        "look": "look",
        "examine": "examine",
        "inspect": "examine",
        "search": "examine",
        "check": "examine",
        "inventory": "inventory",
        "go back to": "go",
        "go into": "go",
        "go to": "go",
        "go": "go",
        "walk into": "go",
        "walk to": "go",
        "walk": "go",
        "move to": "go",
        "enter": "go",
        "open": "open",
        "close": "close",
        "shut": "close",
        "take": "take",
        "pick up": "take",
        "pick": "take",
        "grab": "take",
        "get": "take",
        "put down": "put",
        "put": "put",
        "place": "put",
        "drop": "put",
        "lay": "put",
        "clean": "clean",
        "wash": "clean",
        "rinse": "clean",
        "heat up": "heat",
        "heat": "heat",
        "warm": "heat",
        "cook": "heat",
        "cool": "cool",
        "chill": "cool",
        "switch on": "on",
        "turn on": "on",
        "light": "on",
        "switch off": "off",
        "turn off": "off",
        "unlock": "unlock",
        "use": "use",
    }
)
_LONGEST_FIRST = sorted(_VERBS, key=len, reverse=True)
_PLACES = re.compile(r" (?:inside|into|onto|in|on|at|under|with|using|from|off|out|to)(?: |$)")


def read_command(command: str) -> tuple[str, str, str]:
    """Read a command, whatever its articles, case, punctuation and synonyms.

    Args:
        command: Any text; what is longer than any command is cut.

    Returns:
        The verb (a value of the table above, empty if there is none), the words of what it is done
        to, and the words of where.
    """
    words = [w for w in _WORD.findall(command[:_MOST_CHARACTERS].lower()) if w not in _IDLE]
    if words[:1] in (["switch"], ["turn"]) and words[-1] in ("on", "off"):
        words = [words[0], words[-1], *words[1:-1]]  # "turn the lamp on"
    text = " ".join(words)
    verb = next((v for v in _LONGEST_FIRST if text == v or text.startswith(v + " ")), None)
    if verb is None:
        return "", "", ""
    what, *where = _PLACES.split(text[len(verb) :], maxsplit=1)
    return _VERBS[verb], what.strip(), where[0].strip() if where else ""
