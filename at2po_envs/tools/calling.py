"""One call of a tool, and what becomes of what it raises or returns."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Sequence

from at2po_envs.errors import At2poEnvError, ToolResultError
from at2po_envs.tools.base import Tool, ToolCall, ToolResult
from retrieval import RetrievalError
from retrieval.http.errors import TemporaryRemoteError

_log = logging.getLogger(__name__)


def call_tool(tool: Tool, calls: Sequence[ToolCall]) -> list[ToolResult]:
    """Let a tool carry out calls in this thread; whatever it raises fails no other call.

    Args:
        tool: The tool.
        calls: Calls of this tool, at least one.

    Returns:
        Their results; where the tool raises at all of them together, each is made alone.

    Raises:
        ToolResultError: If the tool does not return one result per call.
        At2poEnvError: If the tool raises one: no episode could go well.
        RetrievalError: Likewise.
    """
    try:
        answers = tool([call.arguments for call in calls])
    except BaseException as error:  # a tool may be remote and fail in any way; the episode goes on
        lasting = isinstance(error, At2poEnvError | RetrievalError) or is_from_signal(error)
        if lasting and not isinstance(error, TemporaryRemoteError):
            raise
        if len(calls) > 1 and not isinstance(error, TemporaryRemoteError):
            # What one of them asked for may be all that is wrong.
            return [result for call in calls for result in call_tool(tool, [call])]
        name = tool.spec.name
        _log.warning("tool %s failed for %d calls", name, len(calls), exc_info=True)
        return [ToolResult(False, "", f"The {name} tool failed. Try again.")] * len(calls)
    if not isinstance(answers, list) or not all(map(_is_result, answers)):
        raise ToolResultError(
            f"expected a list of ToolResult with texts from tool {tool.spec.name!r}, found "
            f"{answers!r:.200}; mend the tool"
        )
    if len(answers) != len(calls):
        raise ToolResultError(
            f"expected {len(calls)} results of tool {tool.spec.name!r}, found {len(answers)}"
        )
    return answers


def _is_result(answer: object) -> bool:
    return isinstance(answer, ToolResult) and all(
        isinstance(text, str) for text in (answer.text, answer.error)
    )


def is_from_signal(error: BaseException) -> bool:
    """Whether this process is told to end; a tool that calls `sys.exit` itself has only failed."""
    if threading.current_thread() is not threading.main_thread():
        return False
    if isinstance(error, SystemExit):
        return error.code in (signal.SIGTERM, 128 + signal.SIGTERM)
    return isinstance(error, KeyboardInterrupt)
