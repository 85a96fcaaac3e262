"""Names of MiniWiki's people, places and works: readable, plentiful, disjoint between splits.

Every kind of entity has a list of *forms*, from short to long. A form is a tuple of word lists; a
name picks one word of each. Train and test worlds use the same words but share not one name.
"""

from __future__ import annotations

from math import prod
from zlib import crc32

import numpy as np

from at2po_envs.seeds import Split

Form = tuple[tuple[str, ...], ...]


def _cross(heads: str, tails: str) -> tuple[str, ...]:
    """Join every head with every tail, heads outermost."""
    return tuple(head + tail for head in heads.split() for tail in tails.split())


_GIVEN = tuple(
    """
    Ada Alan Albert Alice Amos Anna Arthur Bella Bruno Carl Clara Claude Cora Daniel Diana Dora
    Edgar Edith Elias Ella Emil Emma Erik Esther Eva Felix Flora Frank Fred George Gloria Grace
    Greta Hanna Harold Hazel Helen Henry Hugo Ida Irene Isaac Ivan Jack Jane Jasper Joan Jonas
    Judith Julia Karl Kate Laura Leo Lily Louis Lucy Marcus Maria Martin Mary Max Miles Mina Nancy
    Nina Nora Olga Oliver Oscar Otto Paul Peter Philip Ralph Rita Robert Rosa Ruth Samuel Sara
    Simon Sofia Stella Susan Theo Thomas Tilda Ursula Vera Victor Viola Walter Wanda William Xenia
    """.split()
)
# Whole words, because a search engine that skips single letters could not tell initials apart.
_MIDDLE = tuple(
    """
    Abel Agnes Alma Ambrose Anselm August Aurel Basil Beatrix Benno Blanche Casper Cecil Celia
    Clement Conrad Cyril Damian Delia Dorian Edmund Elise Enoch Ernest Eugene Fabian Felicia Fergus
    Florian Gideon Gilbert Giles Horace Hubert Ignatius Imogen Iris Jerome Josiah Julius Lambert
    Leander Leopold Lionel Lorena Lucian Mabel Magnus Malcolm Matilda Maurice Mercy Minerva
    Mortimer Muriel Nestor Noel Norbert Octavia Odette Opal Orson Osmund Pearl Percival Phoebe
    Quentin Reginald Roland Rufus Selma Septimus Silas Sylvia Tobias Ulric Valentin Wilfred
    """.split()
)
_SURNAME = _cross(
    """
    Ash Bar Black Brad Brook Burn Carl Clay Cot Cran Dar Dun East Elm Fair Far Glen Green Had Har
    Hay Hol Hunt Kirk Lang Lin Mar Mel North Oak Ran Red Rock Row Shel Stan Stock Thorn Wal Whit
    """,
    """
    bank berg bridge brook burn bury by cliff combe croft dale den field fleet ford gate grove ham
    hurst land ley low man mere more over ridge shaw stead stone ton wall well wick wood worth
    """,
)
_PLACE = _cross(
    """
    Or Mar Sel Tor Bel Kes Dar Lun Vel Cor Nor Hal Pel Ras Win Tam Ber Cas Fol Gan Mil Sor Tel Wes
    """,
    "len wick by ton vik ster mouth holm dale fell burg na ria gen don mond port sey minster que",
)
_SITE = tuple(
    """
    New Old Port Fort Mount Lake Saint Upper Lower East West North South Great Little High
    """.split()
)
_REGION = tuple(
    "New Old Upper Lower East West North South Great Little Inner Outer Central".split()
)
_STREAM = _cross(
    "Al Dren Is Kar Mol Nev Os Sav Tis Ur Var Yel Bre Cha Dor Fra Gar Hel Lor Wen",
    "da ke lin mer na ra sk ta vo we dor nis ble cho dra ger lo rith sen zer",
)
_LAND = _cross(
    "Ald Bor Cal Est Fen Gor Jut Kal Lor Mont Rov Sar Thal Zem Brav Dall Hest Karp Norv Vest",
    "avia enia ora mark land istan ovia una eria mere alia onia ania essa ia ilia onga ur uth yra",
)
_ADJECTIVE = tuple(
    """
    Amber Ancient Autumn Bitter Blue Bold Brave Bright Broken Burning Calm Clever Cold Crimson
    Crystal Curious Dancing Dark Deep Distant Double Dusty Early Eastern Electric Empty Endless
    Eternal Faithful Fallen Famous Final First Flying Forgotten Free Frozen Gentle Giant Glass
    Golden Grand Great Green Grey Hidden Hollow Holy Humble Hungry Invisible Iron Last Late Little
    Lonely Long Lost Lucky Merry Midnight Modern Narrow New Noble Northern Old Open Painted Pale
    Paper Perfect Proud Purple Quiet Rapid Red Restless Rising Royal Sacred Savage Second Secret
    Shining Silent Silver Simple Sleeping Slow Small Southern Stolen Stone Strange Summer Sunken
    Sweet Tall Tender Thirsty Twin Velvet Wandering Warm Western White Wild Winter Wise Wooden Young
    """.split()
)
_NOUN = tuple(
    """
    Anchor Angel Apple Arrow Bell Bird Blossom Boat Bridge Brother Candle Canyon Castle Chain Chapel
    Circle Clock Cloud Coat Compass Corner Crown Dance Daughter Desert Diamond Doll Door Dream Eagle
    Echo Empire Engine Falcon Family Feather Field Fire Flag Flower Forest Fountain Fox Garden Gate
    Ghost Giant Glove Guitar Hammer Harbor Harvest Heart Hill Horse House Hunter Island Journey
    Judge Key Kingdom Ladder Lake Lantern Letter Light Lion Mask Meadow Mirror Moon Morning Mountain
    Needle Night Ocean Orchard Palace Path Piano Pilot Prince Rain Raven Ring Road Rose Sail Sailor
    Shadow Ship Sister Snow Soldier Song Spider Star Statue Storm Street Swan Sword Temple Tiger
    Tower Train Umbrella Valley Voyage Wagon Wall Whale Window Wolf
    """.split()
)
_OF = tuple(f"of the {noun}" for noun in _NOUN)
_AND = tuple(f"and the {adjective}" for adjective in _ADJECTIVE)
_TRADE = tuple(
    """
    Motors Press Records Films Mills Bank Foods Steel Textiles Airlines Shipping Chemicals
    Instruments Media Energy Toys Glass Paper Tools Brothers
    """.split()
)
_PRIZE = ("Prize", "Award", "Medal", "Trophy")
_RIVER = ("River",)

_TITLES = ((_ADJECTIVE, _NOUN), (_ADJECTIVE, _NOUN, _OF), (_ADJECTIVE, _NOUN, _AND, _NOUN))

FORMS: dict[str, tuple[Form, ...]] = {
    "person": ((_GIVEN, _SURNAME), (_GIVEN, _MIDDLE, _SURNAME)),
    "film": _TITLES,
    "book": _TITLES,
    "company": ((_SURNAME, _TRADE), (_SURNAME, _SURNAME, _TRADE)),
    # With a family name alone, a search would find the family and not the award.
    "award": ((_GIVEN, _SURNAME, _PRIZE),),
    # Two words at least: a split must not own a whole word, or half of the words would be new in
    # the other.
    "city": ((_SITE, _PLACE), (_SITE, _PLACE, _PLACE), (_SITE, _PLACE, _PLACE, _PLACE)),
    "country": ((_REGION, _LAND), (_REGION, _LAND, _LAND)),
    "river": ((_REGION, _STREAM, _RIVER), (_REGION, _STREAM, _STREAM, _RIVER)),
}
"""Kind of entity -> its forms, tried in order until one holds four times as many names as are
asked for: half of them belong to the other split, and half of the rest should stay unused."""


def draw_names(
    kind: str, count: int, split: Split, rng: np.random.Generator, share: int
) -> list[str]:
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
    for full in FORMS[kind]:
        form = (*full[:-1], _subset(full[-1], count, share, rng)) if len(full) > 1 else full
        if prod(map(len, form)) >= 4 * count:
            return _distinct(form, count, split, rng)
    raise ValueError(
        f"expected at most {prod(map(len, form)) // 4} names of kind {kind!r}, "
        f"found a request for {count}; ask for a smaller world or fewer namesakes"
    )


def _subset(
    words: tuple[str, ...], count: int, share: int, rng: np.random.Generator
) -> tuple[str, ...]:
    size = min(len(words), max(2, -(-count // share)))
    return tuple(words[i] for i in sorted(rng.choice(len(words), size, replace=False)))


def _distinct(form: Form, count: int, split: Split, rng: np.random.Generator) -> list[str]:
    # A hash decides which split owns a name. (A rule over the words, such as the parity of their
    # positions, could be learned: a model taught on one split would rule out the other's names.)
    wanted = 0 if split == "train" else 1
    names: dict[str, None] = {}
    while len(names) < count:
        picks = [rng.integers(len(words), size=2 * count + 8) for words in form]
        for choice in zip(*(column.tolist() for column in picks), strict=True):
            name = " ".join([words[c] for words, c in zip(form, choice, strict=True)])
            if crc32(name.encode()) % 2 == wanted:
                names[name] = None
                if len(names) == count:
                    break
    return list(names)
