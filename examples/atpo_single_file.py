"""AT²PO in one file: tree rollouts, turn-wise credit, turn-level ratios (arXiv 2601.04767).

    python examples/atpo_single_file.py

trains the embedded model on MiniWiki, on a CPU, in some minutes. The environment is used through
Gymnasium, the model through transformers. `tests/test_examples.py` holds that this file chooses the
same turns as the library, gives them the same credit, and has the same loss and gradients. The
library does the same faster: it packs shared prefixes and never waits for the slowest chain.

Numbers of equations are the paper's. Where its released code differs, this file follows the code,
as the library does by default.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

import at2po_envs  # noqa: F401 - registers the environments
from at2po_agents.policy.loading import load_model

CHAINS = 5  # M: chains that start at the prompt
ITERATIONS = 2  # L: expansions of a tree
BEAM = 3  # K: turns sampled again per expansion; a tree ends with M + L*K leaves
PENALTY = 0.05  # alpha: cost of a sibling, in nats
CLIP_LOW, CLIP_HIGH = 3e-3, 4e-3  # bounds of the turn-level ratio around 1
QUESTIONS = 16  # trees per step
MINI_BATCHES = 4  # updates per step; at the first the ratio is 1
LEARNING_RATE = 2e-4
GRAD_CLIP = 1.0
RESPONSE = 512  # most tokens after the prompt, observations included
STOP = ("</search>", "</answer>")  # what ends a turn


# --- The tree: a node is a turn, a root is a prompt ----------------------------------------------


@dataclass(eq=False)
class Node:
    """One turn: what the policy sampled, then what the environment inserted after it."""

    parent: Node | None = None
    sampled: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)  # of `sampled`, when it was sampled
    inserted: list[int] = field(default_factory=list)  # at a root: the prompt
    snapshot: Any = None  # the episode after this turn
    reward: float | None = None  # of the episode that ends here
    correct: bool = False
    value: float = 0.0
    advantage: float = 0.0
    children: list[Node] = field(default_factory=list)

    def add(self) -> Node:
        """Append a turn that is still to be sampled."""
        self.children.append(Node(parent=self))
        return self.children[-1]

    def path(self) -> list[Node]:
        """Return the nodes from the root to this one."""
        return [*(self.parent.path() if self.parent else ()), self]

    def ids(self) -> list[int]:
        """Return all tokens up to the end of this node: never decoded and encoded again."""
        return [token for node in self.path() for token in (*node.sampled, *node.inserted)]

    def entropy(self) -> float:
        """Eq. 2: H(n), the mean of -log p over the tokens that were sampled."""
        return -sum(self.logprobs) / len(self.logprobs) if self.logprobs else 0.0


def nodes_of(root: Node) -> list[Node]:
    """Return the nodes of a tree, breadth first."""
    nodes = [root]
    for node in nodes:
        nodes.extend(node.children)
    return nodes


def leaves_of(root: Node) -> list[Node]:
    """Return the leaves of a tree, breadth first."""
    return [node for node in nodes_of(root) if not node.children]


# --- Rollout: Algorithm 1 ------------------------------------------------------------------------


def grow(policy: Policy, env: Any, questions: Sequence[int]) -> list[Node]:
    """Algorithm 1: M chains per question, then L times the K best turns are sampled again."""
    roots = [plant(policy, env, question) for question in questions]
    play(policy, env, [root.add() for root in roots for _ in range(CHAINS)])
    for _ in range(ITERATIONS):
        play(policy, env, [state.add() for root in roots for state in to_fork(root)])
    return roots


def plant(policy: Policy, env: Any, question: int) -> Node:
    """Begin an episode and keep it as the root of a tree."""
    prompt, _ = env.reset(options={"index": question})
    return Node(inserted=policy.encode(prompt), snapshot=env.snapshot())


def to_fork(root: Node) -> list[Node]:
    """Algorithm 1, line "TopK": the states from which the K best turns are sampled again.

    A turn is a candidate if another one followed it. Its score is H(n) - alpha * siblings; the root
    scores as a turn of entropy 0 (released code). Where there are fewer than K candidates the
    ranking is gone through again. (Turns of the same tokens tie but for the rounding of their
    log-probabilities, which decides here; the library takes the first of them.)
    """

    def state(node: Node) -> Node:  # before the turn; a fork of the root is a fresh chain
        return node.parent or node

    def score(node: Node) -> float:
        return node.entropy() - PENALTY * max(0, len(state(node).children) - 1)

    candidates = [node for node in nodes_of(root) if node.children]
    ranked = sorted(candidates, key=score, reverse=True)  # stable: ties keep breadth-first order
    return [state(ranked[i % len(ranked)]) for i in range(BEAM)]


def play(policy: Policy, env: Any, turns: list[Node], greedy: bool = False) -> None:
    """Play chains to their ends, all of them side by side, one turn at a time."""
    while turns:
        policy.sample(turns, greedy)
        turns = [node.add() for node in turns if goes_on(policy, env, node)]


def goes_on(policy: Policy, env: Any, node: Node) -> bool:
    """Take a sampled turn in the environment; an episode that ends gives the node its reward."""
    env.restore(node.parent.snapshot)  # type: ignore[union-attr]
    text = policy.decode(node.sampled)
    observation, reward, ended, _, info = env.step(text)
    if ended:
        node.reward, node.correct = reward, info["em"]  # MiniWiki pays at the end only
        return False
    node.inserted, node.snapshot = policy.encode(observation), env.snapshot()
    if not text.endswith(STOP) or room(node) < 1:
        node.reward, node.inserted = -1.0, []  # cut off before an answer: a bad format
        return False
    return True


def room(node: Node) -> int:
    """Return how many tokens may still follow a node."""
    return len(node.path()[0].inserted) + RESPONSE - len(node.ids())


class Policy:
    """A causal language model that writes turns."""

    def __init__(self, model: Any, tokenizer: Any, seed: int = 0) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.generator = torch.Generator().manual_seed(seed)
        self.eos = tokenizer.eos_token_id
        pieces = [tokenizer.decode([i]) for i in range(model.config.vocab_size)]
        self.closing = [">" in piece for piece in pieces]  # only these can complete a stop string

    def encode(self, text: str) -> list[int]:
        """Turn text into tokens, none of them control; what was sampled never comes here."""
        plain = {"add_special_tokens": False, "split_special_tokens": True}
        ids: list[int] = self.tokenizer.encode(text, **plain)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Turn sampled tokens into text."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    @torch.no_grad()
    def sample(self, turns: list[Node], greedy: bool = False) -> None:
        """Sample turns to their ends, in one batch that is padded on the left."""
        contexts = [node.parent.ids() for node in turns if node.parent]
        rooms = [room(node.parent) for node in turns if node.parent]
        width = max(map(len, contexts))
        ids = torch.tensor([[0] * (width - len(c)) + c for c in contexts])
        lengths = torch.tensor([[len(c)] for c in contexts])
        mask = (torch.arange(width) >= width - lengths).long()
        cache, running = None, list(range(len(turns)))
        while running:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                logits_to_keep=1,
            )
            logp = out.logits[:, -1].float().log_softmax(-1)
            chosen = logp.argmax(1) if greedy else self.draw(logp)
            picked = logp.gather(1, chosen[:, None])[:, 0].tolist()
            cache, kept = out.past_key_values, []
            for place, (row, token) in enumerate(zip(running, chosen.tolist(), strict=True)):
                node = turns[row]
                node.sampled.append(token)
                node.logprobs.append(picked[place])
                if not self.ended(node.sampled, rooms[row]):
                    kept.append(place)
            if len(kept) < len(running):  # rows that have ended leave the batch
                running = [running[place] for place in kept]
                keep = torch.tensor(kept, dtype=torch.long)
                cache.batch_select_indices(keep)
                chosen, mask = chosen[keep], mask[keep]
            ids = chosen[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], 1)

    def draw(self, logp: Tensor) -> Tensor:
        """Draw one token per row at temperature 1."""
        return torch.multinomial(logp.exp(), 1, generator=self.generator)[:, 0]

    def ended(self, sampled: list[int], room: int) -> bool:
        """Whether a turn is over: end of sequence, stop string, or no room left."""
        if sampled[-1] == self.eos or len(sampled) >= room:
            return True
        return self.closing[sampled[-1]] and self.decode(sampled).endswith(STOP)


# --- Credit: Eq. 3 -------------------------------------------------------------------------------


def assign_credit(root: Node) -> None:
    """Write value and advantage on every node of a complete tree."""
    leaves = leaves_of(root)
    rewards = np.array([leaf.reward for leaf in leaves], np.float64)
    spread = rewards.std()  # population deviation (released code)
    for leaf, reward in zip(leaves, rewards, strict=True):
        # Leaf values: the reward, normalised over the leaves of the tree as GRPO does over a group.
        leaf.value = (reward - rewards.mean()) / (spread + 1e-6) if spread > 0 else 0.0
    for node in reversed(nodes_of(root)):
        if node.children:
            # Eq. 3: V(n) = sum of w(c) V(c) over the children; w is a softmax of their H (released
            # code), where the paper prints H / sum of H.
            powers = [math.exp(child.entropy()) for child in node.children]
            weighted = (p * c.value for p, c in zip(powers, node.children, strict=True))
            node.value = sum(weighted) / sum(powers)
        node.advantage = node.value  # A(n) = f(V) with f the identity: all tokens of the turn


# --- Loss: the turn-level ratio ------------------------------------------------------------------


@dataclass
class Rows:
    """The root-to-leaf rows of a tree: R rows of up to T tokens, padded on the right."""

    ids: Tensor  # [R, T]
    mask: Tensor  # [R, T] 1 where the policy sampled the token
    turn: Tensor  # [R, T] number of the turn, from 0
    advantage: Tensor  # [R, T]
    old: Tensor | None = None  # [R, T] log-probabilities before the first update of the step


def rows_of(root: Node, dtype: torch.dtype = torch.float32) -> Rows:
    """Lay a credited tree out as rows; a shared turn stands in the row of every leaf below it."""
    paths = [leaf.path() for leaf in leaves_of(root)]
    width = max(len(path[-1].ids()) for path in paths)
    shape = (len(paths), width)
    rows = Rows(
        ids=torch.zeros(shape, dtype=torch.long),
        mask=torch.zeros(shape, dtype=dtype),
        turn=torch.zeros(shape, dtype=torch.long),
        advantage=torch.zeros(shape, dtype=dtype),
    )
    for row, path in enumerate(paths):
        ids = path[-1].ids()
        rows.ids[row, : len(ids)] = torch.tensor(ids)
        end = 0
        for number, node in enumerate(path):
            start, stop = end, end + len(node.sampled)
            end = stop + len(node.inserted)
            rows.mask[row, start:stop] = 1
            rows.turn[row, start:stop] = max(0, number - 1)
            rows.advantage[row, start:stop] = node.advantage
    return rows


def logprobs(model: Any, rows: Rows) -> Tensor:
    """Return the log-probability of each token of the rows, [R, T]; 0 at the first one.

    Padding stands on the right, so under causal attention no token that counts can see it.
    """
    logits = model(input_ids=rows.ids, use_cache=False).logits[:, :-1]
    logp = logits.log_softmax(-1).gather(2, rows.ids[:, 1:, None])[..., 0]
    return torch.nn.functional.pad(logp, (1, 0))


def atpo_loss(rows: Rows, logp: Tensor, old: Tensor, total_rows: int) -> Tensor:
    """Return the rows' share of the loss of a mini-batch of `total_rows` rows."""
    # rho_k = mean of log pi - log pi_old over the tokens of turn k.
    delta = (logp.detach() - old) * rows.mask
    turns = int(rows.turn.max()) + 1
    sums = delta.new_zeros(len(delta), turns).scatter_add(1, rows.turn, delta)
    counts = delta.new_zeros(len(delta), turns).scatter_add(1, rows.turn, rows.mask)
    rho = (sums / counts.clamp(min=1)).gather(1, rows.turn)
    # s = exp(log pi - sg[log pi] + sg[rho]): the value is e^rho, the gradient e^rho d log pi.
    ratio = (logp - logp.detach() + rho).clamp(max=10).exp()
    # The clipped surrogate, to be minimised, with its own bound on each side.
    bounded = ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
    terms = torch.maximum(-rows.advantage * ratio, -rows.advantage * bounded)
    # Mean over the sampled tokens of a row, then over the rows of the mini-batch.
    per_row = (terms * rows.mask).sum(1) / rows.mask.sum(1).clamp(min=1)
    return per_row.sum() / total_rows


# --- Training ------------------------------------------------------------------------------------


def update(model: Any, optimizer: torch.optim.Optimizer, roots: Sequence[Node]) -> None:
    """Take one optimizer step per mini-batch; a mini-batch is a number of whole trees."""
    for root in roots:
        assign_credit(root)
    batches = np.array_split(np.arange(len(roots)), MINI_BATCHES)
    laid_out = [rows_of(root) for root in roots]
    with torch.no_grad():
        for rows in laid_out:
            rows.old = logprobs(model, rows)
    for batch in batches:
        total = sum(len(laid_out[i].ids) for i in batch)
        optimizer.zero_grad()
        for i in batch:
            rows = laid_out[i]
            if rows.old is not None and rows.advantage.any():  # else there is nothing to learn
                atpo_loss(rows, logprobs(model, rows), rows.old, total).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        optimizer.step()


def evaluate(policy: Policy, env: Any, questions: int) -> float:
    """Return the share of right answers, one greedy chain per question."""
    roots = [plant(policy, env, question) for question in range(questions)]
    play(policy, env, [root.add() for root in roots], greedy=True)
    return sum(leaf.correct for root in roots for leaf in leaves_of(root)) / questions


def main() -> None:
    """Train and show how the policy does on questions of another world."""
    parser = argparse.ArgumentParser(description="AT²PO in one file, on MiniWiki.")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--eval-questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    model, tokenizer = load_model("mini")
    policy = Policy(model, tokenizer, options.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    env: Any = gymnasium.make("at2po/MiniWiki-v0", split="train").unwrapped
    unseen: Any = gymnasium.make("at2po/MiniWiki-v0", split="test").unwrapped
    order = np.random.default_rng(options.seed).permutation(len(env.questions))
    start = time.monotonic()

    def report(step: int, text: str) -> None:
        minutes = (time.monotonic() - start) / 60
        sys.stdout.write(f"step {step:3}  {text}  ({minutes:.1f} min)\n")
        sys.stdout.flush()

    report(0, f"greedy EM {evaluate(policy, unseen, options.eval_questions):.3f}")
    for step in range(options.steps):
        places = np.arange(step * QUESTIONS, (step + 1) * QUESTIONS) % len(order)
        roots = grow(policy, env, order[places].tolist())
        update(model, optimizer, roots)
        rewards = [leaf.reward for root in roots for leaf in leaves_of(root)]
        report(step + 1, f"reward {np.mean(np.array(rewards, float)):+.3f}")
        if (step + 1) % 5 == 0 or step + 1 == options.steps:
            em = evaluate(policy, unseen, options.eval_questions)
            report(step + 1, f"greedy EM {em:.3f}")


if __name__ == "__main__":
    main()
