"""A language model as an agent."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from at2po_agents.engines import Engine, Request
from at2po_agents.errors import RequestError
from at2po_agents.policy.encoding import encode_inserted, encode_prompt
from at2po_agents.rollout.agents import Reply, Transcript
from at2po_envs.seeds import stable_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Far more turns than run at a time; an evaluation of any length needs no more memory than these.
_REMEMBERED = 1 << 16


class PolicyAgent:
    """A language model as an agent, under the same budgets as the collector of training.

    It remembers the token ids of the turns that it wrote, so that its own text is never encoded
    again. Only a turn it does not know, written by someone else or very long ago, is encoded, on
    its own like an observation; the ids may then differ from those once sampled.

    Args:
        engine: Samples turns; idle whenever `act` is called.
        tokenizer: The policy's tokenizer.
        stop: Strings that end a turn: the `stop` of the environment's dialect.
        max_prompt_tokens: Longest prompt, in tokens, >= 1.
        max_response_tokens: Most tokens after the prompt, inserted ones included, >= 1.
        context: Most tokens the model can attend to.
        temperature: Sampling temperature; 0 is greedy.
        seed: Seed of the sampling; what a turn draws follows from it and the transcript.
        model: Names the model, for the record.
    """

    name = "react"

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop: tuple[str, ...],
        max_prompt_tokens: int,
        max_response_tokens: int,
        context: int,
        temperature: float = 0.0,
        seed: int = 0,
        model: Mapping[str, object] | None = None,
    ) -> None:
        self.engine, self.tokenizer, self.stop = engine, tokenizer, stop
        self.model = dict(model or {})
        self.max_prompt_tokens = max_prompt_tokens
        self.max_response_tokens = max_response_tokens
        self.context = context
        self.temperature, self.seed = temperature, seed
        self._sampled: dict[tuple[str, ...], list[int]] = {}  # transcript up to a turn -> the turn
        self._calls = 0

    @property
    def settings(self) -> dict[str, object]:
        """All that decides about its turns."""
        return {
            **self.model,
            "decoding": "sampling" if self.temperature else "greedy",
            "temperature": self.temperature,
            "stop": list(self.stop),
            "max_prompt_tokens": self.max_prompt_tokens,
            "max_response_tokens": self.max_response_tokens,
            "context": self.context,
        }

    def act(self, transcripts: Sequence[Transcript]) -> list[Reply]:
        """Sample the next turn of every episode, all of them in one batch.

        Args:
            transcripts: One an episode.

        Returns:
            One reply an episode. Where the last observation leaves no room for a single token it
            is empty and truncated: the observation could not even be read. Where the prompt is
            longer than allowed it has an error, which concerns that episode alone.
        """
        replies = [Reply("", truncated=True)] * len(transcripts)
        # What an earlier call that failed may have left in the engine has other keys.
        self._calls += 1
        requests: dict[Hashable, tuple[int, Request]] = {}
        for number, transcript in enumerate(transcripts):
            try:
                request = self._request((self._calls, number), transcript)
            except RequestError as error:
                replies[number] = Reply("", error=f"RequestError: {error}")
                continue
            if request is not None:
                requests[request.key] = number, request
        self.engine.submit([request for _, request in requests.values()])
        while requests:
            for completion in self.engine.step():
                if completion.key not in requests:
                    continue
                number, request = requests.pop(completion.key)
                self._remember((*transcripts[number], completion.text), completion.ids)
                replies[number] = Reply(
                    completion.text,
                    tokens=len(completion.ids),
                    truncated=completion.finish == "length",
                    prompt_tokens=len(request.ids),
                )
        return replies

    def _request(self, key: tuple[int, int], transcript: Transcript) -> Request | None:
        """Return the request for a transcript's next turn, or None if no room is left for it."""
        ids = self._prompt(transcript[0])
        room = min(len(ids) + self.max_response_tokens, self.context)
        for i in range(1, len(transcript), 2):
            turn = self._sampled.get(tuple(transcript[: i + 1]))
            turn = encode_inserted(self.tokenizer, transcript[i]) if turn is None else turn
            ids += turn + encode_inserted(self.tokenizer, transcript[i + 1], turn)
        room -= len(ids)
        if room < 1 and len(transcript) > 1:
            return None
        seed = stable_hash(self.seed, *transcript)
        return Request(key, ids, seed, room, self.temperature, self.stop)

    def _prompt(self, text: str) -> list[int]:
        ids = encode_prompt(self.tokenizer, text)
        if len(ids) > self.max_prompt_tokens:
            raise RequestError(
                f"expected a prompt of at most {self.max_prompt_tokens} tokens, found {len(ids)}: "
                f"{text[:80]!r}…; raise max_prompt_tokens"
            )
        return ids

    def _remember(self, transcript: tuple[str, ...], ids: list[int]) -> None:
        self._sampled[transcript] = ids
        if len(self._sampled) > _REMEMBERED:
            del self._sampled[next(iter(self._sampled))]
