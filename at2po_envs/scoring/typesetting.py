r"""LaTeX in answers: what only sets the type is no part of what is said."""

from __future__ import annotations

import re

_FACES = re.compile(
    r"\\(?:(?:text|math)(?:bf|it|rm|sf|tt|sc|sl|up|md|normal)?|emph|[mh]box|operatorname|"
    r"boldsymbol|bm|underline)\*?(?=\s*\{)"
)
_SPACES = re.compile(r"\\(?:[ ,;:\\]|q?quad(?![a-zA-Z]))|~(?=\\)|(?<=\})~")
_SWITCHES = re.compile(
    r"\\(?:bf|it|rm|sf|tt|em|sl|sc|bfseries|itshape|displaystyle|textstyle)(?![a-zA-Z])"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_ESCAPED = re.compile(r"\\([$%&#_])")


def without_typesetting(text: str) -> str:
    r"""Take away LaTeX that changes how a text looks and not what it says.

    Args:
        text: Any text.

    Returns:
        The text without commands for type faces, whose braces stay (`\text{Paris}` becomes
        `{Paris}`), with spaces for those that make space, with `a/b` for `\frac{a}{b}`, and
        without the backslash of `\%` and the like.
    """
    if "\\" not in text:
        return text
    text = _FRACTION.sub(r"\1/\2", _FACES.sub("", text))
    return _ESCAPED.sub(r"\1", _SWITCHES.sub(" ", _SPACES.sub(" ", text)))
