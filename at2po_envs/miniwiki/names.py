"""Names of MiniWiki's people, places and works: readable, plentiful, disjoint between splits.

Every kind of entity has a list of *forms*, from short to long. A form is a tuple of word lists; a name
picks one word of each. The split of a name is the parity of the sum of its word indices, so train and
test worlds use the same words but share not one name.
"""

from __future__ import annotations

from math import prod
from typing import Literal

import numpy as np

Split = Literal["train", "test"]


def _cross(heads: str, tails: str) -> tuple[str, ...]:
    """Join every head with every tail, heads outermost."""
    return tuple(head + tail for head in heads.split() for tail in tails.split())


_GIVEN = tuple(
    "Ada Alan Albert Alice Amos Anna Arthur Bella Bruno Carl Clara Claude Cora Daniel Diana Dora Edgar Edith "
    "Elias Ella Emil Emma Erik Esther Eva Felix Flora Frank Fred George Gloria Grace Greta Hanna Harold Hazel "
    "Helen Henry Hugo Ida Irene Isaac Ivan Jack Jane Jasper Joan Jonas Judith Julia Karl Kate Laura Leo Lily "
    "Louis Lucy Marcus Maria Martin Mary Max Miles Mina Nancy Nina Nora Olga Oliver Oscar Otto Paul Peter "
    "Philip Ralph Rita Robert Rosa Ruth Samuel Sara Simon Sofia Stella Susan Theo Thomas Tilda Ursula Vera "
    "Victor Viola Walter Wanda William Xenia".split()
)
_INITIAL = tuple(f"{letter}." for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_SURNAME = _cross(
    "Whit Black Hol Ash Brad Carl Dun East Fair Green Har Lin Mar North Ran Stan",
    "field ford man ley worth brook ridge stone wood berg well gate shaw by croft",
)
_PLACE = _cross("Or Mar Sel Tor Bel Kes Dar Lun Vel Cor Nor Hal Pel Ras Win Tam", "len wick by ton vik ster mouth holm dale fell burg na ria gen")
_SITE = tuple("New Old Port Fort Mount Lake Saint Upper Lower East West North South Great Little High".split())
_STREAM = _cross("Al Dren Is Kar Mol Nev Os Sav Tis Ur Var Yel", "da ke lin mer na ra sk ta vo we dor nis")
_LAND = _cross("Ald Bor Cal Est Fen Gor Jut Kal Lor Mont Rov Sar Thal Zem", "avia enia ora mark land istan ovia una eria mere alia onia")
_ADJECTIVE = tuple(
    "Amber Ancient Autumn Bitter Blue Bright Broken Burning Cold Crimson Crystal Dark Distant Double Empty Endless "
    "Fallen Final First Forgotten Frozen Gentle Golden Green Grey Hidden Hollow Iron Last Little Lonely Long Lost Merry "
    "Midnight Narrow Open Pale Quiet Red Restless Rising Royal Sacred Second Secret Silent Silver Sleeping Slow Stolen "
    "Summer Sweet Velvet Wandering Western White Wild Winter Wooden".split()
)
_NOUN = tuple(
    "Anchor Arrow Bell Bird Bridge Candle Castle Circle Clock Cloud Corner Crown Dance Door Dream Echo Empire Falcon Fire "
    "Forest Garden Gate Ghost Harbor Heart Horse House Island Journey Key Lantern Letter Light Lion Mask Mirror Moon Morning "
    "Mountain Ocean Orchard Path Rain Raven Ring Road Rose Sail Shadow Ship Song Star Stone Storm Street Tower Train Valley "
    "Voyage Window".split()
)
_OF = tuple(f"of the {noun}" for noun in _NOUN)
_AND = tuple(f"and the {adjective}" for adjective in _ADJECTIVE)
_TRADE = tuple(
    "Motors Press Records Films Mills Bank Foods Steel Textiles Airlines Shipping Chemicals Instruments Media Energy "
    "Toys Glass Paper Tools Brothers".split()
)
_PRIZE = ("Prize", "Award", "Medal", "Trophy")
_STATE = tuple("Republic|Kingdom|Union|Duchy|Federation|Commonwealth|Empire|Free State".split("|"))

Form = tuple[tuple[str, ...], ...]

FORMS: dict[str, tuple[Form, ...]] = {
    "person": ((_GIVEN, _SURNAME), (_GIVEN, _INITIAL, _SURNAME), (_GIVEN, _INITIAL, _INITIAL, _SURNAME)),
    "film": ((_ADJECTIVE, _NOUN), (_ADJECTIVE, _NOUN, _OF), (_ADJECTIVE, _NOUN, _AND, _NOUN)),
    "book": ((_ADJECTIVE, _NOUN), (_ADJECTIVE, _NOUN, _OF), (_ADJECTIVE, _NOUN, _AND, _NOUN)),
    "company": ((_SURNAME, _TRADE), (_SURNAME, _SURNAME, _TRADE)),
    "award": ((_SURNAME, _PRIZE), (_GIVEN, _SURNAME, _PRIZE), (_GIVEN, _INITIAL, _SURNAME, _PRIZE)),
    "city": ((_PLACE,), (_SITE, _PLACE), (_SITE, _PLACE, _PLACE), (_SITE, _PLACE, _PLACE, _PLACE)),
    "country": ((_LAND,), (_LAND, _STATE), (_LAND, _LAND, _STATE)),
    "river": ((_STREAM, ("River",)), (_SITE, _STREAM, ("River",)), (_SITE, _STREAM, _STREAM, ("River",))),
}
"""Kind of entity -> its forms, tried in order until one holds twice as many names as are asked for."""


def draw_names(kind: str, count: int, split: Split, rng: np.random.Generator, share: int) -> list[str]:
    """Draw different names of one kind, many of them near-namesakes.

    Args:
        kind: A key of `FORMS`.
        count: Number of names, >= 0.
        split: Which half of the names to draw from.
        rng: Source of the draw.
        share: How many names share a last word on average (family name, noun of a title); >= 1.

    Returns:
        `count` different names.

    Raises:
        ValueError: If no form of the kind holds that many names.
    """
    for form in FORMS[kind]:
        form = (*form[:-1], _subset(form[-1], count, share, rng)) if len(form) > 1 else form
        if prod(map(len, form)) >= 4 * count:
            return _distinct(form, FORMS[kind], count, split, rng)
    raise ValueError(
        f"expected at most {prod(map(len, FORMS[kind][-1])) // 4} names of kind {kind!r}, "
        f"found a request for {count}; ask for a smaller world"
    )


def _subset(words: tuple[str, ...], count: int, share: int, rng: np.random.Generator) -> tuple[str, ...]:
    size = min(len(words), max(2, -(-count // share)))
    return tuple(words[i] for i in sorted(rng.choice(len(words), size, replace=False)))


def _distinct(form: Form, forms: tuple[Form, ...], count: int, split: Split, rng: np.random.Generator) -> list[str]:
    wanted = 0 if split == "train" else 1
    # Parity is taken over positions in the full lists, so it does not depend on a world's subset.
    full = next(f for f in forms if len(f) == len(form) and set(form[-1]) <= set(f[-1]))
    position = [{word: i for i, word in enumerate(words)} for words in full]
    names: dict[str, None] = {}
    while len(names) < count:
        picks = [rng.integers(len(words), size=2 * count + 8) for words in form]
        for choice in zip(*picks, strict=True):
            words = [form[i][c] for i, c in enumerate(choice)]
            if sum(position[i][word] for i, word in enumerate(words)) % 2 == wanted:
                names[" ".join(words)] = None
                if len(names) == count:
                    break
    return list(names)
