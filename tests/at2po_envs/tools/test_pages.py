from __future__ import annotations

import difflib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_envs.tools.pages import Pages, _split, page_tools
from retrieval import Passage

TEXT = (
    "Ada Lovelace was a mathematician. She wrote on the Analytical Engine. It was never built. "
    "Charles Babbage designed it. He lived in London. The Engine used cards. Cards came from looms."
)


@pytest.fixture
def reader():
    return page_tools({"Ada Lovelace": TEXT, "Ada (town)": "A town in Ohio.", "Looms": ""})


def opened(reader, **arguments):
    (result,) = reader[0]([arguments])
    assert result.ok
    return result


def found(reader, **arguments):
    (result,) = reader[1]([arguments])
    assert result.ok
    return result


def test_a_page_is_opened_by_its_title(reader):
    result = opened(reader, title="ada  LOVELACE")
    assert result.text == f'"Ada Lovelace" (part 1 of 1)\n{TEXT}'
    assert result.titles == ("Ada Lovelace",)
    assert opened(reader, title='"Ada (town)"').text.endswith("\nA town in Ohio.")
    assert opened(reader, title="Looms").text == '"Looms" (part 1 of 1)\n'


def test_a_long_page_comes_in_parts():
    reader = page_tools({"Ada Lovelace": TEXT}, part_chars=60)
    parts = [opened(reader, title="Ada Lovelace", part=i).text for i in (1, 2, "3", 4)]
    assert all(f"(part {i} of 4)" in part for i, part in enumerate(parts, 1))
    assert " ".join(part.partition("\n")[2] for part in parts) == TEXT
    assert all(len(part.partition("\n")[2]) <= 60 for part in parts)
    for wrong in (0, 5, -1):
        text = opened(reader, title="Ada Lovelace", part=wrong).text
        assert text == '"Ada Lovelace" has the parts 1 to 4; ask for one of them.'
    for wrong in ("two", None, "9" * 5000, "\u00b2"):
        text = opened(reader, title="Ada Lovelace", part=wrong).text
        assert "expected part to be of type integer" in text


def test_an_unknown_title_gets_the_nearest_ones(reader):
    text = opened(reader, title="Ada Lovelac").text
    assert text.startswith("There is no page of that title. The nearest titles are ")
    assert '"Ada Lovelace"' in text
    assert '"Ada Lovelace"' in found(reader, title="Lovelace", text="x").text
    assert "Search for it" in opened(reader, title="qqq").text
    assert "needs 'title'" in opened(reader).text


def test_find_shows_the_sentences_around_a_text(reader):
    result = found(reader, title="Ada Lovelace", text="babbage")
    assert result.text == (
        '"Ada Lovelace" (1 sentence with the text)\n'
        "... It was never built. Charles Babbage designed it. He lived in London."
    )
    assert result.titles == ("Ada Lovelace",)
    two = found(reader, title="Ada Lovelace", text="ENGINE").text
    assert two.startswith('"Ada Lovelace" (2 sentences with the text)\nAda Lovelace was')
    assert "built.\n... He lived in London. The Engine used cards." in two
    assert "is not in" in found(reader, title="Ada Lovelace", text="Paris").text
    assert "is empty" in found(reader, title="Ada Lovelace", text="  ").text


def test_find_shows_the_first_of_many():
    reader = page_tools({"A": "One cat. " * 10})
    text = found(reader, title="A", text="cat").text
    assert text == (
        '"A" (10 sentences with the text, the first 3 shown)\nOne cat. One cat. One cat. One cat.'
    )


def test_find_shows_a_part_of_a_sentence_without_end():
    reader = page_tools({"List": "item " * 100_000 + "needle " + "item " * 100_000})
    result = found(reader, title="list", text="needle")
    assert "needle" in result.text and "(1 sentence with" in result.text
    assert len(result.text) < 3_100


def test_passages_of_a_title_make_one_page():
    passages = [
        Passage("1", "A", "First."),
        Passage("2", "B", "Other."),
        Passage("3", "a", "Last."),
    ]
    for source in (passages, iter(passages)):
        reader = page_tools(source)
        assert opened(reader, title="A").text == '"A" (part 1 of 1)\nFirst.\nLast.'
    assert Pages(passages).passages is passages


def test_bounds_are_checked_and_tools_pickle(reader):
    with pytest.raises(ValueError, match="part_chars: expected an integer >= 1, found 0"):
        page_tools({}, part_chars=0)
    again = pickle.loads(pickle.dumps(reader))
    assert opened(again, title="Looms") == opened(reader, title="Looms")
    assert (reader[0].spec.name, reader[0].spec.argument) == ("open", "title")
    assert (reader[1].spec.name, reader[1].spec.argument) == ("find", None)


@given(st.text(max_size=100), st.text(max_size=100))
def test_any_title_and_text_have_an_answer(title, text):
    reader = page_tools({"Ada Lovelace": TEXT, title: text})
    assert opened(reader, title=title).ok and opened(reader, title=text).ok
    assert found(reader, title="Ada Lovelace", text=text).ok


@given(st.text(st.sampled_from("ab \n\t\u3000"), max_size=80), st.integers(1, 12))
def test_parts_are_cut_between_words_and_lose_only_white_space(text, size):
    parts = _split(text, size)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(len(part) <= size for part in parts)
    rest = text  # the definition, whose time grows with the square of the length
    for part in parts[:-1]:
        space = max(rest.rfind(" ", 0, size + 1), rest.rfind("\n", 0, size + 1))
        end = space if space > size // 2 else size
        assert part == rest[:end].strip()
        rest = rest[end:].lstrip()
    assert parts[-1] == rest


def test_the_nearest_of_many_alike_titles_are_found_with_few_comparisons(monkeypatch):
    """A thousand titles of the same letters took 3 s."""
    ratios = []
    real = difflib.SequenceMatcher.ratio
    monkeypatch.setattr(
        difflib.SequenceMatcher, "ratio", lambda self: ratios.append(1) or real(self)
    )
    alike = {"a b " * 40 + str(i): "" for i in range(1000)}
    pages = Pages({"Ada": "", "Adam": ""} | alike)
    assert pages._nearest("a b " * 40 + "7")[0] == "a b " * 40 + "7"
    assert pages._nearest("adan")[:2] == ["Ada", "Adam"]
    assert len(ratios) <= 2 * 64
