"""The names of all metrics of a run, with unit and meaning: what `metrics.jsonl` may hold.

`N`, `STAGE`, `ACTOR` and `QUEUE` stand for what differs from run to run.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Metric(NamedTuple):
    """What a metric is.

    Attributes:
        unit: Of its values; "share" is of 1.
        meaning: What is measured, and over what.
    """

    unit: str
    meaning: str


METRICS = {
    "rollout/reward_mean": Metric("reward", "mean over the leaves of all trees of the step"),
    "rollout/em": Metric("share", "leaves whose answer matches exactly"),
    "rollout/format_rate": Metric("share", "leaves whose turns are all well formed"),
    "rollout/search_calls": Metric("calls", "tool calls per leaf"),
    "rollout/turns_mean": Metric("turns", "turns per leaf"),
    "rollout/truncated": Metric("share", "leaves that were cut off by a limit"),
    "rollout/surprisal": Metric("nats", "mean -log p of a turn's tokens, over turns (Eq. 2)"),
    "rollout/trees": Metric("trees", "rolled out, those not learned from included"),
    "rollout/overlong_prompts": Metric("questions", "left out, as their prompts are too long"),
    "rollout/staleness": Metric("updates", "mean age of the weights that sampled a tree"),
    "rollout/dropped": Metric("trees", "dropped so far since they were too old or lost"),
    "rollout/env_failed": Metric("share", "leaves in which the environment failed"),
    "rollout/tool_failed": Metric("share", "leaves in which a tool failed"),
    "eval/em": Metric("share", "greedy episodes whose answer matches exactly"),
    "eval/f1": Metric("share", "mean token F1 of the answers"),
    "eval/format_rate": Metric("share", "episodes whose turns are all well formed"),
    "eval/searches": Metric("calls", "tool calls per episode"),
    "eval/turns": Metric("turns", "turns per episode"),
    "eval/truncated": Metric("share", "episodes that were cut off by a limit"),
    "eval/questions": Metric("questions", "episodes played"),
    "eval/env_failed": Metric("share", "episodes in which the environment failed"),
    "eval/tool_failed": Metric("share", "episodes in which a tool failed"),
    "tokens/sampled": Metric("tokens", "sampled by the policy in the step's rollouts"),
    "tokens/inserted": Metric("tokens", "of prompts and tool results, once per tree node"),
    "tokens/unique": Metric("tokens", "of the trees learned from, shared prefixes once"),
    "tokens/row": Metric("tokens", "the same trees as separate rows"),
    "tokens/trained": Metric("tokens", "that went forward and backward, on all ranks"),
    "policy/loss": Metric("loss", "mean over the optimizer steps taken"),
    "policy/grad_norm": Metric("norm", "of the gradient before clipping, mean over steps"),
    "policy/lr": Metric("rate", "learning rate of the update"),
    "policy/optimizer_steps": Metric("steps", "taken"),
    "policy/skipped": Metric("steps", "not taken: loss or gradient was not finite"),
    "policy/trees": Metric("trees", "learned from"),
    "policy/rows": Metric("rows", "root-to-leaf paths learned from"),
    "policy/zero_variance_trees": Metric("trees", "without any advantage: they teach nothing"),
    "policy/clip_frac": Metric("share", "sampled tokens whose ratio the loss cut off"),
    "policy/clip_frac_turn_N": Metric("share", "the same, in the N-th turn of a row"),
    "policy/approx_kl": Metric("nats", "k3 estimate of KL(old || new) per sampled token"),
    "policy/approx_kl_turn_N": Metric("nats", "the same, in the N-th turn of a row"),
    "policy/entropy": Metric("nats", "mean -log p of sampled tokens under the new policy"),
    "policy/ratio_mean": Metric("ratio", "importance ratio, mean over sampled tokens"),
    "policy/ratio_min": Metric("ratio", "its minimum"),
    "policy/ratio_max": Metric("ratio", "its maximum"),
    "policy/ratio_p01": Metric("ratio", "its 1 % quantile"),
    "policy/ratio_p50": Metric("ratio", "its median"),
    "policy/ratio_p99": Metric("ratio", "its 99 % quantile"),
    "policy/importance_mean": Metric("ratio", "weight pi_old/mu of stale trees, after the cap"),
    "policy/importance_max": Metric("ratio", "largest such weight before the cap"),
    "policy/importance_cut": Metric("share", "sampled tokens whose weight the cap cut off"),
    "policy/h_turn": Metric("share", "how evenly a row's change spreads over its turns"),
    "policy/h_turn_released": Metric("share", "the paper's H_turn as released, to compare with"),
    "time/rollout": Metric("s", "collecting trees"),
    "time/update": Metric("s", "crediting, learning and publishing weights"),
    "time/eval": Metric("s", "greedy evaluation"),
    "time/busy_ACTOR": Metric("share", "of the step in which such processes worked, on average"),
    "time/ACTOR_STAGE_s": Metric("s", "longest that such a process spent in the stage"),
    "time/tokens_per_s_STAGE": Metric("tokens/s", "over all processes in the stage"),
    "time/queue_QUEUE": Metric("items", "length of the queue, mean over time"),
    "time/queue_QUEUE_longest": Metric("items", "largest length of the queue"),
}
"""Name -> unit and meaning; what depends on the machine's speed stands under `time`."""

_PATTERN = re.compile(
    "|".join(re.sub("[A-Z]+", r"[a-z0-9]+(?:_[a-z]+)*?", re.escape(name)) for name in METRICS)
)


def is_known(name: str) -> bool:
    """Whether a metric is in the table; an algorithm of one's own may add others.

    Args:
        name: As in `metrics.jsonl`, what stands under `time` with `time/` before it.
    """
    return _PATTERN.fullmatch(name) is not None


def table() -> str:
    """Return all metrics as a Markdown table."""
    rows = [f"| `{name}` | {unit} | {meaning} |" for name, (unit, meaning) in METRICS.items()]
    return "\n".join(["| metric | unit | meaning |", "| --- | --- | --- |", *rows]) + "\n"
