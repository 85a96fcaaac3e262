"""The report in a browser: what is clicked, typed and read; needs Chromium and Playwright."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from at2po_agents.tree import RolloutTree
from benchmarks.report import write_difference, write_report
from tests.benchmarks.report.report_samples import training_run, write_evaluation, write_lines

pytestmark = pytest.mark.slow

QUESTIONS, CHAINS = 500, 11
EVIL = "<img src=x onerror=\"document.title='broken'\"></script><script>alert(1)</script>"
Open = Callable[..., Any]


def a_tree(number: int) -> dict[str, Any]:
    """22 leaves: all right in every fifth tree, none in the one after it, else every second."""
    question = {"id": str(number), "question": f"Question {number}?", "golden_answers": ["yes"]}
    tree = RolloutTree(question, [0], f"prompt {number}")
    for chain in range(CHAINS):
        advantage = (chain - 5) / 10
        search = f"<think> t </think> <search> query {chain} of {number} </search>"
        page = f' <result>\nPage 1: "Title {chain}"\npassage {chain}\n</result>'
        turn = tree.add(
            tree.root,
            action=search,
            observation=page,
            logprobs=[-0.5, -2.0],
            value=-advantage,
            advantage=advantage,
        )
        for place in range(2):
            em = number % 5 == 0 or (number % 5 != 1 and place == 0)
            info = {"em": em, "format_ok": True, "truncated": number % 10 == 3 and chain == 0}
            info["flags"] = ["tool_failed"] if number % 20 == 7 else []
            answer = f"<think> t </think> <answer> \\boxed{{ leaf {chain}.{place} }} </answer>"
            tree.add(turn, action=answer, reward=1.0 if em else -1.0, info=info, advantage=0.0)
    return tree.to_dict()


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trees")
    write_lines(folder / "step.jsonl", map(a_tree, range(QUESTIONS)))
    return write_report(folder)


def evaluation(folder: Path, queries: dict[str, tuple[str, bool]]) -> Path:
    records = []
    for name, (query, em) in queries.items():
        first = {"action": "<think> same </think> <search> a </search>", "observation": "one"}
        second = {"action": f"<think> so </think> <search> {query} </search>"}
        facts = {"question_key": name, "question_id": name, "question": f"Who is {name}?"}
        facts |= {"golden_answers": [EVIL], "prediction": query, "truncated": False}
        transcript = [first, second | {"observation": f"seen {query}"}]
        records.append({**facts, "em": em, "transcript": transcript})
    return write_evaluation(folder, records, agent=folder.name, env="test")


def numbers(page: Any) -> dict[str, int]:
    labels = page.locator("#outcomes label, #conditions label").all_inner_texts()
    return {words.rsplit(None, 1)[0]: int(words.rsplit(None, 1)[1]) for words in labels}


def choose(page: Any, name: str) -> None:
    page.locator(".chips").get_by_text(name, exact=True).click()


def wait_for(page: Any, question: str) -> None:
    """Wait until a question is shown: its turns are unpacked in the background."""
    shown = "question => document.querySelector('#detail h3')?.innerText === question"
    page.wait_for_function(shown, arg=question)


def opened(page: Any) -> str:
    """The query or answer of the turn that is open to be read."""
    return str(page.locator(".reader details[open] .said").inner_text())


def test_filters_count_and_show_the_right_questions(trees: Path, visit: Open) -> None:
    page = visit(trees)
    assert numbers(page) == {
        "All": 500,
        "Right": 100,
        "Mixed": 300,
        "Wrong": 100,
        "Truncated": 50,
        "Flagged": 25,
        "Bad format": 0,
    }
    choose(page, "Wrong")
    assert page.locator("#count").inner_text() == "100 of 500 questions"
    wait_for(page, "Question 1?")
    choose(page, "Mixed")
    choose(page, "Truncated")
    assert page.locator("#count").inner_text() == "50 of 500 questions"
    page.keyboard.press("/")
    page.keyboard.type("question 1")
    # 13, 213, 313, 413, and ten from 103 to 193.
    assert page.locator("#count").inner_text() == "14 of 500 questions"
    assert numbers(page) | {"All": 14, "Mixed": 14, "Right": 0} == numbers(page)
    page.keyboard.type("zzz")
    assert "No question passes" in page.locator("#detail").inner_text()


def test_only_what_is_looked_at_is_in_the_page(trees: Path, visit: Open) -> None:
    page = visit(trees)
    box = page.locator("#questions")
    box.focus()
    for key, question in (("End", 499), ("PageUp", 493), ("ArrowUp", 492), ("Home", 0)):
        page.keyboard.press(key)
        wait_for(page, f"Question {question}?")
        chosen = page.locator(".question[aria-selected=true]")
        assert chosen.get_attribute("id") == box.get_attribute("aria-activedescendant")
        assert chosen.get_attribute("aria-posinset") == str(question + 1)
        assert page.locator(".node").count() == 1 + 3 * CHAINS
        assert page.locator(".question").count() < 30
        assert page.evaluate("document.querySelectorAll('*').length") < 1000


def test_a_click_opens_the_turn_with_its_passages(trees: Path, visit: Open) -> None:
    page = visit(trees)
    page.get_by_role("treeitem", name="query 7 of").click()
    assert opened(page).startswith("query 7 of")
    text = page.locator(".reader").inner_text()
    for expected in ("advantage +0.20", "value −0.20", "surprisal 1.25 nats", "2 tokens written"):
        assert expected in text
    assert page.locator(".reader .passage").inner_text().startswith('Page 1: "Title 7"')
    assert page.locator(".reader .tokens i").count() == 2
    page.get_by_role("button", name="Close").click()
    assert not page.locator(".reader").is_visible()


def test_the_keyboard_alone_finds_and_reads_a_turn(trees: Path, visit: Open) -> None:
    page = visit(trees)
    page.locator("#questions").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    wait_for(page, "Question 1?")
    page.keyboard.press("Enter")
    focused = page.locator(":focus")
    assert focused.get_attribute("role") == "treeitem"
    assert opened(page) == "leaf 0.0"
    for key, text in (
        ("ArrowDown", "leaf 0.1"),
        ("ArrowDown", "leaf 1.0"),
        ("ArrowLeft", "query 1 of 1"),
        ("ArrowUp", "query 0 of 1"),
        ("ArrowRight", "leaf 0.0"),
        ("End", "leaf 10.1"),
    ):
        page.keyboard.press(key)
        assert opened(page) == text
        assert text in (focused.get_attribute("aria-label") or "")
    page.keyboard.press("Home")
    assert page.locator(".reader").inner_text().startswith("×\nprompt 1")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    assert not page.locator(".reader").is_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert opened(page) == "query 1 of 1"
    assert focused.get_attribute("class") == "reader"
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert focused.get_attribute("id") == "questions"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_needs_no_scrolling_sideways(
    trees: Path, visit: Open, scheme: str, tmp_path: Path
) -> None:
    runs = [evaluation(tmp_path / name, {"Ada": ("word " * 9, True)}) for name in "AB"]
    for path in (trees, write_difference(*runs)):
        page = visit(path, viewport={"width": 360, "height": 740}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.locator(".node").last.click()
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_two_runs_are_shown_where_they_first_differ(tmp_path: Path, visit: Open) -> None:
    first = {"a": ("x", False), "b": ("x", True), "c": ("x", False), "d": ("blue sky", True)}
    second = {"a": ("y", True), "b": ("y", False), "c": ("x", False), "d": ("blue sea", True)}
    folders = evaluation(tmp_path / "A", first), evaluation(tmp_path / "B", second)
    page = visit(write_difference(*folders))
    found = {"All": 4, "Fixed": 1, "Broken": 1, "Both wrong": 1, "Both right": 1}
    assert numbers(page) | found == numbers(page)
    note = page.locator(".difference")
    for name, question in (("Fixed", "a"), ("Broken", "b"), ("Both wrong", "c")):
        choose(page, name)
        assert page.locator("#count").inner_text() == "1 of 4 questions"
        wait_for(page, f"Who is {question}?")
    assert note.inner_text() == "Both runs took the same turns."
    choose(page, "Both right")
    wait_for(page, "Who is d?")
    assert note.inner_text() == "First difference: turn 2, where the agent writes something else."
    assert page.locator("h4").all_inner_texts() == ["A\n✓", "B\n✓"]
    said = page.locator(".reader details[open] .said").all_inner_texts()
    assert said == ["blue sky", "blue sea"]
    marked = page.locator(".reader details[open] .own").evaluate_all(
        "all => all.map((e) => [...e.querySelectorAll('mark')].map((m) => m.innerText).join(''))"
    )
    assert marked == ["sky </search>", "sea </search>"]
    assert page.locator(".node.differs").count() == 2


def test_a_training_run_has_curves_and_several_collections(tmp_path: Path, visit: Open) -> None:
    page = visit(write_report(training_run(tmp_path)))
    assert page.locator(".charts svg").count() == 2
    assert page.locator("#collection option").count() == 3
    page.locator("#collection").select_option("1")
    wait_for(page, page.locator(".question .asked").nth(1).text_content())
    assert page.locator("h4").all_inner_texts() == ["before\n✗", "after\n✓"]


def test_a_browser_that_cannot_unpack_says_so(trees: Path, visit: Open) -> None:
    page = visit(trees, before="delete window.DecompressionStream")
    assert "too old to unpack" in page.get_by_role("alert").inner_text()
    assert numbers(page)["All"] == QUESTIONS


def test_hostile_text_stays_text(tmp_path: Path, visit: Open) -> None:
    folder = evaluation(tmp_path / EVIL.replace("/", "-"), {EVIL: (EVIL, True)})
    page = visit(write_report(folder))
    wait_for(page, f"Who is {EVIL}?")
    assert page.locator("img").count() == 0
    assert page.title() == "test"
    text = page.locator("#detail").inner_text()
    assert text.count(EVIL) >= 4
    assert f"seen {EVIL}" in text
