"""The time line in a browser: what is pointed at, chosen and zoomed to; needs Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import write_report
from tests.benchmarks.report.report_samples import (
    EVIL,
    LINES,
    Line,
    training_run,
    write_status,
    write_timeline,
)

pytestmark = pytest.mark.slow

Open = Callable[..., Any]


def report(folder: Path, lines: Any = LINES) -> Path:
    training_run(folder)
    write_status(folder)
    write_timeline(folder, lines)
    return write_report(folder)


def settled(page: Any) -> Any:
    """The page once what was asked for has been painted."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page


@pytest.fixture
def page(tmp_path: Path, visit: Open) -> Any:
    opened = visit(report(tmp_path))
    opened.wait_for_selector("#lanes canvas")
    return settled(opened)


def stretch(page: Any) -> tuple[float, float]:
    """The seconds that are in sight."""
    fields = (page.locator(f"#zoom-{end}").input_value() for end in ("from", "to"))
    start, end = map(float, fields)
    return start, end


def place(page: Any, lane: int, second: float) -> dict[str, float]:
    """Where a time of a lane is on the canvas."""
    start, end = stretch(page)
    width = page.evaluate("document.querySelector('#lanes').clientWidth")
    names = page.evaluate(
        "() => { const canvas = document.querySelector('#lanes canvas');"
        " return widest(canvas, ['seconds', 'collector-10']) + LANE.gap; }"
    )
    x = names + (second - start) / (end - start) * (width - names)
    return {"x": x, "y": 40 + 22 * (lane + 0.5)}


def pixel(page: Any, lane: int, second: float, below: float = 0) -> str:
    """The colour of a time of a lane, so many pixels below its middle."""
    at = place(page, lane, second)
    script = """([x, y]) => {
        const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
        context.drawImage(document.querySelector("#lanes canvas"), -Math.floor(x), -Math.floor(y));
        const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
        return a ? "#" + [r, g, b].map((n) => n.toString(16).padStart(2, "0")).join("") : "";
    }"""
    return str(page.evaluate(script, [at["x"], at["y"] + below]))


def told(page: Any) -> str:
    settled(page)
    return page.locator("#piece").inner_text() if page.locator("#piece").is_visible() else ""


def colour(page: Any, stage: str) -> str:
    script = "(name) => getComputedStyle(document.body).getPropertyValue(name)"
    return str(page.evaluate(script, f"--stage-{stage}"))


def test_a_lane_has_the_colours_of_its_stages(page: Any) -> None:
    shown = {
        (0, 2.0): "wait",
        (1, 0.9): "weights",
        (1, 2.9): "collect",
        (2, 3.9): "collect",
        (3, 7.9): "update",
        (3, 19.0): "update",
    }
    for (lane, second), stage in shown.items():
        # Beside the words in it.
        assert pixel(page, lane, second, below=0 if stage == "wait" else 6) == colour(page, stage)
    for lane, second in ((0, 6.0), (1, 12.0), (2, 0.5), (3, 17.0)):
        assert pixel(page, lane, second) == ""
    assert pixel(page, 0, 2.0, below=5) == ""  # waiting is a thin line
    assert pixel(page, 1, 2.9, below=5) == colour(page, "collect")
    page.emulate_media(color_scheme="dark")
    settled(page)
    assert pixel(page, 3, 7.9, below=6) == colour(page, "update") == "#f0883e"


def test_pointing_at_a_piece_tells_what_it_is(page: Any) -> None:
    canvas = page.locator("#lanes canvas")
    assert told(page) == ""
    canvas.hover(position=place(page, 2, 2.0))
    expected = "collector-10 · collect · step 1 · 3.00 s, from 1.00 to 4.00 s · 100.0 tokens/s"
    assert told(page) == expected
    canvas.hover(position=place(page, 3, 19.5))
    assert told(page).startswith(
        "learner-0 · update · step 2 · 2.00 s, from 18.00 to 20.00 s · 300"
    )
    canvas.hover(position=place(page, 0, 16.25))
    assert told(page) == f"driver · {EVIL} · step 2 · 0.5000 s, from 16.00 to 16.50 s"
    canvas.hover(position=place(page, 3, 17.0))
    assert told(page) == ""


def test_the_keyboard_alone_reaches_every_piece(page: Any) -> None:
    page.locator("#lanes").focus()
    assert told(page).startswith("driver · wait · step 1")
    for key, start in (
        ("ArrowRight", "driver · wait · step 2 · 2.00 s, from 8.00"),
        ("ArrowDown", "collector-9 · collect · step 1"),
        ("ArrowLeft", "collector-9 · weights · step 1"),
        ("ArrowLeft", "collector-9 · weights · step 1"),
        ("ArrowDown", "collector-10 · collect · step 1"),
        ("ArrowDown", "learner-0 · update · step 1"),
        ("ArrowDown", "learner-0 · update · step 1"),
        ("End", "learner-0 · update · step 2 · 2.00 s"),
        ("Home", "learner-0 · update · step 1"),
        ("ArrowUp", "collector-10 · collect · step 2"),
    ):
        page.keyboard.press(key)
        assert told(page).startswith(start)
    assert page.locator("#piece").get_attribute("role") == "status"
    page.locator("#zoom-step").focus()
    assert told(page) == ""


def test_keys_zoom_to_steps_and_to_the_whole_run(page: Any) -> None:
    box = page.locator("#lanes")
    box.focus()
    assert stretch(page) == (0, 20)
    for key, expected, step in (
        ("Enter", (0, 8), "1"),
        ("PageDown", (8, 20), "2"),
        ("PageDown", (8, 20), "2"),
        ("PageUp", (0, 8), "1"),
        ("-", (0, 16), ""),
        ("+", (0, 8), ""),
        ("Escape", (0, 20), ""),
        ("PageUp", (8, 20), "2"),
    ):
        page.keyboard.press(key)
        assert stretch(page) == expected
        assert page.locator("#zoom-step").input_value() == step
    # The chosen piece is out of sight now; the next one to be chosen is brought back into it.
    page.keyboard.press("ArrowDown")
    assert told(page).startswith("collector-9 · collect · step 1")
    assert stretch(page) == (0, 12)


def test_fields_buttons_and_the_pointer_zoom(page: Any) -> None:
    step, start, end = (page.locator(f"#zoom-{name}") for name in ("step", "from", "to"))
    step.fill("2")
    step.press("Enter")
    assert stretch(page) == (8, 20)
    step.fill("9")
    step.press("Enter")
    assert stretch(page) == (8, 20)
    start.fill("10.5")
    end.fill("12")
    end.press("Enter")
    assert stretch(page) == (10.5, 12)
    assert step.input_value() == ""
    page.get_by_role("button", name="Step after").click()
    assert stretch(page) == (8, 20)
    page.get_by_role("button", name="Step before").click()
    page.get_by_role("button", name="Zoom in").click()
    assert stretch(page) == (2, 6)
    page.get_by_role("button", name="Whole run").click()
    settled(page)
    canvas = page.locator("#lanes canvas")
    canvas.hover(position=place(page, 1, 15.0))
    page.mouse.down()
    corner, to = canvas.bounding_box(), place(page, 1, 5.0)
    page.mouse.move(corner["x"] + to["x"], corner["y"] + to["y"])
    assert page.locator("#mark").is_visible()
    page.mouse.up()
    assert stretch(page) == pytest.approx((5, 15), abs=0.1)
    settled(page)
    canvas.click(position=place(page, 3, 7.0))
    assert stretch(page) == pytest.approx((5, 15), abs=0.1)
    assert told(page).startswith("learner-0 · update · step 1")
    page.keyboard.press("ArrowUp")  # not what the pointer is still on
    assert told(page).startswith("collector-10 · collect · step 2")
    # A chosen piece out of sight does not draw the view away from where the pointer goes.
    page.keyboard.press("PageDown")
    page.locator("#zoom-step").focus()
    canvas.click(position=place(page, 3, 19.0))
    assert stretch(page) == (8, 20)


def test_of_a_repeated_step_the_later_time_is_shown_first(tmp_path: Path, visit: Open) -> None:
    steps = [1, 2, 1, 2, 3]
    lines = [("rank-0", "update", step, 2.0 * i, 2.0 * i + 1, 0) for i, step in enumerate(steps)]
    page = visit(report(tmp_path, lines))
    field = page.locator("#zoom-step")
    field.fill("1")
    field.press("Enter")
    assert stretch(page) == (3, 5)
    page.locator("#lanes").focus()
    for expected in ((1, 3), (0, 1)):
        page.keyboard.press("PageUp")
        assert stretch(page) == expected


def test_what_is_narrower_than_a_pixel_fills_its_share_of_it(tmp_path: Path, visit: Open) -> None:
    def busy_half_of_the_time() -> Iterator[Line]:
        for i in range(20_000):
            yield "rank-0", "update", 1, i * 0.01, i * 0.01 + 0.005, 0

    page = settled(visit(report(tmp_path, busy_half_of_the_time())))
    for second in (50.0, 100.0, 150.0):
        assert pixel(page, 0, second, below=5) == colour(page, "update")
        assert pixel(page, 0, second, below=-5) == ""


def many() -> Iterator[Line]:
    """64 processes and 500 steps."""
    for step in range(500):
        for number in range(48):
            start = 60.0 * step + number % 7
            yield f"collector-{number}", "weights", step, start, start + 0.5, 0
            yield f"collector-{number}", "collect", step, start + 0.5, start + 30, 3000
        for number in range(16):
            yield f"learner-{number}", "update", step, 60.0 * step + 37, 60.0 * step + 60, 9000


def test_only_what_is_in_sight_of_many_processes_is_drawn(tmp_path: Path, visit: Open) -> None:
    page = settled(visit(report(tmp_path, many())))
    assert page.evaluate("document.querySelectorAll('*').length") < 2000
    assert page.evaluate("document.querySelector('#lanes canvas').height") < 600
    page.locator("#lanes").focus()
    page.keyboard.press("End")
    for _ in range(63):
        page.keyboard.press("ArrowDown")
    assert told(page).startswith("learner-15 · update · step 499")
    page.keyboard.press("Enter")
    assert stretch(page) == (29940, 30000)
    settled(page)
    assert page.evaluate("document.querySelector('#lanes').scrollTop") > 800
    assert told(page).startswith("learner-15 · update · step 499")
    page.evaluate("document.querySelector('#lanes').scrollTop = 0")
    assert told(page) == ""
    page.keyboard.press("ArrowUp")
    assert told(page).startswith("learner-14 · update · step 499")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_needs_no_scrolling_sideways(
    tmp_path: Path, visit: Open, scheme: str
) -> None:
    lines = [*LINES, (f"collector-{'very' * 20}-long", "collect", 2, 5.0, 20.0, 7)]
    size = {"width": 360, "height": 740}
    page = visit(report(tmp_path, lines), viewport=size, color_scheme=scheme)
    page.locator("#lanes").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    assert told(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    box, words = (page.locator(name).bounding_box() for name in ("#lanes", "#piece"))
    assert box["x"] <= words["x"]
    assert words["x"] + words["width"] <= box["x"] + box["width"] + 1


def test_a_browser_that_cannot_unpack_says_so(tmp_path: Path, visit: Open) -> None:
    page = visit(report(tmp_path), before="delete window.DecompressionStream")
    assert "too old to unpack" in page.locator("#processes").get_by_role("alert").inner_text()
    assert page.locator("#processes table").count() == 2
