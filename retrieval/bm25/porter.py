"""Porter's stemmer, in the form that Lucene's English analyzer applies.

Source: Porter 1980, "An algorithm for suffix stripping"; with the three departures of Porter's own
later releases that Lucene follows: `bli` to `ble` and `logi` to `log` in step 2, and words
of one or two letters stay as they are.
"""

from __future__ import annotations

_STEP2 = (
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("logi", "log"),
)
_STEP3 = (
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
)
_STEP4 = (
    *("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent"),
    *("ion", "ou", "ism", "ate", "iti", "ous", "ive", "ize"),
)


def stem(word: str) -> str:
    """Strip the endings of an English word.

    Args:
        word: A word in lower case; letters outside a to z count as consonants.

    Returns:
        Its stem, which need not be a word.
    """
    if len(word) <= 2:
        return word
    word = _plural(word)
    word = _past(word)
    if word.endswith("y") and _has_vowel(word[:-1]):
        word = word[:-1] + "i"
    word = _replace(word, _STEP2)
    word = _replace(word, _STEP3)
    word = _strip(word)
    return _tidy(word)


def _consonants(word: str) -> list[bool]:
    """Whether each letter is a consonant; y is one at the start and after a vowel."""
    found: list[bool] = []
    for letter in word:
        if letter == "y":
            found.append(not found or not found[-1])
        else:
            found.append(letter not in "aeiou")
    return found


def _measure(word: str) -> int:
    """Porter's m: how many times a consonant follows a vowel."""
    found = _consonants(word)
    return sum(after and not before for before, after in zip(found, found[1:], strict=False))


def _has_vowel(word: str) -> bool:
    return not all(_consonants(word))


def _ends_double(word: str) -> bool:
    return len(word) >= 2 and word[-1] == word[-2] and _consonants(word)[-1]


def _ends_short(word: str) -> bool:
    """Whether it ends consonant, vowel, consonant, the last being none of w, x, y."""
    return (
        len(word) >= 3 and _consonants(word)[-3:] == [True, False, True] and word[-1] not in "wxy"
    )


def _plural(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    ending = next((ending for ending in ("ed", "ing") if word.endswith(ending)), "")
    base = word[: -len(ending)]
    if not ending or not _has_vowel(base):
        return word
    if base.endswith(("at", "bl", "iz")):
        return base + "e"
    if _ends_double(base):
        return base if base[-1] in "lsz" else base[:-1]
    return base + "e" if _measure(base) == 1 and _ends_short(base) else base


def _replace(word: str, endings: tuple[tuple[str, str], ...]) -> str:
    """Replace the first ending that fits, if something is left that measures above 0."""
    for ending, instead in endings:
        if word.endswith(ending):
            base = word[: -len(ending)]
            return base + instead if _measure(base) > 0 else word
    return word


def _strip(word: str) -> str:
    """Drop the first ending that fits, if something is left that measures above 1."""
    for ending in _STEP4:
        base = word[: -len(ending)]
        if word.endswith(ending) and (ending != "ion" or base.endswith(("s", "t"))):
            return base if _measure(base) > 1 else word
    return word


def _tidy(word: str) -> str:
    """Drop a final e, and one of two final l's, from what is long enough."""
    if word.endswith("e"):
        base = word[:-1]
        measure = _measure(base)
        if measure > 1 or (measure == 1 and not _ends_short(base)):
            word = base
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
