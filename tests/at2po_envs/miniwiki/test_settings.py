from __future__ import annotations

import pytest

from at2po_envs.miniwiki import PRESETS, MiniWiki, World
from at2po_envs.miniwiki.questions import generate_questions
from at2po_envs.miniwiki.text import WorldPassages


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("passages", 99, "passages: expected an integer from 100 to 1,000,000, found 99"),
        ("passages", 1_000_001, "found 1000001"),
        ("passages", 400.0, "expected an integer from 100 to 1,000,000, found 400.0"),
        ("relations", 7, "relations: expected an integer from 8 to 15, found 7"),
        ("relations", 16, "found 16"),
        ("max_hops", 0, "max_hops: expected an integer from 1 to 4, found 0"),
        ("max_hops", 5, "found 5"),
        ("phrasings", 5, "phrasings: expected an integer from 1 to 4, found 5"),
        ("wordings", 3, "wordings: expected an integer from 1 to 2, found 3"),
        ("sentences", -1, "sentences: expected an integer from 0 to 9, found -1"),
        ("results", 0, "results: expected an integer from 1 to 100, found 0"),
        ("namesakes", 0, "namesakes: expected an integer from 1 to 1,000, found 0"),
        ("questions", 0, "questions: expected an integer from 1 to 1,000,000, found 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, value, message):
    with pytest.raises(ValueError, match=message):
        MiniWiki(**{setting: value})


def test_parts_refuse_what_is_out_of_range_too():
    with pytest.raises(ValueError, match="passages: expected an integer from 100"):
        World(0, 99)
    with pytest.raises(ValueError, match="split: expected 'train' or 'test', found 'dev'"):
        World(0, 100, split="dev")
    world = World(0, 100)
    with pytest.raises(ValueError, match="phrasings: expected"):
        WorldPassages(world, phrasings=0)
    with pytest.raises(ValueError, match="max_hops: expected"):
        generate_questions(world, 10, max_hops=5)


def test_more_questions_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"expected 400 different questions, found only \d+ in"):
        generate_questions(World(0, 100), 400, max_hops=1, wordings=1)


def test_unknown_presets_and_settings_are_refused():
    with pytest.raises(ValueError, match="found 'demon'; did you mean 'demo'"):
        MiniWiki.preset("demon")
    with pytest.raises(ValueError, match="found 'passage'; did you mean 'passages'"):
        MiniWiki.preset("demo", passage=300)


def test_presets_grow_harder():
    demo, standard, hard = (PRESETS[name] for name in ("demo", "standard", "hard"))
    for name in ("passages", "sentences"):
        assert getattr(demo, name) < getattr(standard, name) < getattr(hard, name)
    assert demo.max_hops < standard.max_hops and demo.results < standard.results
    assert MiniWiki.preset("demo", seed=4, results=5) == MiniWiki(
        seed=4, passages=400, relations=8, max_hops=3, phrasings=2, sentences=0, results=5
    )


@pytest.mark.parametrize("seed", [1.5, float("nan"), float("inf"), "1", True, None])
def test_a_seed_that_is_no_integer_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match="seed: expected an integer"):
        World(seed, 100)  # type: ignore[arg-type]
