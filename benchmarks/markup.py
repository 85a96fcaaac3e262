"""Episodes and rollout trees as HTML; every text of theirs is escaped here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from statistics import pvariance
from typing import Any

from at2po_envs.dialects import extract_boxed

Tree = Mapping[str, Any]
"""What `RolloutTree.to_dict` returns."""

_TAG = re.compile(r"<(/?)(think|search|answer|result)>")
_CALL = re.compile(r"<(?!think>)(\w+)>\s*(.*?)\s*</\1>", re.DOTALL)


def turn(action: str, observation: str) -> str:
    """Show a turn: what the agent wrote and, apart from it, what it was answered."""
    answered = f'<div class="tool">{tagged(observation)}</div>' if observation else ""
    return f'<div class="own">{tagged(action)}</div>{answered}'


def tagged(text: str) -> str:
    """Escape a text and set off its tags and what they enclose.

    Args:
        text: Any text; tags that do not match each other are shown as they are.

    Returns:
        HTML whose visible text is the text, white space at its ends apart.
    """
    parts, inside, place = [], "", 0
    text = text.strip()
    for tag in _TAG.finditer(text):
        closing, name = tag.groups()
        parts.append(escape(text[place : tag.start()]))
        place = tag.end()
        shown = f"<b>{escape(tag.group())}</b>"
        if not closing and not inside:
            inside = name
            shown = f'<span class="{name}">{shown}'
        elif closing and name == inside:
            inside = ""
            shown += "</span>"
        parts.append(shown)
    parts.append(escape(text[place:]) + ("</span>" if inside else ""))
    return "".join(parts)


def episode(record: Mapping[str, Any], *, label: str) -> str:
    """Show an episode: its verdict, and its turns when unfolded.

    Args:
        record: What `ForkableTextEnv.record` returned.
        label: Name of the column, such as "before".

    Returns:
        A `<details>` element.
    """
    verdict = "right" if record["em"] else "wrong"
    answer = record["prediction"]
    said = f"“{answer.strip()}”" if answer is not None else "no answer"
    facts = [_count(record["searches"], "search", "es"), _count(record["turns"], "turn", "s")]
    facts += ["cut off"] if record["truncated"] else []
    facts += [] if record["format_ok"] else ["bad format"]
    turns = "".join(turn(t["action"], t["observation"]) for t in record["transcript"])
    return (
        f'<details class="episode {verdict}"><summary><span class="when">{escape(label)}</span> '
        f'<span class="badge {verdict}">{verdict}</span> <span class="said">{escape(said)}</span> '
        f'<span class="facts">{escape(" · ".join(facts))}</span></summary>{turns}</details>'
    )


def telling(trees: Sequence[Tree]) -> Tree:
    """Return the tree that shows most: rewards that differ most, then most nodes."""

    def score(tree: Tree) -> tuple[float, int]:
        rewards = [node["reward"] for node in tree["nodes"] if node["reward"] is not None]
        return pvariance(rewards), len(tree["nodes"])

    return max(trees, key=score)


def tree(data: Tree, chains: float) -> str:
    """Draw a rollout tree as nested lists; a click on a turn unfolds its text.

    Args:
        data: The tree.
        chains: Children of the root that are no forks.

    Returns:
        A `<ul>` element.
    """
    nodes = data["nodes"]
    children: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes[1:], start=1):
        children[node["parent"]].append(i)
    most = {
        name: max((abs(node[name] or 0) for node in nodes), default=0) or 1
        for name in ("surprisal", "value", "advantage")
    }

    def branch(parent: int) -> str:
        first_fork = 1 if parent else chains
        items = [
            f"<li>{_node(nodes[i], most, fork=place >= first_fork)}{branch(i)}</li>"
            for place, i in enumerate(children[parent])
        ]
        return f"<ul>{''.join(items)}</ul>" if items else ""

    return f'<div class="tree">{branch(0)}</div>'


def _node(node: Mapping[str, Any], most: Mapping[str, float], *, fork: bool) -> str:
    surprisal, reward, info = node["surprisal"], node["reward"], node["info"]
    does = '<span class="chip">fork</span> ' if fork else ""
    does += _does(node["action"])
    does += "" if info.get("format_ok", True) else ' <span class="chip fault">bad format</span>'
    does += ' <span class="chip fault">cut off</span>' if info.get("truncated") else ""
    figures = (
        f'<span class="bar" style="--share:{surprisal / most["surprisal"]:.3f}">'
        f"{surprisal:.2f}</span>{_signed(node['value'], most['value'])}"
        f"{_signed(node['advantage'], most['advantage'])}"
    )
    end = "" if reward is None else f'<span class="badge {_side(reward)}">{reward:g}</span>'
    return (
        f'<details><summary><span class="does">{does}</span>'
        f'<span class="figures">{figures}<span class="end">{end}</span></span></summary>'
        f"{turn(node['action'], node['observation'])}</details>"
    )


def _does(text: str) -> str:
    """Say in a few words what a turn asks for: its first tag that is no thought."""
    found = _CALL.search(text)
    if found is None:
        return "<em>neither call nor answer</em>"
    kind, content = found.groups()
    boxed = extract_boxed(content) if kind == "answer" else None
    return f"<em>{escape(kind)}</em> {escape(content if boxed is None else boxed.strip())}"


def _count(number: int, noun: str, plural: str) -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def _side(reward: float) -> str:
    return "right" if reward > 0 else "wrong" if reward < 0 else "neither"


def _signed(value: float | None, most: float) -> str:
    """Show a number, more strongly coloured the farther it is from 0."""
    if value is None:
        return "<span>–</span>"
    side = "pos" if value >= 0 else "neg"
    return f'<span class="{side}" style="--share:{abs(value) / most:.3f}">{value:+.2f}</span>'
