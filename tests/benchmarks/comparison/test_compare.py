"""`at2po compare`: made-up evaluations whose right answers are known, from folders to sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from at2po_agents.cli import main
from benchmarks.comparison.compare import MACRO, MICRO, compare
from benchmarks.comparison.text import conclusions, markdown
from benchmarks.errors import ComparisonError
from benchmarks.evaluation.reading import Evaluation, Method, read_folder, read_methods

CARD = {
    "split": "test",
    "retriever": "BM25",
    "top_k": 3,
    "agent_settings": {"max_prompt_tokens": 9},
}


def write(
    folder: Path, right: str, name: str = "NQ", card: dict[str, Any] | None = None, **more: Any
) -> Path:
    """An evaluation: "1" for a question answered right, in order of the questions."""
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"question_key": f"{name}{i:04}", "em": c == "1"}) for i, c in enumerate(right)
    ]
    # Episodes end in any order.
    (folder / "episodes.jsonl").write_text("".join(f"{line}\n" for line in reversed(lines)))
    summary = {"env": f"at2po/{name}-v0", "failures": [], "card": {**CARD, **(card or {})}, **more}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def made(name: str, *seeds: str, set_name: str = "NQ") -> Method:
    """A method, without folders."""
    runs = [
        {set_name: Evaluation(Path(), {}, {str(i): c == "1" for i, c in enumerate(right)})}
        for right in seeds
    ]
    return Method(name, [Path()] * len(seeds), runs)


def figures(comparison: dict[str, Any], row: int = 0, name: str = "b") -> dict[str, Any]:
    found: dict[str, Any] = comparison["rows"][row]["methods"][name]
    return found


def test_the_command_compares_suites_and_writes_both_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, nq, hotpot in (
        ("direct", "0" * 60 + "1" * 40, "01" * 15),
        ("rag", "1" * 100, "01" * 15),
    ):
        write(tmp_path / name / "NQ", nq)
        write(tmp_path / name / "HotpotQA", hotpot, "HotpotQA")
    out = tmp_path / "out"
    main(["compare", str(tmp_path / "direct"), str(tmp_path / "rag"), "--out", str(out)])
    record = json.loads((out / "comparison.json").read_text())
    rows = {row["name"]: row for row in record["rows"]}
    assert list(rows) == ["HotpotQA", "NQ", MICRO, MACRO]
    assert record["tests"] == 3
    nq, hotpot, micro, macro = (
        rows[name]["methods"]["rag"] for name in ("NQ", "HotpotQA", MICRO, MACRO)
    )
    assert (nq["won"], nq["lost"], hotpot["won"], hotpot["lost"]) == (60, 0, 0, 0)
    assert nq["difference"] == pytest.approx(0.6)
    assert nq["p"] == pytest.approx(2.0**-60)
    assert nq["p_holm"] == pytest.approx(3 * 2.0**-60)
    assert hotpot["p"] == hotpot["p_holm"] == 1
    assert micro["difference"] == pytest.approx(60 / 130)
    assert macro["difference"] == pytest.approx(0.3) and "p" not in macro
    shown = " ".join(capsys.readouterr().out.split())
    text = (out / "comparison.md").read_text()
    for said in ("rag is better than direct: +46.2 points", "better on NQ; undecided on HotpotQA"):
        assert said in shown and said in text
    assert "| NQ | 100 | direct | 40.0 (30.9 to 49.8) |" in text
    assert record["conclusions"] == conclusions(record)


def test_seeds_are_grouped_by_a_name(tmp_path: Path) -> None:
    seeds = [write(tmp_path / f"s{i}", "1" * (50 + 10 * i) + "0" * (50 - 10 * i)) for i in range(3)]
    other = write(tmp_path / "react", "10" * 50)
    group = ",".join(map(str, reversed(seeds)))
    comparison = compare(read_methods([f"react={other}", f"atpo={group}"]))
    assert comparison["methods"] == {"react": [str(other)], "atpo": [str(seed) for seed in seeds]}
    found = figures(comparison, name="atpo")
    assert found["em"] == pytest.approx(0.6)
    assert found["test"].startswith("bootstrap")
    low, high = found["difference_interval"]
    assert low < 0.1 < high
    assert any("fewer than five seeds" in sentence for sentence in conclusions(comparison))


def test_an_interval_over_seeds_is_wider_than_one_over_questions() -> None:
    even, odd = "1" * 30 + "0" * 70, "1" * 70 + "0" * 30
    one = figures(compare([made("a", "10" * 50), made("b", even)]))
    several = figures(compare([made("a", "10" * 50), made("b", even, odd, even, odd)]))
    widths = [high - low for low, high in (one["interval"], several["interval"])]
    assert widths[1] > 1.5 * widths[0]


RIGHT = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)


@settings(max_examples=20)
@given(RIGHT, st.randoms(use_true_random=False))
def test_the_order_of_episodes_changes_nothing(pairs: list[tuple[bool, bool]], rng: Any) -> None:
    def methods(order: Sequence[int]) -> list[Method]:
        return [
            Method(
                name,
                [Path()],
                [{"NQ": Evaluation(Path(), {}, {str(i): pairs[i][which] for i in order})}],
            )
            for which, name in enumerate("ab")
        ]

    order = list(range(len(pairs)))
    straight = compare(methods(order))
    rng.shuffle(order)
    assert compare(methods(order)) == straight


def test_holm_counts_all_comparisons() -> None:
    a, b = "0" * 20 + "1" * 20, "1" * 8 + "0" * 12 + "1" * 20
    pair = compare([made("a", a), made("b", b)])
    three = compare([made("a", a), made("b", b), made("c", a)])
    assert (pair["tests"], three["tests"]) == (1, 2)
    assert figures(pair)["p_holm"] == figures(pair)["p"] == pytest.approx(2.0**-8)
    assert figures(three)["p_holm"] == pytest.approx(2 * 2.0**-8)
    assert figures(three, name="c")["p_holm"] == 1


def test_what_cannot_be_concluded_is_said() -> None:
    comparison = compare([made("a", "1100" * 10), made("b", "1110" + "1100" * 9)])
    said = " ".join(conclusions(comparison))
    assert "cannot be concluded that b and a differ" in said
    assert "Nor that they are equal" in said
    assert "on NQ fewer than 10 questions came out otherwise" in said
    assert "how much training seeds matter" in said


def test_other_questions_are_refused_or_left_out_on_request() -> None:
    methods = [made("a", "1100"), made("b", "110011")]
    with pytest.raises(ComparisonError, match="found 4, 6, and 4.*--common"):
        compare(methods)
    comparison = compare(methods, common=True)
    assert comparison["rows"][0]["questions"] == 4
    assert comparison["warnings"] == [
        "NQ: 2 questions left out, which not all evaluations answered"
    ]
    strange = Method("c", [Path()], [{"NQ": Evaluation(Path(), {}, {"x": True})}])
    with pytest.raises(ComparisonError, match="none that all answered"):
        compare([made("a", "1100"), strange], common=True)
    with pytest.raises(ComparisonError, match="expected the sets of a"):
        compare([made("a", "1100"), made("b", "1100", set_name="PopQA")])


def test_cards_that_differ_and_failures_are_warned_of(tmp_path: Path) -> None:
    limits = {"agent_settings": {"max_prompt_tokens": 5}}
    a = write(tmp_path / "a", "1100")
    b = write(tmp_path / "b", "1100", card={"top_k": 5, **limits}, failures=[{}, {}])
    c = write(tmp_path / "c", "1100", card={"top_k": None, "retriever": None})
    comparison = compare(read_methods([str(a), str(b), str(c)]))
    assert comparison["warnings"] == [
        "NQ: top_k is 3 for a, 5 for b",
        "NQ: agent_settings.max_prompt_tokens is 9 for a, 5 for b",
        "NQ: 2 of 4 episodes of b failed and count as wrong",
    ]
    assert "Warnings:" in markdown(comparison)


def test_folders_without_a_finished_evaluation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match="at2po eval"):
        read_folder(tmp_path / "missing")
    running = write(tmp_path / "running", "11")
    (running / "summary.json").unlink()
    with pytest.raises(ComparisonError, match="finished"):
        read_folder(running)
    cut_off = write(tmp_path / "cut_off", "11")
    with (cut_off / "episodes.jsonl").open("a") as file:
        file.write('{"question_key": "x", "em"')
    with pytest.raises(ComparisonError, match="episodes.jsonl:3"):
        read_folder(cut_off)
    write(tmp_path / "twice" / "one", "11")
    write(tmp_path / "twice" / "two", "11")
    with pytest.raises(ComparisonError, match="one evaluation of each set"):
        read_folder(tmp_path / "twice")


def test_words_that_say_too_little_are_refused(tmp_path: Path) -> None:
    one = str(write(tmp_path / "one" / "x", "11"))
    two = str(write(tmp_path / "two" / "x", "11"))
    with pytest.raises(ComparisonError, match="at least two"):
        read_methods([one])
    with pytest.raises(ComparisonError, match="name=folder"):
        read_methods([one, two])
    with pytest.raises(ComparisonError, match="found one twice"):
        read_methods([one, f"b={two},{two}"])
    other = str(write(tmp_path / "hotpot", "11", "HotpotQA"))
    with pytest.raises(ComparisonError, match="first seed"):
        read_methods([one, f"b={two},{other}"])
