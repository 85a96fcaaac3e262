"""Episodes of a whole environment, played by an agent of its own."""

from __future__ import annotations


def play(env, agent):
    """Play all questions through `act`; return the final transitions."""
    last = []
    for question in env.questions:
        state, prompt = env.core.begin(question)
        transcript = [prompt]
        while not state.done:
            (action,) = agent.act([transcript])
            results = env.run_tools(env.core.pending_calls(state, action))
            taken = env.core.transition(state, action, results)
            state = taken.state
            transcript += [action, taken.observation]
        last.append(taken)
    return last
