"""What stands between a pair of tags, found in linear time in any text."""

from __future__ import annotations

from collections.abc import Iterator


def enclosed(text: str, tag: str) -> Iterator[tuple[int, str]]:
    """Find the pairs of a tag that do not overlap, from the left.

    A regular expression would look for the closing tag behind every opening one again, which takes
    minutes on a long text of opening tags.

    Args:
        text: Any text.
        tag: Name of the tag, without brackets.

    Yields:
        Position of the opening tag, and what stands between it and the next closing one.
    """
    opening, closing = f"<{tag}>", f"</{tag}>"
    end = 0
    while (start := text.find(opening, end)) >= 0:
        inside = start + len(opening)
        if (stop := text.find(closing, inside)) < 0:
            return
        yield start, text[inside:stop]
        end = stop + len(closing)


def outside_thoughts(text: str) -> str:
    """Blank what stands between `<think>` and the next `</think>`; the length stays the same.

    A thought may mention any tag without meaning it.

    Args:
        text: Any text; a thought that does not end in it is left alone.
    """
    pieces, end = [], 0
    for start, thought in enclosed(text, "think"):
        inside = start + len("<think>")
        pieces += [text[end:inside], " " * len(thought)]
        end = inside + len(thought)
    return "".join([*pieces, text[end:]])


def enclosed_outside_thoughts(text: str, tag: str) -> list[tuple[int, str]]:
    """Find the pairs of a tag as `enclosed` does, those that open in a finished thought left out.

    Args:
        text: Any text.
        tag: Name of the tag, without brackets.

    Returns:
        Position and content of each pair; of all pairs where every one opens in a thought.
    """
    width = len(f"<{tag}>")
    pairs = [
        (start, text[start + width : start + width + len(content)])
        for start, content in enclosed(outside_thoughts(text), tag)
    ]
    return pairs or list(enclosed(text, tag))
