"""The report: one page that stands alone, whatever the texts in it contain."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.tree import RolloutTree
from benchmarks import markup
from benchmarks.errors import RunFolderError
from benchmarks.report import write_report

EVIL = "<script>alert('&amp;')</script>"
VOID = {"meta", "path", "use", "rect"}
CONFIG = f'env = "{EVIL}"\n\n[algorithm]\nchains = 2\n'
SUMMARY = {
    "algorithm": "atpo",
    "env": "at2po/MiniWiki-v0",
    "model": EVIL,
    "questions": 3,
    "sampled_tokens": 12345,
    "seconds": 3725.0,
    "seed": 7,
    "steps": 2,
}


def record(name: str, em: bool, text: str = "text") -> dict[str, Any]:
    return {
        "question_key": name,
        "question": f"Who is {name}? {EVIL}",
        "golden_answers": [f"gold {name} {EVIL}"],
        "prediction": EVIL if em else None,
        "em": em,
        "format_ok": em,
        "turns": 2,
        "searches": 1,
        "truncated": not em,
        "transcript": [
            {
                "action": f"<think> {text} </think> <search> {EVIL} </search>",
                "observation": f" <result>\n{EVIL}\n</result>",
            },
            {"action": "</answer> <think> never closed", "observation": ""},
        ],
    }


def a_tree(rewards: tuple[float, ...]) -> dict[str, Any]:
    question = {"question": f"Which? {EVIL}", "golden_answers": [EVIL]}
    tree = RolloutTree(question, [0], "prompt")
    first = tree.add(
        tree.root,
        sampled=[1],
        logprobs=[-0.25],
        action=f"<think> a </think> <search> {EVIL} </search>",
        observation=EVIL,
        value=0.5,
        advantage=-0.5,
    )
    for reward in rewards:
        info = {"format_ok": reward > 0, "truncated": reward < 0}
        answer = f"<think> b </think> <answer> \\boxed{{{EVIL}}} </answer>"
        tree.add(first, logprobs=[-1.0], action=answer, reward=reward, info=info)
    return tree.to_dict()


def evaluation(em: float) -> dict[str, float]:
    others = {"f1": 0.5, "format_rate": 0.75, "searches": 1.5, "turns": 2.5, "questions": 3}
    return {"eval/em": em, **{f"eval/{name}": value for name, value in others.items()}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    def lines(name: str, rows: list[dict[str, Any]]) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    rows = [
        {"step": 0, **evaluation(1 / 3)},
        {"step": 1, "rollout/em": None, "tokens/sampled": 5000, "non_finite": ["rollout/em"]},
        {"step": 2, "rollout/em": 0.5, "tokens/sampled": 7345, **evaluation(2 / 3)},
    ]
    lines("metrics.jsonl", rows)
    names = ("Ada", "Bob", "Cy")
    before = [record(name, em, "old") for name, em in zip(names, (True, False, False), strict=True)]
    after = [record(name, em, "new") for name, em in zip(names, (True, True, False), strict=True)]
    lines("episodes/step_000000.jsonl", before)
    lines("episodes/step_000002.jsonl", after)
    lines("trees/step_000001.jsonl", [a_tree((1.0,))])
    lines("trees/step_000002.jsonl", [a_tree((1.0, 1.0)), a_tree((1.0, -1.0, 0.0))])
    return tmp_path


class Page(HTMLParser):
    """Checks that all elements close, and keeps their names, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone_and_escapes_everything(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "link", "iframe", "img", "object", "base"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []
    # Question and answer, prediction, query and result of each shown episode, and so on.
    assert page.text.count(EVIL) > 20


def test_the_page_shows_the_figures(run: Path) -> None:
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    for expected in ("33.3% → 66.7%", "+33.3 points", "12,345", "1 h 2 min", "seed 7", "0.500"):
        assert expected in text
    assert "20.8% – 93.9%" in text  # Wilson interval of 2 of 3
    assert text.count(CONFIG.strip()) == 1


def test_questions_are_sorted_by_what_became_of_them(run: Path) -> None:
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    better, worse, still = (
        text.index(heading)
        for heading in (
            "Turned from wrong to right (1 of 3)",
            "Turned from right to wrong (0 of 3)",
            "Still wrong (1 of 3)",
        )
    )
    assert better < text.index("Who is Bob?") < worse < still < text.index("Who is Cy?")
    assert "Who is Ada?" not in text
    assert text.count("<think> old </think>") == text.count("<think> new </think>") == 2


def test_the_tree_with_the_most_different_rewards_is_drawn(run: Path) -> None:
    html = write_report(run).read_text(encoding="utf-8")
    tree = html[html.index('<div class="tree">') :]
    text = Page(tree[: tree.index("</section>")]).text
    assert tree.count("<li>") == 4
    assert text.count("fork") == 2
    assert text.count("bad format") == 2
    assert text.count("cut off") == 1
    for expected in ("0.25", "+0.50", "-0.50", "answer " + EVIL, "search " + EVIL):
        assert expected in text


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    first = write_report(run).read_bytes()
    curve = (run / "learning_curve.svg").read_bytes()
    assert write_report(run).read_bytes() == first
    assert (run / "learning_curve.svg").read_bytes() == curve
    assert curve.startswith(b"<svg ")


def test_a_run_without_steps_has_no_tree(run: Path) -> None:
    for path in [*(run / "trees").iterdir(), run / "episodes" / "step_000002.jsonl"]:
        path.unlink()
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(rows[0])
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "33.3% → 33.3%" in text
    assert "One expanded tree" not in text


@pytest.mark.parametrize("name", ["config.toml", "summary.json", "metrics.jsonl"])
def test_an_incomplete_run_is_refused(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(RunFolderError, match=f"found no {name}; let the run end"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_run_without_evaluation_is_refused(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(RunFolderError, match="at least one evaluation"):
        write_report(run)


def test_a_damaged_file_is_refused(run: Path) -> None:
    (run / "summary.json").write_text("{")
    with pytest.raises(RunFolderError, match="expected JSON"):
        write_report(run)


pieces = st.sampled_from(
    ["<think>", "</think>", "<search>", "</search>", "<answer>", "</answer>", "<result>", "&", "a"]
)


@given(st.lists(st.one_of(pieces, st.text(max_size=3))).map("".join))
def test_marking_tags_changes_no_text(text: str) -> None:
    html = markup.tagged(text)
    bare = re.sub(r"</?(?:b|span)(?: class=\"\w+\")?>", "", html)
    assert unescape(bare) == text.strip()
    assert html.count("<span") == html.count("</span>")
    assert html.count("<b>") == html.count("</b>")
