"""The rules of Household: one command a turn until the goal is reached or the turns are used up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from at2po_envs.dialects import At2poTags, Dialect
from at2po_envs.episode.core import running, transition_to
from at2po_envs.episode.rewards import EMReward, Reward
from at2po_envs.episode.state import State, Transition, Turn
from at2po_envs.errors import ToolResultError, check_integer
from at2po_envs.household.commands import COMMANDS, obey
from at2po_envs.household.house import Goal, House, World
from at2po_envs.household.tasks import task_of
from at2po_envs.question_sets.questions import Question
from at2po_envs.scoring.answers import Judgement
from at2po_envs.tools import ToolCall, ToolResult, ToolSpec

ACT = ToolSpec(
    "act",
    f"Carries out one command in the household. Commands: {COMMANDS}.",
    {
        "type": "object",
        "properties": {"command": {"type": "string", "description": "The command."}},
        "required": ["command"],
    },
)

_EMPTY = World(House((), (), (), ()), "", ())
_NO_GOAL = Goal("", 1, "", "")


@dataclass(frozen=True, slots=True)
class HouseholdState(State):
    """An episode in a household.

    Attributes:
        world: The household now; it shares with earlier ones all that no command has changed.
        goal: What is to be done.
        slips: Turns that held no command.
    """

    world: World = field(default=_EMPTY, repr=False)
    goal: Goal = _NO_GOAL
    slips: int = 0


@dataclass(frozen=True)
class HouseholdTags(At2poTags):
    """The tags of AT²PO with one tool, `<act>`, and nothing to answer.

    Args:
        prompt_name: `"tools"` for a prompt that explains the commands, `"brief"` for the bare
            task.
        tools: Always the one.
    """

    prompt_name: str = "tools"
    tools: tuple[ToolSpec, ...] = (ACT,)

    @cached_property
    def templates(self) -> tuple[str, ...]:
        """Commands with a thought to be filled with words."""
        commands = ("look", "inventory", "go kitchen", "open cabinet", "take mug", "put mug on bed")
        return tuple(f"<think> {{}} </think> <act> {command} </act>" for command in commands)

    def prompt(self, question: str) -> str:
        """Return the prompt of a task.

        Args:
            question: The task in words, and what one sees at first.
        """
        if self.prompt_name == "brief":
            return f"Task: {question}\n"
        return (
            "You are in a household and have a task. Each turn, think inside <think> </think>, "
            "then write one command inside <act> </act>; what you notice follows inside <result> "
            "</result>. Things may be hidden in closed furniture. You can hold two things and, "
            "besides, a key. Once the task is done it ends by itself. "
            f"Commands: {COMMANDS}.\nTask: {question}\n"
        )


@dataclass(frozen=True)
class HouseholdRules:
    """The rules; an episode earns 1 in the turn that reaches the goal and 0 in all others.

    Args:
        dialect: How turns are written, for the tool `ACT`.
        max_turns: Turns until an episode ends without success, >= 1; part of the task, so that
            such an end is `terminated`.
        reward: What turns earn; the judgement's `em` is whether the goal is reached, its `f1`
            the share that is.

    Raises:
        ValueError: If `max_turns` is below 1.
    """

    dialect: Dialect = HouseholdTags()
    max_turns: int = 50
    reward: Reward = EMReward()

    def __post_init__(self) -> None:
        """Refuse an episode without turns."""
        check_integer("max_turns", self.max_turns, 1)

    def begin(self, question: Question) -> tuple[HouseholdState, str]:
        """Return the state in which an episode starts, and its first observation.

        Args:
            question: A question of `draw_questions`.

        Raises:
            ValueError: If it is another question.
        """
        task = task_of(question)
        state = HouseholdState(question, world=task.world, goal=task.goal)
        return state, self.dialect.prompt(question.question)

    def pending_calls(self, state: State, action: str) -> tuple[ToolCall, ...]:
        """Return nothing: the rules carry out commands themselves."""
        return ()

    def transition(
        self, state: State, action: str, results: Sequence[ToolResult] = ()
    ) -> Transition:
        """Take one turn: carry out its first command.

        Args:
            state: The episode so far; it stays as it is.
            action: The agent's own text of this turn.
            results: Nothing, as there are no pending calls.

        Returns:
            The next state with observation, reward, flags and info.

        Raises:
            EpisodeOverError: If the episode has ended.
            ToolResultError: If there are results.
            TypeError: If the state is of another world.
        """
        before = running(state, HouseholdState)
        if results:
            raise ToolResultError(f"expected no tool results, found {len(results)}; pass none")
        parsed = self.dialect.parse(action)
        world, answers, slips = before.world, [], before.slips
        for number, call in enumerate(parsed.calls):
            if number:
                text = "Only the first command of a turn is carried out."
            elif call.problem:
                text, slips = call.problem, slips + 1
            else:
                world, text = obey(world, str(call.arguments.get("command", "")))
                if before.goal.progress(world) == 1:
                    text += " The task is done."
            answers.append(ToolResult(True, text))
        if not answers:
            problem = "No command was found, so nothing happens. Give one command a turn."
            answers, slips = [ToolResult(True, problem)], slips + 1
        called = before.tool_calls + (slips == before.slips)
        after = replace(before, world=world, slips=slips, tool_calls=called)
        return self._take(before, after, action, parsed.kind, self.dialect.render(answers))

    def truncate(self, state: State, action: str) -> Transition:
        """End an episode whose last turn ran out of generation budget; nothing is carried out.

        Args:
            state: The episode so far.
            action: What was written of the turn.

        Returns:
            A transition with `truncated` true and `terminated` false.

        Raises:
            EpisodeOverError: If the episode has ended.
            TypeError: If the state is of another world.
        """
        before = running(state, HouseholdState)
        after = replace(before, slips=before.slips + 1)
        kind = self.dialect.parse(action).kind
        return self._take(before, after, action, kind, "", truncated=True)

    def _take(
        self,
        before: HouseholdState,
        after: HouseholdState,
        action: str,
        kind: str,
        observation: str,
        *,
        truncated: bool = False,
    ) -> Transition:
        progress = after.goal.progress(after.world)
        judged = Judgement(None, progress == 1, progress, after.slips == 0)
        after = replace(after, turns=(*before.turns, Turn(action, observation)))
        late = len(after.turns) >= self.max_turns and not judged.em
        done = truncated or judged.em or late
        judgement = judged if done else None
        terms = self.reward(before, after, judgement)
        after = replace(after, done=done, limit_reached=late)
        return transition_to(after, kind, terms, judgement, truncated=truncated)
