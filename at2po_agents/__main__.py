"""`python -m at2po_agents`, which also `torchrun -m` can start: the `at2po` command."""

from at2po_agents.cli import main

main()
