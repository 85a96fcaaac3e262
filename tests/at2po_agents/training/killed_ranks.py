"""`at2po` under torchrun, with ranks that are killed at set moments of their first two lives.

Run as `torchrun … -m tests.at2po_agents.training.killed_ranks FOLDER train …`; FOLDER gets a
file for each life, with the names of the checkpoints that it found.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from at2po_agents import cli
from at2po_agents.learner import checkpoint
from at2po_agents.learner.checkpoint_writing import Draft
from at2po_agents.learner.learner import Learner

LIFE, RANK = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
KILLED_AT = 6  # the second mini-batch of the third step


def die_in_a_step() -> None:
    """Die once the other rank waits for this one's gradient."""
    step, done = Learner._step, []

    def deadly(self: Learner, parts: Any) -> Any:
        done.append(self)
        if len(done) == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, parts)

    Learner._step = deadly  # type: ignore[method-assign]


def die_while_saving() -> None:
    """Die when all of a checkpoint is written but its seal and its name."""
    finish = Draft.finish

    def deadly(self: Draft, **facts: Any) -> Path:
        if self.step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return finish(self, **facts)

    Draft.finish = deadly  # type: ignore[method-assign]


def main() -> None:
    folder, *words = sys.argv[1:]
    if (LIFE, RANK) == (0, 1):
        die_in_a_step()
    if (LIFE, RANK) == (1, 0):
        die_while_saving()
    if RANK == 0:
        out = Path(words[words.index("--out") + 1])
        names = sorted(path.name for path in (out / checkpoint.FOLDER).glob("*"))
        names += sorted(path.name for path in (out / checkpoint.FOLDER).glob(".step_*"))
        (Path(folder) / str(LIFE)).write_text("\n".join(dict.fromkeys(names)))
    cli.main(words)


main()
