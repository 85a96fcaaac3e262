"""A small world, and a tokenizer that knows it and the turns that a test file plays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import pytest
import torch

from at2po_agents.training.warmstart import train_tokenizer


@pytest.fixture(scope="module")
def env() -> Any:
    return gymnasium.make("at2po_envs:at2po/MiniWiki-v0", questions=20, passages=100).unwrapped


@pytest.fixture(scope="module")
def tokenizer(env: Any, request: pytest.FixtureRequest) -> Any:
    """The test file names its turns in TURNS."""
    turns = request.module.TURNS
    return train_tokenizer([*turns, *(p.contents for p in env.wiki.corpus)], 400)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As processes have that tests start: equal bits need equal numbers of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
