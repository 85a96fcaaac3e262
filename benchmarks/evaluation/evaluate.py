"""Evaluation: any agent on any environment, many episodes at a time, each of them on record."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gymnasium

from at2po_agents.rollout.agents import Agent
from at2po_agents.rollout.environments import make_env
from at2po_envs import ForkableEnv, Question
from benchmarks.errors import EvaluationError
from benchmarks.evaluation.card import evaluation_card
from benchmarks.evaluation.episode_log import FILE, EpisodeLog, Episodes, Record
from benchmarks.evaluation.episodes import play
from benchmarks.evaluation.folder import EvaluationFolder
from benchmarks.evaluation.summary import Report, summarise
from retrieval.errors import nearest
from retrieval.storage.files import sole_writer

__all__ = ["Report", "evaluate"]

FAILURES_IN_A_ROW = 20
"""Episodes that may fail one after the other before an evaluation stops asking."""


def evaluate(
    agent: Agent,
    env: str | gymnasium.Env[Any, Any] | ForkableEnv,
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
            resumed: what has ended is not played again.
        retry_failed: Play the episodes again that failed in an earlier call.

    Returns:
        The result.

    Raises:
        EvaluationError: If a question is unknown or malformed, there is none, a number is below 1,
            or the folder holds something else or has another writer; and when too many episodes
            fail one after the other, or all of them.
        ReplyError: If the agent does not write one turn for each episode.
    """
    start = time.monotonic()
    options = dict(env_options or {})
    _check_number("batch", batch)
    played = make_env(env, options) if isinstance(env, str) else _unwrapped(env)
    chosen = _choose(played.questions, questions, limit)
    card = evaluation_card(agent, played, options, chosen)
    keys = [question.key for question in chosen]
    with _opened(out, card, keys, retry_failed) as (folder, log):
        missing = [question for question in chosen if question.key not in log]
        in_a_row = 0
        for record in play(agent, played, missing, batch, card["seed"]):
            log[record["question_key"]] = record
            in_a_row = in_a_row + 1 if record["error"] else 0
            if in_a_row == FAILURES_IN_A_ROW:
                raise _failed(f"{in_a_row} episodes in a row", record)
        if folder is not None:
            folder.held.require()
        report = summarise(Episodes(log, keys), card, round(time.monotonic() - start, 3))
        if report.failed == report.questions:
            raise _failed(f"all {report.failed} episodes", report.failures[-1])
        if folder is not None:
            folder.finish(report, len(missing))
    return report


def _unwrapped(env: gymnasium.Env[Any, Any] | ForkableEnv) -> ForkableEnv:
    bare = env.unwrapped if isinstance(env, gymnasium.Env) else env
    if not isinstance(bare, ForkableEnv):
        raise EvaluationError(
            f"expected an at2po_envs.ForkableEnv, found {type(bare).__name__}; pass its Gymnasium "
            "id, and it is played through at2po/Replay-v0"
        )
    return bare


def _failed(which: str, last: Mapping[str, Any]) -> EvaluationError:
    return EvaluationError(
        f"expected an agent that works, found that {which} failed, the last one with "
        f"{last['error']}; mend it, and resume with retry_failed=True (--retry-failed)"
    )


def _choose(
    known: Sequence[Question], ids: Sequence[str] | None, limit: int | None
) -> list[Question]:
    """Return the questions to ask, in order."""
    if isinstance(ids, str):
        raise EvaluationError(f"expected ids of questions in a list, found the text {ids!r:.80}")
    by_id = {question.id: question for question in known}
    for name in ids or ():
        if name not in by_id:
            raise EvaluationError(
                f"expected the id of one of {len(known)} questions, found {name!r}; "
                + nearest(str(name), by_id)
            )
    if limit is not None:
        _check_number("limit", limit)
    chosen = list(known if ids is None else (by_id[name] for name in ids))[:limit]
    if not chosen:
        raise EvaluationError("expected at least one question, found none; name some or no list")
    for question in chosen:
        _check_question(question)
    if len({question.key for question in chosen}) < len(chosen):
        raise EvaluationError("expected each question once, found one twice; leave it out")
    return chosen


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise EvaluationError(f"expected {name} >= 1, found {value!r:.80}; raise it")


def _check_question(question: Question) -> None:
    """Refuse what would end an evaluation after the question was played."""
    known = isinstance(question.metadata, Mapping)
    titles = question.metadata.get("supporting_titles") if known else None
    checks = {
        "a text as id": isinstance(question.id, str),
        "a text as question": isinstance(question.question, str),
        "a list of texts as golden_answers": _are_texts(question.golden_answers),
        "a dict as metadata": known,
        "a list of titles as metadata.supporting_titles": titles is None or _are_texts(titles),
    }
    for expected, holds in checks.items():
        if not holds:
            raise EvaluationError(
                f"question {question.id!r:.80}: expected {expected}, found {question!r:.300} with "
                f"supporting_titles = {titles!r:.80}; mend the question set"
            )


def _are_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


@contextmanager
def _opened(
    out: Path | None, card: Mapping[str, Any], keys: Sequence[str], retry_failed: bool
) -> Iterator[tuple[EvaluationFolder | None, EpisodeLog | dict[str, Record]]]:
    """Open the record of an evaluation, refuse that of another, and note when it began."""
    if out is None:
        yield None, {}
        return
    with sole_writer(out, EvaluationError, what="an evaluation") as held:
        folder = EvaluationFolder(out, card, held)
        with closing(EpisodeLog(out / FILE, without_failures=retry_failed)) as log:
            _check_asked(out, log, keys)
            folder.begin()
            yield folder, log


def _check_asked(out: Path, played: Collection[str], asked: Sequence[str]) -> None:
    if others := set(played).difference(asked):
        raise EvaluationError(
            f"{out}: expected episodes of the {len(asked)} questions asked, found "
            f"{len(others)} of others; ask for those too, or choose another folder"
        )
