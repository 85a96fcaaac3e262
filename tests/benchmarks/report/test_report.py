"""The report: one page that stands alone, whatever the texts in it contain."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.cli import main
from at2po_agents.tree import RolloutTree
from benchmarks.errors import RunFolderError
from benchmarks.report import write_difference, write_report
from benchmarks.report.cases import alone, from_episode, from_tree, pair
from benchmarks.report.page_data import embed
from tests.benchmarks.report.report_page import Page
from tests.benchmarks.report.report_samples import (
    CONFIG,
    EVIL,
    record,
    training_run,
    write_evaluation,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return training_run(tmp_path)


def evaluation(folder: Path, right: dict[str, bool], **summary: Any) -> Path:
    records = [record(name, em, folder.name) for name, em in right.items()]
    return write_evaluation(folder, records, **summary)


def explored(html: str) -> list[dict[str, Any]]:
    """The explorer's collections, each case with its turns, unpacked as a browser does."""
    blocks = [
        json.loads(gzip.decompress(base64.b64decode(text)))
        for text in re.findall(r'<script type="text/plain" class="block">(.*?)</script>', html)
    ]
    (index,) = re.findall(r'<script type="application/json" id="index">(.*?)</script>', html)

    def turn(node: dict[str, Any], lines: list[str]) -> dict[str, Any]:
        texts = ("action", "observation")
        whole = {k: "\n".join(lines[i] for i in node[k]) for k in texts if k in node}
        return {**node, **whole}

    collections: list[dict[str, Any]] = json.loads(index)
    for collection in collections:
        for case in collection["cases"]:
            block, place = case["at"]
            lines, sides = blocks[block]["lines"], blocks[block]["pairs"][place]
            case["turns"] = [side and [turn(node, lines) for node in side] for side in sides]
    return collections


def test_the_page_stands_alone_and_escapes_everything(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert not {"link", "iframe", "img", "object", "base"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []
    # Texts within the index and the blocks are data; the others are escaped.
    assert page.text.count(EVIL) >= 2
    assert html.count(EVIL) == 0


def test_nothing_but_the_pages_own_scripts_and_style_may_run(run: Path) -> None:
    html = write_report(run).read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', html)
    assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none'; ")
    for element, rule in (("script", "script-src"), ("style", "style-src-elem")):
        contents = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
        digests = [hashlib.sha256(text.encode()).digest() for text in contents]
        hashes = "".join(f" 'sha256-{base64.b64encode(d).decode()}'" for d in digests)
        assert contents
        assert f"; {rule}{hashes};" in policy


def test_the_page_shows_the_figures(run: Path) -> None:
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    for expected in ("33.3% → 66.7%", "+33.3 points", "12,345", "1 h 2 min", "seed 7", "0.500"):
        assert expected in text
    assert "[20.8%, 93.9%]" in text  # Wilson interval of 2 of 3
    assert text.count(CONFIG.strip()) == 1


def test_a_training_run_can_be_explored_before_and_after_and_by_its_trees(run: Path) -> None:
    trees, evaluated, earlier = explored(write_report(run).read_text(encoding="utf-8"))
    assert [c["name"] for c in (trees, earlier)] == [
        "Rollout trees of step 2",
        "Rollout trees of step 1",
    ]
    assert evaluated["sides"] == ["before", "after"]
    outcomes = {
        case["question"].split()[2][:-1]: [side["right"] for side in case["sides"]]
        for case in evaluated["cases"]
    }
    assert outcomes == {"Ada": [True, True], "Bob": [False, True], "Cy": [False, False]}
    before, after = evaluated["cases"][0]["turns"]
    assert "<think> old </think>" in before[1]["action"]
    assert "<think> new </think>" in after[1]["action"]
    assert before[1]["observation"] == f" <result>\n{EVIL}\n</result>"


def test_a_tree_keeps_its_turns_figures_and_notes(run: Path) -> None:
    trees = explored(write_report(run).read_text(encoding="utf-8"))[0]
    case = trees["cases"][1]
    (nodes,) = case["turns"]
    root, first, right, wrong, _ = nodes
    assert [node.get("parent") for node in nodes] == [None, 0, 1, 1, 1]
    assert root["observation"] == "prompt"
    figures = {"surprisal": 0.25, "value": 0.5, "advantage": -0.5, "tokens": "2"}
    assert first | figures == first
    assert (right["right"], wrong["right"]) == (True, False)
    assert (right["reward"], right["tokens"]) == (1.0, "a")
    assert "notes" not in right
    assert wrong["notes"] == ["truncated", "bad format"]
    assert [node.get("fork") for node in nodes] == [None, None, None, True, True]
    assert case["sides"][0] | {"right": 1, "of": 3, "truncated": True} == case["sides"][0]


def test_row_advantages_and_values_not_finite_are_shown_as_such() -> None:
    tree = RolloutTree("Which?", [0], "prompt")
    info = {"flags": ["tool_failed"], "answer": "x", "em": True}
    tree.add(tree.root, logprobs=[float("nan"), -9.0, 0.0], reward=-1.0, info=info)
    leaf = tree.leaves()[0]
    leaf.row_advantage, leaf.value = 0.75, float("inf")
    case = from_tree(tree.to_dict(), chains=1)
    node = case.nodes[1]
    assert case.question == "Which?"
    assert (node["advantage"], node["tokens"], node["flagged"]) == (0.75, "zz0", True)
    assert not {"value", "surprisal"} & node.keys()
    assert node["notes"] == ["tool failed", "value not finite", "surprisal not finite"]
    assert case.figures()["said"] == "x"


def test_a_run_without_steps_has_no_tree(run: Path) -> None:
    for path in [*(run / "trees").iterdir(), run / "episodes" / "step_000002.jsonl"]:
        path.unlink()
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(rows[0])
    html = write_report(run).read_text(encoding="utf-8")
    assert "33.3% → 33.3%" in Page(html).text
    assert [c["name"] for c in explored(html)] == ["Evaluation, before and after"]


def test_an_evaluation_has_a_report(tmp_path: Path) -> None:
    intervals = {
        "em_interval": [0.2, 0.9],
        "f1_interval": [0.4, 0.6],
        "cover_em": None,
        "tokens": None,
    }
    right = {"b10": True, "b9": False}
    folder = evaluation(tmp_path / "eval", right, card={"model": EVIL}, **intervals)
    retried = record("b9", True, "again") | {"error": "", "flags": ["tool_failed"], "tokens": 7}
    with (folder / "episodes.jsonl").open("a") as file:
        file.write(json.dumps(record("b8", False) | {"transcript": [], "error": EVIL}) + "\n")
        file.write(json.dumps(retried) + "\n")
    html = write_report(folder).read_text(encoding="utf-8")
    text = Page(html).text
    for expected in ("50.0%", "[20.0%, 90.0%]", "0.500 [0.400, 0.600]", f"agent {EVIL}"):
        assert expected in text
    assert json.dumps(EVIL) in text
    assert "Learning curve" not in text
    (episodes,) = explored(html)
    failed, again, last = episodes["cases"]
    assert failed["turns"][0][0]["notes"] == ["truncated", "bad format", f"error: {EVIL}"]
    assert failed["sides"][0]["flagged"]
    assert "again" in again["turns"][0][1]["action"]
    assert (again["sides"][0]["flagged"], again["sides"][0]["tokens"]) == (True, 7)
    assert last["question"].startswith("Who is b10?")


def test_an_evaluation_of_several_sets_shows_each_and_their_averages(tmp_path: Path) -> None:
    sets = {}
    for name, right in (("NQ", {"a": True}), ("PopQA", {"b": False, "c": True})):
        folder = evaluation(tmp_path / "eval" / name, right)
        sets[name] = json.loads((folder / "summary.json").read_text())
    summary = {"agent": "me", "questions": 3, "sets": sets}
    summary |= {"micro": {"em": 0.667}, "macro": {"em": 0.75, "em_interval": [0.6, 0.9]}}
    (tmp_path / "eval" / "summary.json").write_text(json.dumps(summary))
    html = write_report(tmp_path / "eval").read_text(encoding="utf-8")
    text = Page(html).text
    for expected in ("NQ, PopQA", "micro average", "66.7%", "macro average", "[60.0%, 90.0%]"):
        assert expected in text
    assert [(c["name"], len(c["cases"])) for c in explored(html)] == [("NQ", 1), ("PopQA", 2)]


def test_a_folder_of_trees_has_a_report(run: Path) -> None:
    path = write_report(run / "trees", out=run / "trees.html")
    html = path.read_text(encoding="utf-8")
    text = Page(html).text
    for expected in ("66.7%", "right leaves", "3", "trees", "6", "leaves"):
        assert expected in text
    assert [c["name"] for c in explored(html)] == ["step_000001", "step_000002"]


def test_two_evaluations_are_compared_question_by_question(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "A", {"a": True, "b": False, "c": False, "d": True})
    second = evaluation(tmp_path / "B", {"e": True, "c": False, "b": True, "a": True})
    path = write_difference(first, second)
    assert path == second / "difference.html"
    html = path.read_text(encoding="utf-8")
    text = Page(html).text
    assert "33.3% → 66.7%right, of 3 questions in both" in text
    for count, name in ((1, "fixed"), (0, "broken"), (1, "right in both"), (1, "wrong in both")):
        assert f"{count}{name}" in text
    (collection,) = explored(html)
    assert collection["sides"] == ["A", "B"]
    right = [[s and s["right"] for s in case["sides"]] for case in collection["cases"]]
    assert right == [[True, True], [False, True], [False, False], [True, None], [None, True]]
    assert collection["cases"][3]["turns"][1] is None


def test_a_training_run_is_compared_by_its_last_evaluation(run: Path, tmp_path: Path) -> None:
    other = evaluation(tmp_path / "other", {"Ada": False, "Bob": True})
    (collection,) = explored(write_difference(run, other).read_text(encoding="utf-8"))
    right = [[s and s["right"] for s in case["sides"]] for case in collection["cases"]]
    assert right == [[True, False], [True, True], [False, None]]


def test_a_question_that_occurs_twice_is_paired_in_order() -> None:
    first, second = (from_episode(record("a", True, text)) for text in ("one", "two"))
    other = from_episode(record("b", True))
    assert pair([first, second, other], [second]) == [
        (first, second),
        (second, None),
        (other, None),
    ]


def test_folders_without_a_question_in_common_are_refused(tmp_path: Path) -> None:
    first = evaluation(tmp_path / "A", {"a": True})
    second = evaluation(tmp_path / "B" / "A", {"b": True})
    with pytest.raises(RunFolderError, match="at least one question in both"):
        write_difference(first, second)


@pytest.mark.parametrize("name", ["config.toml", "summary.json", "metrics.jsonl"])
def test_an_incomplete_run_is_refused(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(RunFolderError, match=f"found no {name}; let it end"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_run_without_evaluation_is_refused(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(RunFolderError, match="at least one evaluation"):
        write_report(run)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="found none of these"):
        write_report(tmp_path)
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(RunFolderError, match=r"other.jsonl:1: expected a rollout tree"):
        write_report(tmp_path)


def test_the_command_writes_both_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (evaluation(tmp_path / name, {"a": True}) for name in "AB")
    main(["report", str(first)])
    assert (first / "report.html").exists()
    main(["report", str(first), str(second), "--out", str(tmp_path / "page.html")])
    assert "page.html" in capsys.readouterr().out
    assert not (second / "difference.html").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(tmp_path / "none")])


texts = st.text(st.characters(), max_size=8) | st.sampled_from(["</script>", "<!--", "a\nb", "\n"])


@given(st.lists(st.tuples(texts, texts), max_size=4), texts)
def test_whatever_the_texts_are_the_page_holds_them_as_they_were(
    turns: list[tuple[str, str]], question: str
) -> None:
    transcript = [{"action": action, "observation": seen} for action, seen in turns]
    episode = record("x", True) | {"question": question, "transcript": transcript}
    html = embed([alone(question, [from_episode(episode)])])
    assert html.count("<script") == html.count("</script") == 2
    assert "<!--" not in html
    (collection,) = explored(html)
    (case,) = collection["cases"]
    assert collection["name"] == case["question"] == question
    nodes = case["turns"][0][1:]
    assert [(n.get("action", ""), n.get("observation", "")) for n in nodes] == turns
