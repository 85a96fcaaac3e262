"""An agent's replies, checked where they enter an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

from at2po_agents.errors import AgentUnusableError
from at2po_agents.rollout.agents import Agent, Reply
from benchmarks.errors import ReplyError
from benchmarks.evaluation.card import agent_name
from retrieval.text import to_terminal, to_unicode

_log = logging.getLogger(__name__)

_LONGEST_ERROR = 2000  # characters of an error that are kept
_MOST = 10**12  # tokens or dollars of a turn: more is a mistake


def _counts(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) <= _MOST


def _amounts(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= _MOST


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "text": ("a str", _is(str)),
    "tokens": ("a number of tokens", _counts),
    "truncated": ("True or False", _is(bool)),
    "prompt_tokens": ("a number of tokens", _counts),
    "cost": ("a finite number of dollars", _amounts),
    "error": ("a str", _is(str)),
}
"""Fields of a `Reply`, what is expected of them, and the test of it."""


def ask(agent: Agent, transcripts: Sequence[Sequence[str]]) -> list[Reply]:
    """Ask for the next turns; where that fails, for one at a time, so that the others do not fail.

    Args:
        agent: Writes the turns.
        transcripts: One an episode.

    Returns:
        One reply an episode, its text a plain `str`; with an error where the agent raised one.

    Raises:
        ReplyError: If the agent returns anything but a turn for each episode.
        AgentUnusableError: If the agent says that it cannot write any.
    """
    name = agent_name(agent)
    try:
        replies = _listed(name, agent.act(list(transcripts)))
    except (AgentUnusableError, ReplyError):
        raise
    except Exception as error:  # agents are foreign code
        if len(transcripts) > 1:
            return [reply for each in transcripts for reply in ask(agent, [each])]
        reply = Reply("", error=_said(error))
        _log.warning("an episode failed: %s", to_terminal(reply.error))
        _log.debug("an episode failed", exc_info=True)
        return [reply]
    if len(replies) != len(transcripts):
        raise ReplyError(
            f"{name}: expected {len(transcripts)} turns, one an episode, found {len(replies)}; let "
            "act return one for each transcript"
        )
    return [_reply(name, reply) for reply in replies]


def _listed(name: str, replies: Any) -> list[Any]:
    if not isinstance(replies, Sequence) or isinstance(replies, str | bytes | bytearray):
        raise ReplyError(
            f"{name}: expected a list of turns, one an episode, found "
            f"{type(replies).__name__}; let act return a list"
        )
    return list(replies)


def _reply(name: str, reply: Any) -> Reply:
    if isinstance(reply, str):
        return Reply(_plain(reply))
    if not isinstance(reply, Reply):
        raise ReplyError(
            f"{name}: expected a str or Reply as turn, found {type(reply).__name__}; let act "
            "return what is written, or an at2po_agents.rollout.agents.Reply"
        )
    for field, (expected, holds) in _FIELDS.items():
        if not _passes(holds, value := getattr(reply, field)):
            raise ReplyError(
                f"{name}: expected {expected} as {field} of a Reply, found {_shown(value)}; leave "
                "out what nobody counts"
            )
    return replace(
        reply,
        text=_plain(reply.text),
        tokens=int(reply.tokens),
        prompt_tokens=int(reply.prompt_tokens),
        cost=float(reply.cost),
        error=to_unicode(_plain(reply.error))[:_LONGEST_ERROR],
    )


def _passes(holds: Callable[[Any], bool], value: Any) -> bool:
    try:
        return holds(value)
    except Exception:  # a foreign number type, or a number too large for a float
        return False


def _plain(text: str) -> str:
    """The characters of a text, whatever a subclass makes of them."""
    return str.__str__(text)


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80} ({type(value).__name__})"
    except Exception:  # a foreign repr
        return type(value).__name__


def _said(error: Exception) -> str:
    """Type and text of an error."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # a foreign error whose text cannot be had
        text = type(error).__name__
    return to_unicode(text)[:_LONGEST_ERROR]
