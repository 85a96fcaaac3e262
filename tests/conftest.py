"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def at2po_data() -> Path:
    """Folder of the question-answering data pack; the test is skipped where there is none."""
    folder = os.environ.get("AT2PO_DATA")
    if not folder:
        pytest.skip("needs the data pack: export AT2PO_DATA=<its folder>")
    return Path(folder)
