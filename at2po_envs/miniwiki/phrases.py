"""The wording of MiniWiki: how facts are put, how they are asked for, and what fills a passage."""

from __future__ import annotations

FACTS: dict[str, tuple[str, ...]] = {
    "director": (
        "{s} was directed by {o}.",
        "The director of {s} is {o}.",
        "{o} directed it.",
        "It was made by the film-maker {o}.",
    ),
    "author": (
        "{s} was written by {o}.",
        "The author of {s} is {o}.",
        "{o} wrote it.",
        "It is the work of the writer {o}.",
    ),
    "founder": (
        "{s} was founded by {o}.",
        "The founder of {s} is {o}.",
        "{o} set it up.",
        "It goes back to the entrepreneur {o}.",
    ),
    "birthplace": (
        "{s} was born in {o}.",
        "The birthplace of {s} is {o}.",
        "{o} is where {s} was born.",
        "A native of {o}, {s} left home early.",
    ),
    "headquarters": (
        "{s} is based in {o}.",
        "The headquarters of {s} are in {o}.",
        "Its head office stands in {o}.",
        "It is run from {o}.",
    ),
    "country": (
        "{s} lies in {o}.",
        "The city of {s} belongs to {o}.",
        "It is a city in {o}.",
        "Its people are citizens of {o}.",
    ),
    "spouse": (
        "{s} is married to {o}.",
        "The spouse of {s} is {o}.",
        "{o} and {s} are a couple.",
        "A wedding joined {s} and {o}.",
    ),
    "river": (
        "{s} stands on the {o}.",
        "The river of {s} is the {o}.",
        "The {o} flows through it.",
        "Its old bridges cross the {o}.",
    ),
    "employer": (
        "{s} works for {o}.",
        "The employer of {s} is {o}.",
        "{o} employs {s}.",
        "For years {s} has been on the staff of {o}.",
    ),
    "based_on": (
        "{s} is based on the book {o}.",
        "The source of {s} is the book {o}.",
        "The book {o} gave it its story.",
        "It adapts the book {o}.",
    ),
    "publisher": (
        "{s} was published by {o}.",
        "The publisher of {s} is {o}.",
        "{o} brought it out.",
        "It appeared under the imprint of {o}.",
    ),
    "capital": (
        "The capital of {s} is {o}.",
        "{s} is governed from {o}.",
        "Its capital is {o}.",
        "Parliament sits in {o}.",
    ),
    "star": (
        "{s} stars {o}.",
        "The star of {s} is {o}.",
        "{o} plays the lead.",
        "The leading part went to {o}.",
    ),
    "award": (
        "{s} won the {o}.",
        "The award won by {s} is the {o}.",
        "The {o} was given to {s}.",
        "{s} has been honoured with the {o}.",
    ),
    "presenter": (
        "The {s} is presented by {o}.",
        "The presenter of the {s} is {o}.",
        "{o} hands it out.",
        "It is conferred by {o}.",
    ),
    "release_year": (
        "{s} came out in {o}.",
        "The release year of {s} is {o}.",
        "It opened in {o}.",
        "Cinemas first showed it in {o}.",
    ),
    "publication_year": (
        "{s} appeared in {o}.",
        "The publication year of {s} is {o}.",
        "It was first printed in {o}.",
        "Its first edition dates from {o}.",
    ),
    "birth_year": (
        "{s} was born in the year {o}.",
        "The birth year of {s} is {o}.",
        "The year of birth is {o}.",
        "{s} came into the world in {o}.",
    ),
    "founding_year": (
        "{s} was founded in {o}.",
        "The founding year of {s} is {o}.",
        "It opened for business in {o}.",
        "It has existed since {o}.",
    ),
    "length": (
        "The {s} is {o} km long.",
        "The length of the {s} is {o} km.",
        "It measures {o} km.",
        "From source to mouth it runs {o} km.",
    ),
}
"""Relation -> ways to put the fact; {s} is the subject, {o} the value.

The first two name their subject; some of the rest only make sense after a sentence that does."""

FILLERS: dict[str, tuple[str, ...]] = {
    "film": (
        "Critics praised the music.",
        "It was shot in seven weeks.",
        "A longer cut was shown on television.",
        "It did well abroad.",
        "The costumes won much praise.",
        "Several scenes were filmed at night.",
        "A restored copy toured the festivals.",
        "The poster is sought by collectors.",
    ),
    "book": (
        "It has been translated into nine languages.",
        "Readers liked its quiet humour.",
        "A second part was planned.",
        "Schools still use it.",
        "The first printing sold out.",
        "The manuscript is kept in a library.",
        "It was read out on the radio.",
        "The cover shows a winding road.",
    ),
    "person": (
        "Friends recall a dry sense of humour.",
        "Early years were spent with an aunt.",
        "Gardening is a lifelong hobby.",
        "A brother moved overseas.",
        "Letters survive in a small archive.",
        "A portrait hangs in the town hall.",
        "Long walks are a daily habit.",
        "The family kept bees.",
    ),
    "company": (
        "It employs several hundred people.",
        "Its logo shows a running fox.",
        "It survived two recessions.",
        "Its canteen is open to the public.",
        "It went public late.",
        "Apprentices are taken on every autumn.",
        "It once burned down and was rebuilt.",
        "It supports a local choir.",
    ),
    "city": (
        "Its market is held on Thursdays.",
        "The old town is closed to cars.",
        "A storm damaged the harbour long ago.",
        "Its football club plays in green.",
        "Tourists come for the gardens.",
        "The library is open at night.",
        "Trams run until midnight.",
        "A lantern festival is held in autumn.",
    ),
    "river": (
        "It is known for its trout.",
        "Two dams were built on it.",
        "It floods in spring.",
        "Barges carry grain on it.",
        "Poets have sung of it.",
        "Herons nest along its banks.",
        "It freezes in hard winters.",
        "Its water turns many old mills.",
    ),
    "country": (
        "Its flag shows three stars.",
        "Much of it is covered with forest.",
        "Its railways are famous.",
        "It exports tea and copper.",
        "Winters are long there.",
        "Its anthem has no words.",
        "Most people live near the coast.",
        "Its stamps are prized by collectors.",
    ),
    "award": (
        "It comes with a small sum of money.",
        "The jury meets in secret.",
        "A silver pin goes with it.",
        "It is handed over at a dinner.",
        "It is given every second year.",
        "Nobody may receive it twice.",
        "The ceremony is not broadcast.",
        "Speeches are limited to two minutes.",
    ),
}
"""Kind of entity -> sentences that say nothing of importance."""

NOUN_PHRASES: dict[str, tuple[str, ...]] = {
    "director": ("the director of {x}", "the person who directed {x}"),
    "author": ("the author of {x}", "the person who wrote {x}"),
    "founder": ("the founder of {x}", "the person who founded {x}"),
    "birthplace": ("the birthplace of {x}", "the city where {x} was born"),
    "headquarters": ("the headquarters of {x}", "the city where {x} is based"),
    "country": ("the country of {x}", "the country to which {x} belongs"),
    "spouse": ("the spouse of {x}", "the person married to {x}"),
    "river": ("the river of {x}", "the river that flows through {x}"),
    "employer": ("the employer of {x}", "the company that employs {x}"),
    "based_on": ("the source book of {x}", "the book on which {x} is based"),
    "publisher": ("the publisher of {x}", "the company that published {x}"),
    "capital": ("the capital of {x}", "the city from which {x} is governed"),
    "star": ("the star of {x}", "the person who plays the lead in {x}"),
    "award": ("the award won by {x}", "the award that {x} won"),
    "presenter": ("the presenter of {x}", "the company that presents {x}"),
}
"""Relation -> ways to speak of its value within a longer question; {x} is the subject."""

QUESTIONS: dict[str, tuple[str, ...]] = {
    "director": ("Who is the director of {x}?", "Who directed {x}?"),
    "author": ("Who is the author of {x}?", "Who wrote {x}?"),
    "founder": ("Who is the founder of {x}?", "Who founded {x}?"),
    "birthplace": ("What is the birthplace of {x}?", "Where was {x} born?"),
    "headquarters": ("What is the headquarters of {x}?", "In which city is {x} based?"),
    "country": ("What is the country of {x}?", "In which country does {x} lie?"),
    "spouse": ("Who is the spouse of {x}?", "To whom is {x} married?"),
    "river": ("What is the river of {x}?", "Which river flows through {x}?"),
    "employer": ("Who is the employer of {x}?", "For which company does {x} work?"),
    "based_on": ("What is the source book of {x}?", "On which book is {x} based?"),
    "publisher": ("Who is the publisher of {x}?", "Which company published {x}?"),
    "capital": ("What is the capital of {x}?", "From which city is {x} governed?"),
    "star": ("Who is the star of {x}?", "Who plays the lead in {x}?"),
    "award": ("What award was won by {x}?", "Which award did {x} win?"),
    "presenter": ("Who is the presenter of {x}?", "Which company presents {x}?"),
    "release_year": ("What is the release year of {x}?", "When did {x} come out?"),
    "publication_year": ("What is the publication year of {x}?", "When did {x} first appear?"),
    "birth_year": ("What is the birth year of {x}?", "In which year was {x} born?"),
    "founding_year": ("What is the founding year of {x}?", "When was {x} founded?"),
    "length": ("What is the length of {x} in km?", "How many km long is {x}?"),
}
"""Relation -> ways to ask for its value; {x} is the subject."""

COMPARISONS: dict[str, tuple[str, str]] = {
    "release_year": ("Which came out first, {a} or {b}?", "Which came out later, {a} or {b}?"),
    "publication_year": ("Which appeared first, {a} or {b}?", "Which appeared later, {a} or {b}?"),
    "birth_year": ("Who was born first, {a} or {b}?", "Who was born later, {a} or {b}?"),
    "founding_year": (
        "Which was founded first, {a} or {b}?",
        "Which was founded later, {a} or {b}?",
    ),
    "length": ("Which is shorter, {a} or {b}?", "Which is longer, {a} or {b}?"),
}
"""Number-valued relation -> the question for the smaller of two values, and for the larger."""

SAME: dict[str, str] = {
    "birthplace": "Were {a} and {b} born in the same city?",
    "headquarters": "Are {a} and {b} based in the same city?",
    "country": "Do {a} and {b} lie in the same country?",
    "river": "Do {a} and {b} stand on the same river?",
    "director": "Do {a} and {b} have the same director?",
    "author": "Do {a} and {b} have the same author?",
    "employer": "Do {a} and {b} have the same employer?",
    "publisher": "Do {a} and {b} have the same publisher?",
}
"""Relation -> the question whether two entities agree in it."""
