"""The evaluation card: everything that decides what an evaluation's figures mean."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from at2po_agents.rollout.agents import Agent
from at2po_envs import ForkableEnv, Question
from at2po_envs.dialects.messages import messages_of, tools_of
from at2po_envs.episode.protocols import scorer_of
from benchmarks.environment import library_versions, source_commit
from benchmarks.errors import EvaluationError
from retrieval.corpus.passages import corpus_hash
from retrieval.http.errors import IdentityUnknownError
from retrieval.http.messages import Identity, describe
from retrieval.text import to_unicode

_FREE = ("questions", "questions_hash", "commit", "fingerprint")
"""Parts of a card that an evaluation may be continued without agreeing in."""


def evaluation_card(
    agent: Agent, env: ForkableEnv, env_options: Mapping[str, Any], questions: Sequence[Question]
) -> dict[str, Any]:
    """Describe an evaluation before it is run.

    Args:
        agent: Its `name` and `settings` (a JSON-able mapping of all that decides about its
            replies) are put on record where it has them; `searches = False` says that it never
            uses the environment's tools, so that no index needs to be opened.
        env: The environment.
        env_options: Keyword arguments it was made with.
        questions: What is asked, in order.

    Returns:
        The card, JSON-able and free of dates: the same for the same evaluation.

    Raises:
        EvaluationError: If the agent's settings are no mapping, or cannot be written as JSON.
    """
    settings = getattr(agent, "settings", None)
    settings = {} if settings is None else settings
    if not isinstance(settings, Mapping):
        raise EvaluationError(
            f"{agent_name(agent)}: expected a mapping as the agent's settings, found "
            f"{type(settings).__name__}; make it a dict of all that decides about its replies"
        )
    keys = "\n".join(question.key for question in questions)
    prompt = env.core.dialect.prompt("{question}")
    found = {
        "env": env.spec.id if env.spec else type(env).__name__,
        "env_options": env_options,
        "set": _argument(env, "question_set"),
        "split": _argument(env, "split"),
        "questions": len(questions),
        "questions_in_set": len(env.questions),
        "questions_hash": hashlib.sha256(keys.encode("ascii")).hexdigest(),
        **_retrieval(env.tools if getattr(agent, "searches", True) else {}),
        "max_tool_calls": getattr(env.core, "max_tool_calls", None),
        "dialect": type(env.core.dialect).__name__,
        "prompt": str(prompt),
        "prompt_hash": prompt_hash(prompt),
        "scorer_version": scorer_of(env.core).version,
        "agent": agent_name(agent),
        "agent_settings": dict(settings),
        "seed": getattr(agent, "seed", None),
        "versions": library_versions(),
        "commit": source_commit(),
    }
    card = _plain(found, agent_name(agent))
    return card | {"fingerprint": _hash(_fixed(card))}


def differences(card: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return in what two evaluations differ that keeps one from continuing the other.

    Questions may differ, and the source's commit: more questions can be added, and what the commit
    changed in scoring shows in the scorer's version.
    """
    mine, theirs = _fixed(card), _fixed(other)
    return [
        f"{name}: {theirs.get(name)!r:.200} there, {mine.get(name)!r:.200} here"
        for name in sorted({*mine, *theirs})
        if mine.get(name) != theirs.get(name)
    ]


def prompt_hash(prompt: str) -> str:
    """Return the SHA-256 (hex) of a prompt, chat messages and tool schemas included."""
    return _hash([str(prompt), messages_of(prompt), tools_of(prompt)])


def agent_name(agent: Agent) -> str:
    """Return an agent's attribute `name`, or the name of its class."""
    return to_unicode(str(getattr(agent, "name", type(agent).__name__)))


def _retrieval(tools: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what the first tool that searches does it with."""
    tool = next((tool for tool in tools.values() if hasattr(tool, "retriever")), None)
    if tool is None:
        return dict.fromkeys(("retriever", "index_hash", "documents", "corpus_hash", "top_k"))
    retriever = _opened(tool.retriever)
    corpus = getattr(retriever, "passages", None)
    return {
        **asdict(_identity(retriever)),
        "corpus_hash": None if corpus is None else corpus_hash(corpus),
        "top_k": getattr(tool, "top_k", None),
        "passage_chars": getattr(tool, "passage_chars", None),
    }


def _opened(retriever: Any) -> Any:
    """Return what is behind retrievers that open another at the first search, or cache it."""
    while True:
        if hasattr(retriever, "opened"):
            retriever = retriever.opened()
        elif hasattr(retriever, "retriever"):
            retriever = retriever.retriever
        else:
            return retriever


def _identity(retriever: Any) -> Identity:
    """What a retriever is; a server is asked, and a plain Search-R1 server cannot say."""
    if hasattr(retriever, "identity"):
        with suppress(IdentityUnknownError):
            served: Identity = retriever.identity()
            return served
    return describe(retriever)


def _argument(env: ForkableEnv, name: str) -> Any:
    """The value of one of an environment's keyword arguments, its default where none was given."""
    if env.spec and name in env.spec.kwargs:
        return env.spec.kwargs[name]
    parameter = inspect.signature(type(env)).parameters.get(name)
    return None if parameter is None else parameter.default


def _plain(card: Mapping[str, Any], agent: str) -> dict[str, Any]:
    """Return a card as a file of JSON gives it back: equal to what is read to resume."""
    try:
        text = to_unicode(json.dumps(card, default=_named, ensure_ascii=False))
        # JSON has no infinities and nothing that is not a number: their names stand for them.
        plain: dict[str, Any] = json.loads(text, parse_constant=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise EvaluationError(
            f"{agent}: expected settings of agent and environment that can be written as JSON, "
            f"found {error}; make them a dict of plain values"
        ) from None
    return plain


def _named(value: object) -> Any:
    """A path as text, numbers of other libraries as such, an object as the name of its class."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    return str(value) if isinstance(value, Path) else type(value).__name__


def _fixed(card: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a card that must agree, those of nested ones by dotted names."""
    parts: dict[str, Any] = {}
    for name, value in card.items():
        if isinstance(value, Mapping) and value:
            parts |= {f"{name}.{inner}": each for inner, each in value.items()}
        elif name not in _FREE:
            parts[name] = value
    return parts


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
