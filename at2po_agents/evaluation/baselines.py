"""What a search agent must beat: random actions, answering without search, and searching once."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from at2po_agents.errors import EnvironmentNotFoundError
from at2po_agents.rollout.agents import Agent, Described, Reply, Seeded, Transcript
from at2po_envs import ForkableEnv, Messages, Question
from at2po_envs.seeds import stable_hash

_DIRECT = (
    "Answer the question from what you know. There are no tools: do not search. Write your "
    "reasoning and your answer in this form:\n{form}\n\nQuestion: {question}\n"
)
_RAG = (
    "Answer the question with the help of these search results. There are no tools: do not search "
    "again. Write your reasoning and your answer in this form:\n{form}\n\n{passages}\n\n"
    "Question: {question}\n"
)
_DIRECT_PLAIN = (
    "Answer the question from what you know, in a few words, and write nothing else.\n\n"
    "Question: {question}\n"
)
_RAG_PLAIN = (
    "Answer the question with the help of these search results, in a few words, and write nothing "
    "else.\n\n{passages}\n\nQuestion: {question}\n"
)


class RandomAgent:
    """Draws well-formed turns of random words from the environment's action space.

    Args:
        env: The environment.
        seed: Seed of the draws; what is drawn follows from it and the transcript.
    """

    name = "random"

    def __init__(self, env: ForkableEnv, seed: int = 0) -> None:
        self.seed, self._space = seed, copy.copy(env.action_space)

    def act(self, transcripts: Sequence[Transcript]) -> list[str]:
        """Draw the next turn of every episode."""
        turns = []
        for transcript in transcripts:
            self._space.seed(stable_hash(self.seed, *transcript))
            turns.append(str(self._space.sample()))
        return turns


class DirectAgent:
    """Answers in one call of a model, without search; what it writes is judged as usual.

    A search that the model writes all the same is not carried out: the turn then counts as cut off.

    Args:
        writer: Writes the answer: a policy, an endpoint, or whatever acts on a transcript.
        env: The environment whose questions it is asked.
        plain: Ask for the answer alone, and take all that is written for it, where it has no form:
            for models that do not follow one.

    Raises:
        EnvironmentNotFoundError: If the environment's dialect has no form for an answer.
    """

    name = "direct"
    searches = False
    template, plain_template = _DIRECT, _DIRECT_PLAIN

    def __init__(self, writer: Agent, env: ForkableEnv, *, plain: bool = False) -> None:
        self.writer, self.env, self.plain = writer, env, plain
        self.seed = writer.seed if isinstance(writer, Seeded) else None
        self._answer = self._template("answer")
        self.form = self._answer.format("...")
        self._end = self.form.split()[-1]
        self.template = self.plain_template if plain else self.template

    @property
    def settings(self) -> dict[str, object]:
        """All that decides about its answers."""
        writer = self.writer.settings if isinstance(self.writer, Described) else {}
        return {**writer, "own_prompt": self.template.replace("{form}", self.form)}

    def act(self, transcripts: Sequence[Transcript]) -> list[Reply]:
        """Answer every question in a call each."""
        return self._answers([self._prompt(each[0]) for each in transcripts])

    def _prompt(self, first: str, passages: str = "") -> tuple[str]:
        question = self._questions[first].question
        text = self.template.format(form=self.form, question=question, passages=passages)
        # A model with a chat template gets it as one message of the user.
        return (Messages(text, [{"role": "user", "content": text}]),)

    def _answers(self, prompts: Sequence[tuple[str]]) -> list[Reply]:
        replies = []
        for reply in self.writer.act(prompts) if prompts else ():
            reply = Reply(reply) if isinstance(reply, str) else reply
            action = self.env.core.dialect.parse(reply.text)
            searches = action.kind == "tool" and not all(call.problem for call in action.calls)
            formed = action.kind == "answer" and self._end in reply.text
            if self.plain and not (searches or formed):
                reply = replace(reply, text=self._answer.format(reply.text.strip()))
            elif action.kind == "tool":
                reply = replace(reply, truncated=True)
            replies.append(reply)
        return replies

    def _template(self, kind: str) -> str:
        """The dialect's form of an answer, or of a search."""
        dialect = self.env.core.dialect
        for template in dialect.templates:
            action = dialect.parse(template.format("x"))
            if action.kind == kind and all(call.tool == "search" for call in action.calls):
                return template
        raise EnvironmentNotFoundError(
            f"expected an environment in which one can {'search' if kind == 'tool' else kind}, "
            f"found the dialect {type(dialect).__name__}; choose another environment or agent"
        )

    @cached_property
    def _questions(self) -> dict[str, Question]:
        return {self.env.core.begin(question)[1]: question for question in self.env.questions}


class RagAgent(DirectAgent):
    """Searches once, with the question itself, and answers in one call of a model.

    The search is its first turn in the environment, so that retriever, number of passages, counts
    and record are those of every other agent.
    """

    name = "rag"
    searches = True
    template, plain_template = _RAG, _RAG_PLAIN

    def __init__(self, writer: Agent, env: ForkableEnv, *, plain: bool = False) -> None:
        super().__init__(writer, env, plain=plain)
        self._search = self._template("tool")

    def act(self, transcripts: Sequence[Transcript]) -> list[Reply]:
        """Search where an episode begins, answer where it has its passages."""
        asked = [each for each in transcripts if len(each) > 1]
        prompts = [self._prompt(each[0], str(each[2]).strip()) for each in asked]
        answers = iter(self._answers(prompts))
        return [
            next(answers) if len(each) > 1 else Reply(self._query(each[0])) for each in transcripts
        ]

    def _query(self, first: str) -> str:
        """The turn that searches for a question, quoted for dialects that write JSON."""
        question = self._questions[first].question
        for text in (question, json.dumps(question)[1:-1]):
            turn = self._search.format(text)
            calls = self.env.core.dialect.parse(turn).calls
            if [dict(call.arguments) for call in calls] == [{"query": question.strip()}]:
                return turn
        return self._search.format(question)  # the environment will say what is wrong with it
