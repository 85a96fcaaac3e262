"""A browser that opens reports; needs Chromium and Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("AT2PO_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("needs a Chromium: install one, or export AT2PO_CHROMIUM=<its path>")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Opens a report; at the end nothing may have gone wrong, or been asked for elsewhere."""
    wrong: list[str] = []
    requests: list[str] = []
    contexts = []

    def open_page(path: Path, before: str = "", **options: Any) -> Any:
        contexts.append(browser.new_context(offline=True, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.add_init_script(before)
        page.goto(path.as_uri())
        page.wait_for_selector("#detail > *")
        return page

    yield open_page
    pages = len(contexts)
    for context in contexts:
        context.close()
    assert wrong == []
    assert len(requests) == pages
