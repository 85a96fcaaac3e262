"""The `at2po` command: a file for each group of its commands.

This is the one package that may import every other; nothing imports it. What a command needs is
imported when it runs, so that those without a model start at once.
"""

from at2po_agents.cli.command_line import COMMANDS, main

__all__ = ["COMMANDS", "main"]
