"""The page reader: open a page by its title, part by part, and find a text in it."""

from __future__ import annotations

import difflib
import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from at2po_envs.tools.base import ToolResult, ToolSpec
from retrieval import Passage

_TITLE = {"type": "string", "description": "Title of the page."}

OPEN = ToolSpec(
    "open",
    "Opens a page of the encyclopedia by its title and shows one part of it.",
    {
        "type": "object",
        "properties": {
            "title": _TITLE,
            "part": {"type": "integer", "description": "Which part, 1 by default.", "minimum": 1},
        },
        "required": ["title"],
    },
)

FIND = ToolSpec(
    "find",
    "Finds a text in a page and shows the sentences around it.",
    {
        "type": "object",
        "properties": {
            "title": _TITLE,
            "text": {"type": "string", "description": "What to look for."},
        },
        "required": ["title", "text"],
    },
)

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"\w+")
_LONGEST_SENTENCE = 1000  # characters; what is longer counts as several


class Pages:
    """Pages by title; passages of one title make up one page, in their order.

    Args:
        source: A mapping from title to text, or passages; a sequence of passages is kept as it is
            and only its titles are indexed, when a page is first asked for.
    """

    def __init__(self, source: Mapping[str, str] | Iterable[Passage]) -> None:
        """Keep the source."""
        if isinstance(source, Mapping):
            source = [Passage(title, title, text) for title, text in source.items()]
        self.passages = source if isinstance(source, Sequence) else list(source)

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

    def page(self, title: str) -> tuple[str, str] | None:
        """Return the title as it is written and the text of a page, None if there is no such page.

        Args:
            title: Its title; case, white space and quotation marks around it do not matter.
        """
        places = self._places.get(_plain(title))
        if places is None:
            return None
        passages = [self.passages[i] for i in places]
        return passages[0].title, "\n".join(passage.text for passage in passages)

    def nearest(self, title: str, count: int = 3) -> list[str]:
        """Return the titles most like one that does not exist, the best first.

        Args:
            title: What was asked for.
            count: Most titles to return.
        """
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

        likely = heapq.nlargest(max(64, count), pool[:1000], key=bound)
        close = difflib.get_close_matches(plain, likely, n=count, cutoff=0.3)
        return [self.passages[self._places[each][0]].title for each in close]


@dataclass(frozen=True)
class OpenTool:
    """Shows a page, one part at a time.

    Args:
        pages: The pages.
        part_chars: Longest part, in characters, >= 1; parts end between words where they can.

    Raises:
        ValueError: If `part_chars` is below 1.
    """

    pages: Pages
    part_chars: int = 2000

    spec: ClassVar[ToolSpec] = OPEN
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse parts without characters."""
        if self.part_chars < 1:
            raise ValueError(f"expected part_chars >= 1, found {self.part_chars}")

    def __call__(self, arguments: Sequence[Mapping[str, Any]]) -> list[ToolResult]:
        """Open each page.

        Args:
            arguments: `{"title": text, "part": number}` for each; the part may be left out.

        Returns:
            A result for each; `ok` even where there is no such page or part.
        """
        return [self._open(str(each.get("title", "")), each.get("part", 1)) for each in arguments]

    def _open(self, title: str, part: object) -> ToolResult:
        page = self.pages.page(title)
        if page is None:
            return _no_page(self.pages, title)
        parts = _split(page[1], self.part_chars)
        number = str(part).strip()
        if not (number.isdecimal() and len(number) < 10 and 1 <= int(number) <= len(parts)):
            text = f'"{page[0]}" has the parts 1 to {len(parts)}; ask for one of them.'
            return ToolResult(True, text)
        text = f'"{page[0]}" (part {int(number)} of {len(parts)})\n{parts[int(number) - 1]}'
        return ToolResult(True, text, titles=(page[0],))


@dataclass(frozen=True)
class FindTool:
    """Shows the sentences of a page around a text.

    Args:
        pages: The pages.
        most: Sentences that are shown because they hold the text, >= 1.

    Raises:
        ValueError: If `most` is below 1.
    """

    pages: Pages
    most: int = 3

    spec: ClassVar[ToolSpec] = FIND
    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse to show nothing."""
        if self.most < 1:
            raise ValueError(f"expected most >= 1, found {self.most}")

    def __call__(self, arguments: Sequence[Mapping[str, Any]]) -> list[ToolResult]:
        """Look into each page.

        Args:
            arguments: `{"title": text, "text": text}` for each.

        Returns:
            A result for each; `ok` even where the page or the text is not there.
        """
        return [
            self._find(str(each.get("title", "")), str(each.get("text", ""))) for each in arguments
        ]

    def _find(self, title: str, wanted: str) -> ToolResult:
        page = self.pages.page(title)
        if page is None:
            return _no_page(self.pages, title)
        needle = _plain(wanted)
        if not needle:
            return ToolResult(True, "The text to find is empty; say what to look for.")
        ends = (s for s in _SENTENCE_END.split(page[1]) if s.strip())
        sentences = [part for s in ends for part in _split(s, _LONGEST_SENTENCE)]
        hits = [i for i, sentence in enumerate(sentences) if needle in _plain(sentence)]
        if not hits:
            return ToolResult(True, f'The text is not in "{page[0]}". Try fewer or other words.')
        # Each hit with the sentence before and after it; those that touch form one excerpt.
        shown = sorted({j for i in hits[: self.most] for j in (i - 1, i, i + 1)})
        excerpt = ""
        for before, j in zip([-1, *shown], shown, strict=False):
            if 0 <= j < len(sentences):
                excerpt += ("\n... " if j > before + 1 else " ") + sentences[j].strip()
        count = "1 sentence" if len(hits) == 1 else f"{len(hits)} sentences"
        more = f", the first {self.most} shown" if len(hits) > self.most else ""
        text = f'"{page[0]}" ({count} with the text{more})\n{excerpt.strip()}'
        return ToolResult(True, text, titles=(page[0],))


def page_tools(
    source: Mapping[str, str] | Iterable[Passage], *, part_chars: int = 2000
) -> tuple[OpenTool, FindTool]:
    """Return the two tools of a page reader over the same pages.

    Args:
        source: A mapping from title to text, or passages.
        part_chars: Longest part of a page that is shown at a time, in characters, >= 1.
    """
    pages = Pages(source)
    return OpenTool(pages, part_chars), FindTool(pages)


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


def _no_page(pages: Pages, title: str) -> ToolResult:
    near = ", ".join(f'"{each}"' for each in pages.nearest(title))
    hint = f"The nearest titles are {near}." if near else "Search for it under another title."
    return ToolResult(True, f"There is no page of that title. {hint}")
