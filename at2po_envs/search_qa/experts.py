"""A scripted agent for any question set: it searches once, and answers with a title it finds."""

from __future__ import annotations

import re

from at2po_envs.episode.core import ToolQA
from at2po_envs.question_sets.questions import Question
from at2po_envs.scripted import Script, Scripted

_TITLE = re.compile(r'^(?:Page \d+: )?"(.+)"$', re.MULTILINE)


class TitleAgent(Scripted):
    """Searches for the question and answers with the first title that the question does not name.

    It knows nothing of the questions: what it gets right, a search and no model is enough for. It
    writes the tags of AT²PO.
    """

    core: ToolQA

    def play(self, question: Question, seed: int | None = None) -> Script:
        """Start the script of one question; where a turn goes wrong, its tags are forgotten."""
        rng = self._generator(question, seed)
        search, answer = self.core.dialect.templates
        wrong = [bool(rng.random() < self.error_rate) for _ in range(2)]
        query = question.question.replace('"', "")
        found = yield query if wrong[0] else search.format(query)
        titles = _TITLE.findall(found)
        asked = question.question.casefold()
        new = [title for title in titles if title.casefold() not in asked]
        title = (new or titles or ["unknown"])[0]
        yield title if wrong[1] else answer.format(title)
