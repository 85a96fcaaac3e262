"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("at2po", deadline=None)
settings.load_profile("at2po")


@pytest.fixture(scope="session")
def at2po_data() -> Path:
    """Folder of the question-answering data pack; the test is skipped where there is none."""
    folder = os.environ.get("AT2PO_DATA")
    if not folder:
        pytest.skip("needs the data pack: export AT2PO_DATA=<its folder>")
    return Path(folder)
