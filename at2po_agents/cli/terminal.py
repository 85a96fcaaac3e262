"""What commands print: text that a terminal shows and does not obey."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.highlighter import JSONHighlighter
from rich.segment import Segment
from rich.text import Text

from at2po_agents.errors import ConfigError
from retrieval.errors import nearest
from retrieval.text import to_terminal


class Terminal(Console):
    """A console for text of others: markup is text, and control characters are escaped.

    Args:
        **settings: Of `rich.console.Console`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return a text as it is shown; here, so that columns are as wide as what is in them."""
        return super().render_str(to_terminal(text, self.encoding), **settings)

    def on_broken_pipe(self) -> None:
        """Leave it to `endings` that nobody reads on."""
        raise BrokenPipeError

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield what is written; all that is printed comes through here, within tables, too."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text=to_terminal(segment.text, self.encoding))


HELP = frozenset({"-h", "--help"})
"""Words that ask how a command is used."""

out = Terminal()
errors = Terminal(stderr=True)


def show_json(value: object) -> None:
    """Print a value as JSON, whatever texts are in it and whatever the output can hold.

    Args:
        value: What `json` can write.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if to_terminal(text, out.encoding) != text:  # then with JSON's own escapes
        text = json.dumps(value, indent=2).replace("\x7f", "\\u007f")
    out.print(JSONHighlighter()(text), soft_wrap=True)


def pick(prog: str, actions: Mapping[str, str], words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the action that a command line names first, and the words after it.

    Args:
        prog: What stands before the action.
        actions: What each does, by name.
        words: The command line after `prog`.

    Raises:
        SystemExit: Code 0 after the usage was asked for, or no word was given.
        ConfigError: There is no such action.
    """
    lines = [f"usage: {prog} ACTION [--help]", *(f"  {n:12} {a}" for n, a in actions.items())]
    name = words[0] if words else "--help"
    if name in HELP:
        out.print("\n".join(lines), soft_wrap=True)
        raise SystemExit(0)
    if name not in actions:
        raise ConfigError(
            f"{prog}: expected one of its actions, found {name!r}; {nearest(name, actions)}"
        )
    return name, list(words[1:])
