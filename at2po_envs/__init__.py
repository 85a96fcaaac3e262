"""Forkable Gymnasium environments for search agents; importing registers the ids."""

from at2po_envs.dialects import (
    DIALECTS,
    Action,
    At2poTags,
    Dialect,
    Messages,
    Reading,
    SearchR1Tags,
    ToolCalls,
    make_dialect,
)
from at2po_envs.episode.core import ToolQA, transition_to
from at2po_envs.episode.env import ForkableTextEnv
from at2po_envs.episode.outcome import Outcome
from at2po_envs.episode.protocols import Core, ForkableEnv
from at2po_envs.episode.rewards import (
    EMReward,
    F1Reward,
    FormatReward,
    PaperReward,
    Reward,
    ToolCost,
    WeightedSum,
)
from at2po_envs.episode.snapshots import Snapshot
from at2po_envs.episode.spaces import TextSpace
from at2po_envs.episode.state import State, Transition, Turn
from at2po_envs.episode.vector import ForkableVectorEnv, vectorised
from at2po_envs.errors import At2poEnvError
from at2po_envs.forking.checker import ForkabilityError, check_forkable_env
from at2po_envs.forking.replay import ReplayError, ReplayFork
from at2po_envs.question_sets.questions import QUESTION_SETS, Question, load_questions
from at2po_envs.registration import register_all
from at2po_envs.scoring.answers import Judgement, judge, numeric_match
from at2po_envs.search_qa.env import SearchQAEnv
from at2po_envs.tool_env import ToolEnv
from at2po_envs.tools import SearchTool, Tool, ToolCall, ToolResult, ToolSpec
from at2po_envs.tools.calculator import CalculatorTool
from at2po_envs.tools.functions import function_tool
from at2po_envs.tools.pages import page_tools

__all__ = [
    "Action",
    "At2poEnvError",
    "At2poTags",
    "CalculatorTool",
    "Core",
    "DIALECTS",
    "Dialect",
    "EMReward",
    "F1Reward",
    "ForkabilityError",
    "ForkableEnv",
    "ForkableTextEnv",
    "ForkableVectorEnv",
    "FormatReward",
    "Judgement",
    "Messages",
    "Outcome",
    "PaperReward",
    "QUESTION_SETS",
    "Question",
    "Reading",
    "ReplayError",
    "ReplayFork",
    "Reward",
    "SearchQAEnv",
    "SearchR1Tags",
    "SearchTool",
    "Snapshot",
    "State",
    "TextSpace",
    "Tool",
    "ToolCall",
    "ToolCalls",
    "ToolCost",
    "ToolEnv",
    "ToolQA",
    "ToolResult",
    "ToolSpec",
    "Transition",
    "Turn",
    "WeightedSum",
    "check_forkable_env",
    "function_tool",
    "judge",
    "load_questions",
    "make_dialect",
    "numeric_match",
    "page_tools",
    "transition_to",
    "vectorised",
]

register_all()
