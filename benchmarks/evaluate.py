"""Evaluation: any agent on any environment, many episodes at a time, each of them on record."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gymnasium

import at2po_envs
from at2po_agents.agents import Agent
from at2po_agents.environments import make_env
from at2po_envs.errors import nearest
from benchmarks.card import card_text, differences, evaluation_card
from benchmarks.episode_log import FILE, EpisodeLog, Episodes, as_json, write_whole
from benchmarks.episodes import play
from benchmarks.errors import EvaluationError
from benchmarks.summary import Report, add_up

__all__ = ["Report", "evaluate"]

FAILURES_IN_A_ROW = 20
"""Episodes that may fail one after the other before an evaluation stops asking."""


def evaluate(
    agent: Agent,
    env: str | gymnasium.Env[Any, Any],
    *,
    env_options: Mapping[str, Any] | None = None,
    questions: Sequence[str] | None = None,
    limit: int | None = None,
    batch: int = 64,
    out: Path | None = None,
    retry_failed: bool = False,
) -> Report:
    """Let an agent answer questions, one episode each.

    Args:
        agent: Writes the turns.
        env: Id of an at2po environment, or the environment itself.
        env_options: Keyword arguments for an environment made from its id; for one that is made
            already they are only put on record.
        questions: Ids of the questions, each once; all of the environment's by default.
        limit: Only the first so many of them, >= 1.
        batch: Episodes that run at a time, >= 1; the results do not depend on it, apart from the
            floating-point noise of a model.
        out: Folder for the records. Where it holds the beginning of the same evaluation, that is
            gone on with, and what has ended is not played again.
        retry_failed: Play the episodes again that failed in an earlier call.

    Returns:
        The result.

    Raises:
        EvaluationError: If a question is unknown, there is none, a number is below 1, or the
            folder holds another evaluation; and when too many episodes fail one after the other.
        ReplyError: If the agent does not write one turn for each episode.
    """
    start = time.monotonic()
    options = dict(env_options or {})
    played: Any = make_env(env, options) if isinstance(env, str) else env.unwrapped
    chosen = _choose(played.questions, questions, limit)
    if batch < 1:
        raise EvaluationError(f"expected batch >= 1, found {batch}; raise it")
    card = evaluation_card(agent, played, options, chosen)
    with _opened(out, card, chosen, retry_failed) as log:
        missing = [question for question in chosen if question.key not in log]
        in_a_row = 0
        for record in play(agent, played, missing, batch):
            log.append(record)
            in_a_row = in_a_row + 1 if record["error"] else 0
            if in_a_row == FAILURES_IN_A_ROW:
                raise EvaluationError(
                    f"expected an agent that works, found {in_a_row} episodes in a row that "
                    f"failed, the last one with {record['error']}; mend it, and go on with "
                    "retry_failed=True (--retry-failed)"
                )
    episodes = Episodes(log, [question.key for question in chosen])
    report = add_up(episodes, card, round(time.monotonic() - start, 3))
    if out is not None:
        _finish(out, report, len(missing))
    return report


def _choose(
    known: Sequence[at2po_envs.Question], ids: Sequence[str] | None, limit: int | None
) -> list[at2po_envs.Question]:
    """Return the questions to ask, in order."""
    by_id = {question.id: question for question in known}
    for name in ids or ():
        if name not in by_id:
            raise EvaluationError(
                f"expected the id of one of {len(known)} questions, found {name!r}; "
                + nearest(name, by_id)
            )
    if ids is not None and len(set(ids)) < len(ids):
        raise EvaluationError("expected each question once, found one twice; leave it out")
    if limit is not None and limit < 1:
        raise EvaluationError(f"expected limit >= 1, found {limit}; raise it or leave it out")
    chosen = list(known if ids is None else (by_id[name] for name in ids))[:limit]
    if not chosen:
        raise EvaluationError("expected at least one question, found none; name some or no list")
    return chosen


@contextmanager
def _opened(
    out: Path | None,
    card: Mapping[str, Any],
    chosen: Sequence[at2po_envs.Question],
    retry_failed: bool,
) -> Iterator[EpisodeLog]:
    """Open the record of an evaluation, refuse that of another, and note when it began."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        _check(out, card)
    log = EpisodeLog(None if out is None else out / FILE, without_failures=retry_failed)
    try:
        if others := set(log.keys()) - {question.key for question in chosen}:
            raise EvaluationError(
                f"{out}: expected episodes of the {len(chosen)} questions asked, found "
                f"{len(others)} of others; ask for those too, or choose another folder"
            )
        if out is not None:
            write_whole(out / "card.json", as_json(card))
            sessions = _sessions(out)
            sessions.append({"started": datetime.now(UTC).isoformat(timespec="seconds")})
            write_whole(out / "timing.json", as_json(_timing(sessions)))
        yield log
    finally:
        log.close()


def _check(out: Path, card: Mapping[str, Any]) -> None:
    path = out / "card.json"
    if not path.exists():
        if (out / FILE).exists() and (out / FILE).stat().st_size:
            raise EvaluationError(
                f"{out}: expected card.json beside {FILE}, found none; choose another folder"
            )
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        found = differences(card, there)
    except (ValueError, AttributeError) as error:
        raise EvaluationError(
            f"{path}: expected the card of an evaluation, found {error}; choose another folder"
        ) from error
    if found:
        raise EvaluationError(
            f"{out}: expected the same evaluation, to go on with it, found one that differs in\n  "
            + "\n  ".join(found)
            + "\nchoose another folder"
        )


def _finish(out: Path, report: Report, played: int) -> None:
    """Write the summary, the card for people, and how long it took."""
    sessions = _sessions(out)
    sessions[-1] |= {"seconds": report.seconds, "episodes": played}
    timing, summary = _timing(sessions), report.summary()
    write_whole(out / "timing.json", as_json(timing))
    write_whole(out / "card.md", card_text(summary, timing))
    write_whole(out / "summary.json", as_json(summary))


def _sessions(out: Path) -> list[dict[str, Any]]:
    path = out / "timing.json"
    if not path.exists():
        return []
    return list(json.loads(path.read_text(encoding="utf-8"))["sessions"])


def _timing(sessions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """When an evaluation ran; a session that was killed has no seconds."""
    return {
        "started": sessions[0]["started"],
        "seconds": round(sum(session.get("seconds", 0.0) for session in sessions), 3),
        "sessions": list(sessions),
    }
