"""The `at2po` command, which `python -m at2po_agents` and `torchrun -m` start as well."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command of this process.

    Before it begins and after it has said how it ended, Ctrl-C ends the process without a message.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from at2po_agents.cli import main as run  # which takes a moment

    run()


if __name__ == "__main__":
    main()
