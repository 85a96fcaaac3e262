"""Episodes of a whole environment, played by an agent of its own; and code in other processes."""

from __future__ import annotations

import os
import subprocess
import sys


def play(env, agent, questions=None):
    """Play questions through `act`, all side by side; return the final transitions."""
    began = [env.core.begin(question) for question in questions or env.questions]
    states = [state for state, _ in began]
    transcripts = [[prompt] for _, prompt in began]
    last = [None] * len(states)
    while running := [i for i, state in enumerate(states) if not state.done]:
        actions = agent.act([transcripts[i] for i in running])
        for i, action in zip(running, actions, strict=True):
            results = env.run_tools(env.core.pending_calls(states[i], action))
            last[i] = env.core.transition(states[i], action, results)
            states[i] = last[i].state
            transcripts[i] += [action, last[i].observation]
    return last


def printed(code, hash_seed):
    """Run code in another process, under a hash seed of its own; return what it prints."""
    path = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": path}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    ).stdout
