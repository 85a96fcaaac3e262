"""Tools that environments call on behalf of the agent, a whole batch at a time."""

from at2po_envs.tools.base import Tool, ToolCall, ToolResult, ToolSpec
from at2po_envs.tools.runner import ToolRunner, call_tools, check_timeout, hung_calls
from at2po_envs.tools.search import SEARCH, SearchTool

__all__ = [
    "SEARCH",
    "SearchTool",
    "Tool",
    "ToolCall",
    "ToolResult",
    "ToolRunner",
    "ToolSpec",
    "call_tools",
    "check_timeout",
    "hung_calls",
]
