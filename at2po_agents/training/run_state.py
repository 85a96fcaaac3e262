"""How far a training run has come."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from at2po_agents.errors import CheckpointError
from at2po_agents.learner import checkpoint


@dataclass
class RunState:
    """How far a run has come; saved in every checkpoint.

    Attributes:
        step: Steps done.
        questions: Questions rolled out in training.
        sampled_tokens: Tokens sampled in training.
        seconds: Time spent, evaluations included.
        skipped: Steps skipped in a row, up to now.
        threads: Threads that this process computes with: results repeat for a number of them.
    """

    step: int = 0
    questions: int = 0
    sampled_tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    threads: int = 0

    @classmethod
    def of(cls, found: checkpoint.Checkpoint) -> RunState:
        """Return what a checkpoint says, or raise `CheckpointError`."""
        extra, known = found.extra, asdict(cls())
        kinds = (int, float)
        if not {"step"} <= extra.keys() <= known.keys() or any(
            type(n) not in kinds for n in extra.values()
        ):
            raise CheckpointError(
                f"{found.path}: expected the numbers {', '.join(known)}, found {extra}; go on with "
                "the version of at2po that wrote it"
            )
        return cls(**extra)
