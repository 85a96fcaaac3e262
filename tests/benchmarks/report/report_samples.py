"""Small folders to make reports of, full of hostile text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from at2po_agents.tree import RolloutTree

EVIL = "<script>alert('&amp;')</script><!--"
CONFIG = f'env = "{EVIL}"\n\n[algorithm]\nchains = 2\n'
SUMMARY = {
    "algorithm": "atpo",
    "env": "at2po/MiniWiki-v0",
    "model": EVIL,
    "questions": 3,
    "sampled_tokens": 12345,
    "seconds": 3725.0,
    "seed": 7,
    "steps": 2,
}


def record(name: str, em: bool, text: str = "text") -> dict[str, Any]:
    return {
        "question_key": name,
        "question_id": name,
        "question": f"Who is {name}? {EVIL}",
        "golden_answers": [f"gold {name} {EVIL}"],
        "prediction": EVIL if em else None,
        "em": em,
        "format_ok": em,
        "turns": 2,
        "searches": 1,
        "truncated": not em,
        "transcript": [
            {
                "action": f"<think> {text} </think> <search> {EVIL} </search>",
                "observation": f" <result>\n{EVIL}\n</result>",
            },
            {"action": "</answer> <think> never closed", "observation": ""},
        ],
    }


def a_tree(rewards: tuple[float, ...]) -> dict[str, Any]:
    question = {"question": f"Which? {EVIL}", "golden_answers": [EVIL]}
    tree = RolloutTree(question, [0], "prompt")
    first = tree.add(
        tree.root,
        sampled=[1],
        logprobs=[-0.25],
        action=f"<think> a </think> <search> {EVIL} </search>",
        observation=EVIL,
        value=0.5,
        advantage=-0.5,
    )
    for reward in rewards:
        info = {"format_ok": reward > 0, "truncated": reward < 0}
        answer = f"<think> b </think> <answer> \\boxed{{{EVIL}}} </answer>"
        tree.add(first, logprobs=[-1.0], action=answer, reward=reward, info=info)
    return tree.to_dict()


def evaluation(em: float) -> dict[str, float]:
    others = {"f1": 0.5, "format_rate": 0.75, "searches": 1.5, "turns": 2.5, "questions": 3}
    return {"eval/em": em, **{f"eval/{name}": value for name, value in others.items()}}


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_evaluation(folder: Path, records: Sequence[dict[str, Any]], **summary: Any) -> Path:
    """Write what an evaluation leaves behind."""
    write_lines(folder / "episodes.jsonl", records)
    em = sum(each["em"] for each in records) / len(records)
    facts = {"agent": EVIL, "env": "at2po/MiniWiki-v0", "questions": len(records), "em": em}
    (folder / "summary.json").write_text(json.dumps({**facts, "f1": 0.5, **summary}))
    return folder


def training_run(folder: Path) -> Path:
    """Write what a training run of two steps leaves behind."""
    (folder / "config.toml").write_text(CONFIG)
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    rows = [
        {"step": 0, **evaluation(1 / 3)},
        {"step": 1, "rollout/em": None, "tokens/sampled": 5000, "non_finite": ["rollout/em"]},
        {"step": 2, "rollout/em": 0.5, "tokens/sampled": 7345, **evaluation(2 / 3)},
    ]
    write_lines(folder / "metrics.jsonl", rows)
    names = ("Ada", "Bob", "Cy")
    before = [record(name, em, "old") for name, em in zip(names, (True, False, False), strict=True)]
    after = [record(name, em, "new") for name, em in zip(names, (True, True, False), strict=True)]
    write_lines(folder / "episodes/step_000000.jsonl", before)
    write_lines(folder / "episodes/step_000002.jsonl", after)
    write_lines(folder / "trees/step_000001.jsonl", [a_tree((1.0,))])
    write_lines(folder / "trees/step_000002.jsonl", [a_tree((1.0, 1.0)), a_tree((1.0, -1.0, 0.0))])
    return folder


Line = tuple[str, str, int, float, float, int]
"""A line of a time line: actor, stage, step, start, end, tokens."""

LINES: tuple[Line, ...] = (
    ("driver", "wait", 1, 0.0, 4.0, 0),
    ("collector-10", "collect", 1, 1.0, 4.0, 300),
    ("collector-9", "weights", 1, 0.0, 1.0, 0),
    ("collector-9", "collect", 1, 1.0, 3.0, 100),
    ("learner-0", "update", 1, 4.0, 8.0, 1000),
    ("driver", "wait", 2, 8.0, 10.0, 0),
    ("collector-10", "collect", 2, 8.0, 10.0, 200),
    ("learner-0", "update", 2, 10.0, 16.0, 500),
    ("driver", EVIL, 2, 16.0, 16.5, 0),
    ("learner-0", "update", 2, 18.0, 20.0, 600),
)
"""Two steps, the second of which was lost and done again, of four processes in 20 seconds."""

FAULT = {"time": 1795631502.1, "step": 1, "actor": EVIL, "what": f"died {EVIL}", "done": "replaced"}


def write_timeline(folder: Path, lines: Iterable[Line] = LINES) -> None:
    """Write a time line, the last line of which was cut off."""
    with (folder / "timeline.jsonl").open("w") as file:
        for actor, stage, step, start, end, tokens in lines:
            row = {"actor": actor, "stage": stage, "step": step, "start": start, "end": end}
            file.write(json.dumps(row | ({"tokens": tokens} if tokens else {})) + "\n")
        file.write('{"actor": "collector-9", "sta')


def write_status(folder: Path, state: str = "finished", why: str = "", **faults: Any) -> None:
    """Write how a run stands."""
    facts = {"state": state, "step": 2, "why": why, "updated": 1795631535.9, "pid": 7}
    (folder / "status.json").write_text(json.dumps({**facts, "faults": [], **faults}))
