"""What stands between a pair of tags, found in linear time in any text."""

from __future__ import annotations

from collections.abc import Iterator


def enclosed(text: str, tag: str) -> Iterator[tuple[int, str]]:
    """Find the pairs of a tag that do not overlap, from the left.

    A regular expression would look for the closing tag anew behind every opening one, which takes
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
