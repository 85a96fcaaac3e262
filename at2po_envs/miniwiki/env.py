"""The Gymnasium environment of MiniWiki."""

from __future__ import annotations

from typing import Any

from at2po_envs.dialects import At2poTags
from at2po_envs.episode.core import ToolQA
from at2po_envs.episode.env import ForkableTextEnv
from at2po_envs.miniwiki.experts import ScriptedAgent
from at2po_envs.miniwiki.wiki import MiniWiki
from at2po_envs.seeds import Split
from at2po_envs.tools import SearchTool


class MiniWikiEnv(ForkableTextEnv):
    """Answer questions about a generated world by searching its passages.

    Args:
        preset: Name in `PRESETS`.
        split: `"train"` or `"test"`; worlds of different splits share no name.
        seed: Which world.
        prompt: `"brief"` or `"paper"`.
        max_tool_calls: Searches per episode, >= 0.
        render_mode: None or `"ansi"`.
        **settings: Further fields of `MiniWiki` that differ from the preset.

    Raises:
        UnknownNameError: If there is no such preset, setting, prompt or render mode.
        ValueError: If a setting is out of range.
    """

    core: ToolQA

    def __init__(
        self,
        preset: str = "demo",
        split: Split = "train",
        seed: int = 0,
        *,
        prompt: str = "brief",
        max_tool_calls: int = 6,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        """Generate the questions; passages are written and indexed when they are first read."""
        self.wiki = MiniWiki.preset(preset, split=split, seed=seed, **settings)
        super().__init__(
            ToolQA(At2poTags(prompt), max_tool_calls),
            self.wiki.question_list,
            [SearchTool(self.wiki, self.wiki.results)],
            render_mode=render_mode,
        )

    def expert(
        self, *, error_rate: float = 0.0, haste: float = 0.0, seed: int = 0
    ) -> ScriptedAgent:
        """Return the scripted agent of this world.

        Args:
            error_rate: Chance that one of its turns goes wrong; 0 plays perfectly.
            haste: Chance that it answers although the question needs another search.
            seed: Seed of the errors.

        Returns:
            An agent that knows every question of this environment.
        """
        return ScriptedAgent(
            self.wiki.world,
            self.questions,
            self.core,
            error_rate=error_rate,
            haste=haste,
            seed=seed,
        )
