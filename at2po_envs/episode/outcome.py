"""How an episode ended, as typed fields; `info` dictionaries stay as Gymnasium wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from at2po_envs.errors import OutcomeError

_SCORES = ("em", "f1", "format_ok")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an episode.

    Attributes:
        em: Whether it succeeded: exact match of the answer, in worlds that ask for one.
        f1: Token F1 of the answer, or the share of the goal that was reached, in [0, 1].
        format_ok: Whether every turn was well-formed.
        answer: What was answered; None for no answer, and in worlds without answers.
        tool_calls: Calls made, bad ones included, those over the limit not.
        turns: Turns taken.
        limit_reached: Whether the limit of calls or turns was reached.
        truncated: Whether the episode was cut off.
        flags: What went wrong outside the agent, e.g. `"tool_failed"`.
        dropped_tokens: Tokens of a last observation that a rollout had no room to read.
    """

    em: bool
    f1: float
    format_ok: bool
    answer: str | None = None
    tool_calls: int = 0
    turns: int = 0
    limit_reached: bool = False
    truncated: bool = False
    flags: tuple[str, ...] = ()
    dropped_tokens: int = 0

    @classmethod
    def from_info(
        cls, info: Mapping[str, Any], *, truncated: bool | None = None, dropped_tokens: int = 0
    ) -> Outcome:
        """Read the `info` of the step that ended an episode, or what `info` wrote of one.

        Args:
            info: `em`, `f1` and `format_ok` must be there; the rest defaults as the fields.
            truncated: Whether the episode was cut off; None takes what `info` says.
            dropped_tokens: See above; what `info` says counts where this is 0.

        Raises:
            OutcomeError: If a score is missing, or `em` is neither true nor false.
        """
        missing = [name for name in _SCORES if name not in info]
        if missing:
            raise OutcomeError(
                f"expected info with {', '.join(_SCORES)} at the end of an episode, found none of "
                f"the name {missing[0]!r} among {sorted(info)}; let the core's transition add it"
            )
        if info["em"] not in (False, True):
            raise OutcomeError(
                f"expected em to be true or false, found {info['em']!r}; partial success is f1"
            )
        return cls(
            em=bool(info["em"]),
            f1=float(info["f1"]),
            format_ok=bool(info["format_ok"]),
            answer=info.get("answer"),
            tool_calls=info.get("tool_calls", 0),
            turns=info.get("turns", 0),
            limit_reached=bool(info.get("limit_reached", False)),
            truncated=bool(info.get("truncated", False)) if truncated is None else truncated,
            flags=tuple(info.get("flags", ())),
            dropped_tokens=dropped_tokens or info.get("dropped_tokens", 0),
        )

    def info(self) -> dict[str, Any]:
        """Return the fields as an `info` has them, from which `from_info` reads them again."""
        info = {
            "answer": self.answer,
            "em": self.em,
            "f1": self.f1,
            "format_ok": self.format_ok,
            "tool_calls": self.tool_calls,
            "turns": self.turns,
            "limit_reached": self.limit_reached,
            "truncated": self.truncated,
            "flags": self.flags,
        }
        return info | ({"dropped_tokens": self.dropped_tokens} if self.dropped_tokens else {})
