"""MiniWiki: an embedded world of questions and passages, generated from a seed."""

from at2po_envs.miniwiki.env import MiniWikiEnv
from at2po_envs.miniwiki.experts import ScriptedAgent
from at2po_envs.miniwiki.wiki import PRESETS, MiniWiki
from at2po_envs.miniwiki.world import World

__all__ = ["PRESETS", "MiniWiki", "MiniWikiEnv", "ScriptedAgent", "World"]
