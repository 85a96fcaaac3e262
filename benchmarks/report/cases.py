"""Cases: a question and the tree of turns that it became, from an episode or a rollout tree."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.errors import RunFolderError
from benchmarks.evaluation.records import ASKED, ENDED, NODE, TREE, Record, check

Pair = tuple["Case | None", ...]
"""The cases of one question, one a side; None where a side lacks the question."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""Surprisal of a token in tenths of a nat, one character each; the last one is 3.5 or more."""


@dataclass(frozen=True)
class Case:
    """A question and how it went.

    Attributes:
        key: What cases of the same question have in common.
        question: Text of the question.
        golden_answers: The answers that count as right.
        nodes: Turns as the explorer reads them, parents first; the first one is the prompt.
            Absent means unknown.
        facts: What an episode says about itself: searches, tokens, F1.
    """

    key: str
    question: str
    golden_answers: Sequence[str]
    nodes: Sequence[dict[str, Any]]
    facts: Record = field(default_factory=dict)

    @property
    def leaves(self) -> list[dict[str, Any]]:
        """The turns that an episode ended with."""
        return [node for node in self.nodes if "right" in node]

    def figures(self) -> dict[str, Any]:
        """Return what the list of questions shows and filters by."""
        leaves = self.leaves
        notes = [note for leaf in leaves for note in leaf.get("notes", ())]
        said = Counter(leaf["said"] for leaf in leaves if leaf.get("said")).most_common(1)
        return {
            "right": sum(leaf["right"] for leaf in leaves),
            "of": len(leaves),
            "turns": len(self.nodes) - 1,
            "said": said[0][0] if said else None,
            "truncated": "truncated" in notes,
            "bad_format": "bad format" in notes,
            "flagged": any(leaf.get("flagged") for leaf in leaves),
            **self.facts,
        }


@dataclass(frozen=True)
class Collection:
    """Questions that are looked at together.

    Attributes:
        name: What they are.
        sides: Names of the runs, one or two.
        pairs: The cases, one a side.
    """

    name: str
    sides: Sequence[str]
    pairs: Sequence[Pair]


def alone(name: str, cases: Iterable[Case]) -> Collection:
    """Return a collection of one run."""
    return Collection(name, (name,), [(case,) for case in cases])


def pair(first: Sequence[Case], second: Sequence[Case]) -> list[Pair]:
    """Put together the cases of the same question; its nth case on one side goes with the nth.

    Args:
        first: Cases of one side.
        second: Cases of the other one.

    Returns:
        Pairs in the order of the first side, then those that the second has alone.
    """
    left, right = _numbered(first), _numbered(second)
    return [(left.get(key), right.get(key)) for key in {**left, **right}]


def _numbered(cases: Sequence[Case]) -> dict[tuple[str, int], Case]:
    seen: Counter[str] = Counter()
    numbered = {}
    for case in cases:
        numbered[case.key, seen[case.key]] = case
        seen[case.key] += 1
    return numbered


def from_episode(record: Record) -> Case:
    """Make a case of an episode: one chain of turns.

    Args:
        record: A line of `episodes.jsonl`.

    Returns:
        The case.
    """
    nodes: list[dict[str, Any]] = [{}]
    for place, turn in enumerate(record["transcript"]):
        nodes.append({"parent": place, **_filled(turn, "action", "observation")})
    error = record.get("error")
    nodes[-1] |= _ending(record, right=bool(record["em"]), said=record.get("prediction"))
    nodes[-1] |= {"notes": [*nodes[-1].get("notes", ()), f"error: {error}"]} if error else {}
    nodes[-1]["flagged"] = bool(record.get("flags") or error)
    return Case(
        _key(record.get("question_id"), record["question"], record["golden_answers"]),
        record["question"],
        record["golden_answers"],
        nodes,
        _filled(record, "searches", "tokens", "f1"),
    )


def check_tree(tree: Record, where: str) -> None:
    """Refuse what is no rollout tree.

    Args:
        tree: A line of a file of trees.
        where: File and line, for the message.

    Raises:
        RunFolderError: If it is none.
    """
    check(TREE, tree, ("question", "nodes"), where, RunFolderError)
    if isinstance(tree["question"], Mapping):
        check(ASKED, tree["question"], ("question",), where, RunFolderError)
    for place, node in enumerate(tree["nodes"]):
        at = f"{where}: node {place}"
        parent = () if place == 0 else ("parent",)
        check(NODE, node, ("inserted", "logprobs", "info", *parent), at, RunFolderError)
        check(ENDED, node["info"], (), at, RunFolderError)
        if (node.get("parent") or 0) >= place > 0 or (place == 0 and node.get("parent")):
            raise RunFolderError(f"{at}: expected its parent before it, found {node['parent']}")


def from_tree(tree: Record, chains: float) -> Case:
    """Make a case of a rollout tree.

    Args:
        tree: What `RolloutTree.to_dict` returned, checked.
        chains: Children of the root that are no forks.

    Returns:
        The case.
    """
    question = tree["question"] if isinstance(tree["question"], Mapping) else {}
    asked = question.get("question", str(tree["question"]))
    golds = question.get("golden_answers", [])
    children: Counter[int | None] = Counter()
    nodes = []
    for node in tree["nodes"]:
        parent = node.get("parent")
        nodes.append(_turn(node, fork=children[parent] >= (1 if parent else chains)))
        children[parent] += 1
    return Case(_key(question.get("id"), asked, golds), asked, golds, nodes)


def _turn(node: Record, *, fork: bool) -> dict[str, Any]:
    turn = _filled(node, "parent", "action", "observation", "value", "advantage", "reward")
    if "advantage" not in turn and node.get("row_advantage") is not None:
        turn["advantage"] = node["row_advantage"]
    turn["read"] = len(node["inserted"])
    if node.get("parent") is not None:
        turn |= {"surprisal": node.get("surprisal"), "tokens": _tokens(node["logprobs"])}
        turn |= {"fork": True} if fork else {}
    if node.get("reward") is not None:
        info = node["info"]
        right = bool(info.get("em", node["reward"] > 0))
        turn |= _ending(info, right=right, said=info.get("answer"))
        turn["flagged"] = bool(info.get("flags"))
    return _finite(turn)


def _ending(facts: Record, *, right: bool, said: Any) -> dict[str, Any]:
    """What there is to say about the end of an episode."""
    notes = ["truncated"] if facts.get("truncated") else []
    notes += [] if facts.get("format_ok", True) else ["bad format"]
    notes += ["limit reached"] if facts.get("limit_reached") else []
    notes += [str(flag).replace("_", " ") for flag in facts.get("flags", ())]
    ending = {"right": right, "said": said and str(said), "notes": notes}
    return {name: fact for name, fact in ending.items() if fact not in (None, "", [])}


def _tokens(logprobs: Sequence[float]) -> str:
    return "".join(_DIGITS[max(0, round(-10 * p))] if p > -3.5 else _DIGITS[-1] for p in logprobs)


def _finite(turn: Mapping[str, Any]) -> dict[str, Any]:
    """Round numbers, and replace those that JSON does not have by a note."""
    lost = [k for k, v in turn.items() if isinstance(v, float) and not math.isfinite(v)]
    kept = {k: round(v, 4) if isinstance(v, float) else v for k, v in turn.items() if k not in lost}
    notes = [*turn.get("notes", ()), *(f"{name} not finite" for name in lost)]
    return {**kept, "notes": notes} if notes else kept


def _filled(record: Record, *names: str) -> dict[str, Any]:
    """Those of a record's entries that say something."""
    return {name: record[name] for name in names if record.get(name) not in (None, "")}


def _key(*parts: Any) -> str:
    return json.dumps(parts, default=str)
