"""Fixtures of the environments' tests."""

from __future__ import annotations

import json

import pytest

FILMS = range(10, 30)


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    """Options of a question set whose files ask about films, and say what is asked for."""
    rows = {
        "questions": [
            {"id": f"q{i}", "question": f"What is film {i}?", "golden_answers": [f"Answer {i}"]}
            for i in FILMS
        ],
        "corpus": [
            {"id": str(i), "contents": f'"Film {i}"\nThe film number {i} is called Answer {i}.'}
            for i in FILMS
        ],
    }
    folder = tmp_path_factory.mktemp("films")
    for name, lines in rows.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return {f"{name}_path": str(folder / f"{name}.jsonl") for name in rows}
