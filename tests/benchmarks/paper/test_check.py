"""The paper's table: what its cells make its averages, and what rounding can and cannot explain."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2po_agents.cli import main
from benchmarks.paper.check import leads, possible
from benchmarks.paper.table import MULTI_HOP, SINGLE_HOP, Average, averages, standard_error

TABLE = averages()
SHARES = st.integers(0, 10_000)


def found(model: str, method: str, sets: dict[str, int]) -> Average:
    (row,) = (r for r in TABLE if (r.model, r.method, [*r.cells]) == (model, method, [*sets]))
    return row


def test_the_table_is_whole() -> None:
    assert (sum(MULTI_HOP.values()), sum(SINGLE_HOP.values())) == (22_523, 29_190)
    assert len(TABLE) == 38
    assert len({(row.model, row.method) for row in TABLE}) == 19
    assert all(0 < cell < 100 for row in TABLE for cell in row.cells.values())
    # Bamboogle has 125 questions: its cells are whole multiples of 0.8.
    assert all(row.cells.get("Bamboogle", Fraction()) % Fraction("0.8") == 0 for row in TABLE)


def test_the_averages_that_do_not_reproduce() -> None:
    wrong = {(row.model, row.method) for row in TABLE[:19] if not row.reproduces()}
    assert wrong == {("Qwen3-8B", "DAPO"), ("Qwen3-8B", "AT²PO")}
    # Worked out apart from this code.
    assert float(found("Qwen3-8B", "DAPO", MULTI_HOP).micro) == pytest.approx(49.313, abs=5e-4)
    assert float(found("Qwen3-8B", "AT²PO", MULTI_HOP).micro) == pytest.approx(50.180, abs=5e-4)
    single = found("Qwen3-4B", "AT²PO", SINGLE_HOP)
    assert float(single.micro) == pytest.approx(56.562, abs=5e-4) and not single.reproduces()
    assert float(found("Qwen3-4B", "AT²PO", MULTI_HOP).macro) == pytest.approx(46.0, abs=0.05)


def printed(value: Fraction) -> Fraction:
    """A percentage as a table prints it."""
    return Fraction(f"{float(value):.2f}")


@given(st.tuples(*(st.integers(0, size) for size in MULTI_HOP.values())))
def test_averages_of_real_counts_always_reproduce(right: tuple[int, ...]) -> None:
    exact = {
        name: Fraction(100 * k, size)
        for (name, size), k in zip(MULTI_HOP.items(), right, strict=True)
    }
    average = Average("", "", exact, Fraction()).micro
    assert average == Fraction(100 * sum(right), 22_523)
    cells = {name: printed(value) for name, value in exact.items()}
    assert Average("", "", cells, printed(average)).reproduces()
    assert all(possible(cell, MULTI_HOP[name]) for name, cell in cells.items())


def test_rounding_explains_no_more_than_it_can() -> None:
    cells = dict.fromkeys(SINGLE_HOP, Fraction("50"))
    assert Average("", "", cells, Fraction("50.01")).reproduces()
    assert not Average("", "", cells, Fraction("50.02")).reproduces()


@given(SHARES)
def test_every_cell_of_a_large_set_is_possible(hundredths: int) -> None:
    assert possible(Fraction(hundredths, 100), 12_576)


@pytest.mark.parametrize("cell", ["24.80", "23.47", "22.68"])
def test_some_cells_of_musique_are_not(cell: str) -> None:
    assert not possible(Fraction(cell), 2417)
    assert not any(f"{100 * k / 2417:.2f}" == cell for k in range(2418))


def test_standard_errors() -> None:
    assert standard_error(Fraction("24.8"), 2417) == pytest.approx(0.88, abs=0.005)
    assert standard_error(Fraction("54.4"), 125) == pytest.approx(4.45, abs=0.01)
    assert found("Qwen3-4B", "AT²PO", MULTI_HOP).standard_error() == pytest.approx(0.33, abs=0.01)


def test_leads_are_over_the_best_other_method() -> None:
    by_column = {(lead.model, lead.column): lead for lead in leads(TABLE)}
    assert len(by_column) == 3 * 9
    nq = by_column["Qwen3-8B", "NQ"]
    assert (nq.best, nq.points, nq.within_error()) == ("DAPO", Fraction("-0.66"), True)
    average = by_column["Qwen3-4B", "multi-hop average"]
    assert (average.best, average.points) == ("AEPO", Fraction("1.86"))
    assert not average.within_error()


def test_the_command_lists_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    main(["paper-check"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "multi-hop: 2 of 19 do not reproduce" in shown
    assert "single-hop: 14 of 19 do not reproduce" in shown
    assert "Table 1 has 56.80, Table 5 54.40" in shown
    assert "48.819 with the one and 48.806 with the other" in shown
    assert "MuSiQue: n = 2,417, 10 of 19 cells" in shown
