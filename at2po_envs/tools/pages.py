"""The page reader: open a page by its title, part by part, and find a text in it."""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from at2po_envs.errors import check_integer
from at2po_envs.tools.base import ToolResult
from at2po_envs.tools.functions import FunctionTool, function_tool
from retrieval import Passage

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"\w+")
_LONGEST_SENTENCE = 1000  # characters; what is longer counts as several
_HITS = 3  # sentences that are shown because they hold a text
_COMPARED = 64  # titles that are compared letter by letter with one that does not exist


class Pages:
    """Pages by title; passages of one title make up one page, in their order.

    Args:
        source: A mapping from title to text, or passages; a sequence of passages is kept as it is
            and only its titles are indexed, when a page is first asked for.
        part_chars: Longest part of a page that is shown at a time, in characters, >= 1; parts end
            between words where they can.

    Raises:
        ValueError: If `part_chars` is below 1.
    """

    def __init__(
        self, source: Mapping[str, str] | Iterable[Passage], part_chars: int = 2000
    ) -> None:
        """Keep the source."""
        check_integer("part_chars", part_chars, 1)
        if isinstance(source, Mapping):
            source = [Passage(title, title, text) for title, text in source.items()]
        self.passages = source if isinstance(source, Sequence) else list(source)
        self.part_chars = part_chars

    # What the agent is told of the two tools follows from these two methods.

    def open(self, title: str, part: int = 1) -> ToolResult:
        """Opens a page of the encyclopedia by its title and shows one part of it.

        Args:
            title: Title of the page.
            part: Which part, 1 by default.
        """
        places = self._places.get(_plain(title))
        if places is None:
            return self._no_page(title)
        name, text = self._page(places)
        parts = _split(text, self.part_chars)
        if not 1 <= part <= len(parts):
            return ToolResult(
                True, f'"{name}" has the parts 1 to {len(parts)}; ask for one of them.'
            )
        shown = f'"{name}" (part {part} of {len(parts)})\n{parts[part - 1]}'
        return ToolResult(True, shown, titles=(name,))

    def find(self, title: str, text: str) -> ToolResult:
        """Finds a text in a page and shows the sentences around it.

        Args:
            title: Title of the page.
            text: What to look for.
        """
        places = self._places.get(_plain(title))
        if places is None:
            return self._no_page(title)
        name, content = self._page(places)
        needle = _plain(text)
        if not needle:
            return ToolResult(True, "The text to find is empty; say what to look for.")
        ends = (s for s in _SENTENCE_END.split(content) if s.strip())
        sentences = [part for s in ends for part in _split(s, _LONGEST_SENTENCE)]
        hits = [i for i, sentence in enumerate(sentences) if needle in _plain(sentence)]
        if not hits:
            return ToolResult(True, f'The text is not in "{name}". Try fewer or other words.')
        # Each hit with the sentence before and after it; those that touch form one excerpt.
        shown = sorted({j for i in hits[:_HITS] for j in (i - 1, i, i + 1)})
        excerpt = ""
        for before, j in zip([-1, *shown], shown, strict=False):
            if 0 <= j < len(sentences):
                excerpt += ("\n... " if j > before + 1 else " ") + sentences[j].strip()
        count = "1 sentence" if len(hits) == 1 else f"{len(hits)} sentences"
        more = f", the first {_HITS} shown" if len(hits) > _HITS else ""
        return ToolResult(
            True, f'"{name}" ({count} with the text{more})\n{excerpt.strip()}', titles=(name,)
        )

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """Title without case -> where its passages are."""
        places: dict[str, list[int]] = {}
        for i, passage in enumerate(self.passages):
            places.setdefault(_plain(passage.title), []).append(i)
        return places

    @cached_property
    def _by_word(self) -> dict[str, list[str]]:
        """Word -> the titles without case that have it."""
        titles: dict[str, list[str]] = {}
        for title in self._places:
            for word in set(_WORD.findall(title)):
                titles.setdefault(word, []).append(title)
        return titles

    def _page(self, places: Sequence[int]) -> tuple[str, str]:
        """The title of a page as it is written, and its text."""
        passages = [self.passages[i] for i in places]
        return passages[0].title, "\n".join(passage.text for passage in passages)

    def _no_page(self, title: str) -> ToolResult:
        near = ", ".join(f'"{each}"' for each in self._nearest(title))
        hint = f"The nearest titles are {near}." if near else "Search for it under another title."
        return ToolResult(True, f"There is no page of that title. {hint}")

    def _nearest(self, title: str) -> list[str]:
        """The titles most like one that does not exist, the best first."""
        plain = _plain(title)[:200]
        known = [word for word in _WORD.findall(plain) if word in self._by_word]
        # The rarest word of the title narrows a large collection down to what is worth comparing.
        rarest = min(known, key=lambda word: len(self._by_word[word]), default=None)
        pool = self._by_word[rarest] if rarest is not None else list(self._places)
        # Letters in common bound the likeness from above, at a small part of its cost.
        letters = difflib.SequenceMatcher(b=plain)

        def bound(title: str) -> float:
            letters.set_seq1(title)
            return letters.quick_ratio()

        likely = heapq.nlargest(_COMPARED, pool[:1000], key=bound)
        close = difflib.get_close_matches(plain, likely, cutoff=0.3)
        return [self.passages[self._places[each][0]].title for each in close]


def page_tools(
    source: Mapping[str, str] | Iterable[Passage], *, part_chars: int = 2000
) -> tuple[FunctionTool, FunctionTool]:
    """Return the tools `open` and `find` of a page reader over the same pages.

    Args:
        source: A mapping from title to text, or passages.
        part_chars: Longest part of a page that is shown at a time, in characters, >= 1.
    """
    pages = Pages(source, part_chars)
    return function_tool(pages.open), function_tool(pages.find)


def _plain(title: str) -> str:
    return " ".join(title.casefold().split()).strip("\"' ")


def _split(text: str, size: int) -> list[str]:
    """Cut a text into parts of at most `size` characters, between words where there are any."""
    parts, start = [], 0
    while len(text) - start > size:
        last = start + size + 1
        space = max(text.rfind(" ", start, last), text.rfind("\n", start, last))
        end = space if space - start > size // 2 else start + size
        parts.append(text[start:end].strip())
        while end < len(text) and text[end].isspace():
            end += 1
        start = end
    return [*parts, text[start:]]
