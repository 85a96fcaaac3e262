"""Registration of the environment ids with Gymnasium."""

from __future__ import annotations

import gymnasium

from at2po_envs.questions import QUESTION_SETS


def register_all() -> None:
    """Register ``at2po/<set>-v0`` for the seven question sets, and ``at2po/MiniWiki-v0``."""
    for name, question_set in QUESTION_SETS.items():
        gymnasium.register(
            id=f"at2po/{name}-v0",
            entry_point="at2po_envs.search_qa:SearchQAEnv",
            kwargs={"question_set": question_set},
        )
    gymnasium.register(id="at2po/MiniWiki-v0", entry_point="at2po_envs.miniwiki:MiniWikiEnv")
