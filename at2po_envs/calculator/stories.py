"""The sentences that word problems are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Story:
    """A setting, with two ways to tell each event.

    `{n}` and `{m}` are counts, `{k}` a factor or a number of parts, `{p}` a percentage,
    `{c}` a price; `{who}` and `{unit}` are filled in too.

    Attributes:
        units: What is counted; one is chosen.
        start: How `n * m` of them come about.
        more: `n` more.
        fewer: `n` fewer.
        lots: `n` lots of `m` more.
        percent: A percentage that goes away.
        times: As many as `k` times before.
        share: The division into `k` equal parts.
        share_question: What is asked then.
        price: The price at which all of them are turned into money.
        question: What is asked where nothing is divided and nothing sold.
    """

    units: tuple[str, ...]
    start: tuple[str, str]
    more: tuple[str, str]
    fewer: tuple[str, str]
    lots: tuple[str, str]
    percent: tuple[str, str]
    times: tuple[str, str]
    share: tuple[str, str]
    share_question: str
    price: tuple[str, str]
    question: str

    def sentences(self, event: str) -> tuple[str, ...]:
        """The ways to tell an event."""
        told: tuple[str, ...] = MONEY[event] if event in MONEY else getattr(self, event)
        return told


STORIES: Mapping[str, Story] = {
    "orchard": Story(
        ("apples", "pears", "plums", "cherries"),
        (
            "{who} fills {n} baskets with {m} {unit} each.",
            "In the orchard {who} picks {n} bags of {unit}, {m} in every bag.",
        ),
        ("Then {who} finds {n} more {unit} in the grass.", "A friend adds {n} {unit}."),
        ("{n} of the {unit} are bad and thrown away.", "Birds eat {n} of the {unit}."),
        (
            "A neighbour brings {n} boxes with {m} {unit} in each.",
            "Then {n} children come, and each brings {m} {unit}.",
        ),
        (
            "{p}% of all the {unit} are given to a school.",
            "{who} makes juice from {p}% of all the {unit} so far.",
        ),
        (
            "By the end of the week there are {k} times as many {unit}.",
            "The next harvest raises the number of {unit} to {k} times what it was.",
        ),
        ("The {unit} are packed into {k} crates, equally many in each.",) * 2,
        "How many {unit} are in each crate?",
        (
            "All the {unit} are sold for {c} dollars each.",
            "At the market {who} sells every one of the {unit} at {c} dollars apiece.",
        ),
        "How many {unit} are there now?",
    ),
    "bakery": Story(
        ("rolls", "muffins", "pretzels", "buns"),
        (
            "{who} bakes {n} trays of {unit} with {m} on each tray.",
            "The oven of {who} takes {m} {unit} at a time and is filled {n} times.",
        ),
        ("After that {n} more {unit} are baked.", "{n} {unit} from the day before are added."),
        ("{n} {unit} get burnt and are thrown away.", "The bakers eat {n} {unit} themselves."),
        (
            "Another bakery sends {n} bags with {m} {unit} each.",
            "A helper bakes {n} more trays of {m} {unit} each.",
        ),
        ("{p}% of all the {unit} go to a hospital.", "A hotel fetches {p}% of all the {unit}."),
        (
            "For a feast {who} bakes on until there are {k} times as many {unit}.",
            "With a second oven the number of {unit} grows to {k} times what it was.",
        ),
        ("The {unit} are divided equally among {k} cafes.",) * 2,
        "How many {unit} does each cafe get?",
        (
            "All the {unit} are sold for {c} dollars each.",
            "Every one of the {unit} brings in {c} dollars.",
        ),
        "How many {unit} are there in the end?",
    ),
    "library": Story(
        ("books", "magazines", "comics", "maps"),
        (
            "In a library {who} puts {m} {unit} on each of {n} empty shelves.",
            "{who} opens a small library with {n} shelves of {m} {unit} each.",
        ),
        ("A reader donates {n} {unit}.", "{who} buys {n} more {unit} for the library."),
        ("{n} {unit} are lost.", "{n} worn-out {unit} are given away."),
        (
            "A school donates {n} boxes with {m} {unit} in each.",
            "{n} families bring {m} {unit} each.",
        ),
        (
            "{p}% of all the {unit} are moved to another town.",
            "{p}% of all the {unit} are lent out.",
        ),
        (
            "In the next year the number of {unit} grows to {k} times what it was.",
            "A large gift makes it {k} times as many {unit}.",
        ),
        ("The {unit} are spread equally over {k} rooms.",) * 2,
        "How many {unit} are in each room?",
        ("In the end all the {unit} are sold for {c} dollars each.",) * 2,
        "How many {unit} are in the library at last?",
    ),
    "tank": Story(
        ("litres",),
        (
            "A pump runs for {n} minutes and puts {m} litres of water a minute into an empty tank.",
            "{who} fills an empty tank with {n} buckets that hold {m} litres each.",
        ),
        ("Rain adds {n} litres.", "{who} pours in another {n} litres."),
        ("{n} litres leak out.", "{who} takes out {n} litres for the garden."),
        (
            "A hose then runs for {n} minutes at {m} litres a minute.",
            "{n} more barrels of {m} litres each are emptied into the tank.",
        ),
        ("{p}% of the water is used for washing.", "In the heat {p}% of the water evaporates."),
        ("Overnight the amount of water rises to {k} times what it was.",) * 2,
        ("All the water is filled into {k} equal tubs, which are then full.",) * 2,
        "How many litres does each tub hold?",
        ("All the water is sold for {c} dollars a litre.",) * 2,
        "How many litres of water are in the tank now?",
    ),
    "tour": Story(
        ("kilometres",),
        (
            "On a charity tour {who} cycles {m} kilometres a day for {n} days.",
            "{who} walks for charity: {n} laps of {m} kilometres each.",
        ),
        ("A detour adds {n} kilometres.", "On the last day {who} goes {n} kilometres more."),
        (
            "{n} of these kilometres do not count, as they were done by bus.",
            "The judges take {n} kilometres off.",
        ),
        (
            "Friends join and add {n} stages of {m} kilometres each.",
            "Then {n} helpers do {m} kilometres each, which count as well.",
        ),
        (
            "{p}% of all the kilometres were downhill and do not count.",
            "A rule strikes out {p}% of all the kilometres so far.",
        ),
        ("A bonus raises the distance to {k} times what it was.",) * 2,
        ("The distance is split equally between {k} teams.",) * 2,
        "With how many kilometres is each team credited?",
        ("For every kilometre that counts, a sponsor pays {c} dollars.",) * 2,
        "How many kilometres count in the end?",
    ),
}

MONEY: Mapping[str, tuple[str, ...]] = {
    "expense": (
        "{c} dollars of the money are spent on tools.",
        "{who} pays a bill of {c} dollars from that money.",
    ),
    "gift": ("An aunt adds {c} dollars to the money.", "{who} puts in another {c} dollars."),
    "split": (
        "The money is divided equally among {k} friends.",
        "{k} helpers share the money equally.",
    ),
}
MONEY_QUESTION = "How many dollars of the money are there in the end?"
SPLIT_QUESTION = "How many dollars does each of them get?"

DISTRACTORS = (
    "{who} is {n} years old.",
    "It is {n} degrees outside.",
    "The way home takes {n} minutes.",
    "{who} has lived in the same street for {n} years.",
    "A radio plays for {n} minutes meanwhile.",
    "The house next door has the number {n}.",
)

NAMES: Mapping[str, tuple[str, ...]] = {
    "train": tuple(
        "Ada Boris Clara Dmitri Elif Farid Greta Hiro Imani Jonas Kofi Leila Mateo Nora".split()
    ),
    "test": tuple(
        "Oskar Priya Quinn Rosa Samir Tilda Umar Vera Wanda Xenia Yusuf Zoe Amara Bruno".split()
    ),
}
"""Split -> who the problems are about."""
