"""The rollout tree: one question, many chains of turns that share their prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, NamedTuple, TypeVar

from at2po_agents.errors import TreeError
from at2po_envs import Outcome, State

T = TypeVar("T")

JsonObject = dict[str, Any]
"""What `json` makes of an object."""


@dataclass(eq=False, slots=True)
class Node:
    """One turn: the tokens the policy sampled, then the text the environment inserted after it.

    The tool result is stored on the turn that caused it, so all children of a node share it once.

    Attributes:
        parent: The turn before, or None for the root.
        index: Position among the parent's children (0 for the root).
        sampled: Token ids drawn from the policy.
        logprobs: Log-probability of each sampled token at sampling time, in nats.
        entropies: Entropy of the whole distribution at each sampled token, in nats; empty unless
            the engine was asked for it.
        inserted: Token ids of the text that follows (prompt ids for the root).
        action: Text of `sampled`.
        observation: Text of `inserted`.
        state: Environment state after the turn.
        finish: Why sampling stopped ("stop", "eos" or "length").
        reward: Return of the episode that ends here; None unless the node is a leaf.
        info: JSON-able facts about the turn, for people: the environment's, and what an expansion
            notes there for itself.
        outcome: How the episode that ends here ended; None unless the node is a leaf.
        value: Estimated return from here on, written by credit assignment.
        advantage: Weight of the turn's tokens in the loss, written by credit assignment.
        row_advantage: On leaves, written by row-level algorithms: replaces `advantage` for
            every turn of the row that ends here.
    """

    parent: Node | None = field(default=None, repr=False)
    index: int = 0
    sampled: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    inserted: list[int] = field(default_factory=list)
    action: str = ""
    observation: str = ""
    state: State | None = field(default=None, repr=False)
    finish: str = ""
    reward: float | None = None
    info: JsonObject = field(default_factory=dict)
    outcome: Outcome | None = None
    value: float | None = None
    advantage: float | None = None
    row_advantage: float | None = None
    children: list[Node] = field(default_factory=list, repr=False)

    @property
    def surprisal(self) -> float:
        """Mean of -log p over the sampled tokens, in nats (0 where nothing was sampled).

        Source: AT2PO (arXiv 2601.04767), Eq. 2, a one-sample estimate of the turn's entropy.
        """
        return -sum(self.logprobs) / len(self.logprobs) if self.logprobs else 0.0

    @property
    def is_leaf(self) -> bool:
        """Whether no turn follows."""
        return not self.children

    @property
    def truncated(self) -> bool:
        """Whether an episode that was cut off ends here."""
        return self.outcome is not None and self.outcome.truncated

    @property
    def depth(self) -> int:
        """Number of turns up to and including this one (0 for the root)."""
        return len(self.path()) - 1

    @property
    def key(self) -> tuple[int, ...]:
        """Child indices from the root to this node: its address within the tree."""
        return tuple(node.index for node in self.path()[1:])

    def path(self) -> list[Node]:
        """Return the nodes from the root to this one, both included."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def ids(self) -> list[int]:
        """Return all token ids from the prompt to the end of this turn's inserted text."""
        return [token for node in self.path() for token in (*node.sampled, *node.inserted)]


# What a node's JSON has of its attributes as they are.
_PLAIN = [
    field.name
    for field in fields(Node)
    if field.name not in {"parent", "index", "state", "info", "outcome", "children"}
]


def leaf_outcome(leaf: Node) -> Outcome:
    """Return how the episode of a leaf ended; TreeError if it has not."""
    return _of_leaf(leaf, leaf.outcome, "an outcome")


def leaf_reward(leaf: Node) -> float:
    """Return the reward of a leaf; TreeError if it has none."""
    return _of_leaf(leaf, leaf.reward, "a reward")


def leaf_state(leaf: Node) -> State:
    """Return the environment's last state; TreeError if there is none, as in a tree from a file."""
    return _of_leaf(leaf, leaf.state, "a state")


def _of_leaf(leaf: Node, value: T | None, what: str) -> T:
    if value is None:
        raise TreeError(
            f"every leaf needs {what}, found none at {leaf.key}; finish the chain first"
        )
    return value


class Row(NamedTuple):
    """One root-to-leaf sequence of tokens."""

    leaf: Node
    ids: list[int]
    sampled: list[bool]


class RolloutTree:
    """All turns sampled for one question; at first only the prompt.

    Args:
        question: What the prompt asks; never inspected here.
        prompt_ids: Token ids of the prompt, at least one.
        prompt_text: The prompt as text.
        state: Environment state before the first turn.

    Raises:
        TreeError: If the prompt is empty.
    """

    def __init__(
        self,
        question: object,
        prompt_ids: Sequence[int],
        prompt_text: str = "",
        state: State | None = None,
    ) -> None:
        if not len(prompt_ids):
            raise TreeError(
                "a rollout tree needs at least one prompt token (it predicts the first sampled "
                "one), found none; render and tokenise the prompt first"
            )
        self.question = question
        self.root = Node(inserted=list(prompt_ids), observation=prompt_text, state=state)

    def add(self, parent: Node, **attributes: Any) -> Node:
        """Append a new child turn to a node.

        Args:
            parent: A node of this tree.
            **attributes: Those that the new node starts with.

        Returns:
            The new node.
        """
        node = Node(parent=parent, index=len(parent.children), **attributes)
        parent.children.append(node)
        return node

    def nodes(self) -> list[Node]:
        """Return all nodes in breadth-first order, root first."""
        nodes = [self.root]
        for node in nodes:
            nodes.extend(node.children)
        return nodes

    def leaves(self) -> list[Node]:
        """Return the nodes without children in breadth-first order."""
        return [node for node in self.nodes() if node.is_leaf]

    def rows(self) -> list[Row]:
        """Return one row per leaf, in the order of `leaves()`."""
        rows = []
        for leaf in self.leaves():
            sampled = [
                flag
                for node in leaf.path()
                for flag in (*[True] * len(node.sampled), *[False] * len(node.inserted))
            ]
            rows.append(Row(leaf, leaf.ids(), sampled))
        return rows

    @property
    def unique_tokens(self) -> int:
        """Number of tokens of the tree, shared prefixes counted once."""
        return sum(len(node.sampled) + len(node.inserted) for node in self.nodes())

    def to_dict(self) -> dict[str, object]:
        """Return the tree as JSON-able data, without environment states.

        Returns:
            `{"question", "nodes"}`; nodes in breadth-first order, each with its parent's position
            in the list (None for the root), its surprisal, and the attributes of `Node`; a leaf's
            outcome is part of its info.
        """
        nodes = self.nodes()
        position = {node: i for i, node in enumerate(nodes)}
        question = self.question
        if is_dataclass(question) and not isinstance(question, type):
            question = asdict(question)
        return {
            "question": question,
            "nodes": [
                {
                    "parent": None if node.parent is None else position[node.parent],
                    "surprisal": node.surprisal,
                    **{name: getattr(node, name) for name in _PLAIN},
                    "info": node.info | (node.outcome.info() if node.outcome else {}),
                }
                for node in nodes
            ],
        }

    @classmethod
    def from_dict(cls, data: JsonObject) -> RolloutTree:
        """Rebuild a tree from `to_dict()`; environment states are None.

        Args:
            data: What `to_dict` returned, possibly after a trip through JSON.

        Returns:
            The tree; its question is what JSON made of it.
        """
        root, *rest = data["nodes"]
        tree = cls(data["question"], root["inserted"])
        tree.root = Node(**_fields(root))
        nodes = [tree.root]
        for entry in rest:
            nodes.append(tree.add(nodes[entry["parent"]], **_fields(entry)))
        return tree


def _fields(entry: JsonObject) -> JsonObject:
    """Return the attributes of a node from its JSON."""
    info = entry.get("info", {})
    outcome = Outcome.from_info(info) if "em" in info else None
    known = {name: entry[name] for name in _PLAIN if name in entry}
    return known | {"info": info, "outcome": outcome}
