"""Forkable Gymnasium environments for search agents; importing registers the ids."""

from at2po_envs.core import SearchQA, State, ToolCall, ToolResult, Transition, Turn
from at2po_envs.dialects import Action, At2poTags, Dialect
from at2po_envs.env import ForkableTextEnv, Snapshot
from at2po_envs.errors import At2poEnvError
from at2po_envs.questions import QUESTION_SETS, Question, load_questions
from at2po_envs.registration import register_all
from at2po_envs.scoring import Judgement, judge
from at2po_envs.search_qa import SearchQAEnv
from at2po_envs.spaces import TextSpace
from at2po_envs.tools import SearchTool

__all__ = [
    "QUESTION_SETS",
    "Action",
    "At2poEnvError",
    "At2poTags",
    "Dialect",
    "ForkableTextEnv",
    "Judgement",
    "Question",
    "SearchQA",
    "SearchQAEnv",
    "SearchTool",
    "Snapshot",
    "State",
    "TextSpace",
    "ToolCall",
    "ToolResult",
    "Transition",
    "Turn",
    "judge",
    "load_questions",
]

register_all()
