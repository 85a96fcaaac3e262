"""Warm start: a small tokenizer and language model, taught by the scripted agent that errs.

The result is the mini model of the demo; nothing here is needed to train an existing model.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from at2po_agents.config.warmstart import WarmStart
from at2po_agents.errors import CheckpointError
from at2po_agents.policy.encoding import encode_inserted
from at2po_agents.rollout.agents import Reply, Transcript, play_agent
from at2po_agents.rollout.environments import make_env
from at2po_envs.scripted import WithExpert
from retrieval.storage.files import sole_writer

_log = logging.getLogger(__name__)

END = "<|endoftext|>"
FIRST_WORLD = 1000
"""Seed of the first demonstrated world; the demo trains and tests on worlds of smaller seeds."""

# A tag is one piece, with the space before it; numbers are cut into pairs of digits.
_PIECES = (
    r" ?</?[a-z]+>| ?\\boxed\{| ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}<\\]+| ?[<\\]|\s+(?!\S)|\s+"
)

Segment = tuple[str, bool]
"""A piece of an episode and whether the agent wrote it."""


def demonstrations(settings: WarmStart, world_seed: int) -> Iterator[list[Segment]]:
    """Play one train world with the scripted agent that errs.

    Args:
        settings: Preset, number of episodes and error rate.
        world_seed: Which world.

    Yields:
        One episode at a time: prompt, turn, observation, turn, …
    """
    options = {"preset": settings.world, "seed": world_seed, "questions": settings.episodes}
    env = make_env("at2po/MiniWiki-v0", options)
    agent = cast(WithExpert, env).expert(
        error_rate=settings.error_rate, haste=settings.haste, seed=world_seed
    )

    def act(transcripts: Sequence[Transcript]) -> list[Reply]:
        return [Reply(text) for text in agent.act(transcripts)]

    for episode, _ in play_agent(act, env, env.questions, batch=1):
        segments = [(episode.transcript[0], False)]
        for turn in episode.state.turns:
            segments += [(turn.action, True), (turn.observation, False)]
        yield segments


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer.

    Args:
        texts: What it should write briefly.
        vocabulary: Number of tokens, at least 300.

    Returns:
        A tokenizer without special handling of tags: `encode` and `decode` are exact inverses.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def new_model(settings: WarmStart, vocabulary: int, eos: int) -> Qwen3ForCausalLM:
    """Build an untrained Qwen3 of the size that the settings ask for.

    Args:
        settings: Layers, width and seed.
        vocabulary: Number of tokens.
        eos: Id of the end-of-text token.

    Returns:
        A model with random weights, drawn from the seed.
    """
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=settings.width,
        intermediate_size=3 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.width // 32,
        num_key_value_heads=settings.width // 32,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=eos,
        bos_token_id=None,
        pad_token_id=eos,
    )
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        return Qwen3ForCausalLM(config)


def encode(tokenizer: Any, segments: Sequence[Segment]) -> tuple[list[int], list[bool]]:
    """Tokenise an episode piece by piece, as a rollout would.

    Args:
        tokenizer: The tokenizer.
        segments: The pieces.

    Returns:
        Token ids, and whether the agent wrote each.
    """
    ids: list[int] = []
    written: list[bool] = []
    for text, own in segments:
        piece = encode_inserted(tokenizer, text)
        ids += piece
        written += [own] * len(piece)
    return ids, written


def batch_loss(
    model: Any, batch: Sequence[tuple[list[int], list[bool]]], context_weight: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the next token, the agent's own tokens above all.

    Args:
        model: A causal language model.
        batch: Episodes as `encode` returns them.
        context_weight: Weight of the mean over the other tokens; reading is learned from them.

    Returns:
        The loss, and its part over the tokens the agent wrote; scalars, in nats per token.
    """
    length = max(len(ids) for ids, _ in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    written = torch.zeros(len(batch), length, dtype=torch.bool)
    given = torch.zeros(len(batch), length, dtype=torch.bool)
    for row, (tokens, own) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        written[row, : len(own)] = torch.tensor(own)
        given[row, : len(own)] = ~torch.tensor(own)
    hidden = model.model(
        input_ids=ids[:, :-1]
    ).last_hidden_state  # padding comes last: causal is enough
    present = (written | given)[:, 1:]
    losses = F.cross_entropy(model.lm_head(hidden[present]), ids[:, 1:][present], reduction="none")
    own_loss = losses[written[:, 1:][present]].mean()
    context_loss = losses[given[:, 1:][present]].mean()
    return own_loss + context_weight * context_loss, own_loss


def fit(model: Any, episodes: Sequence[tuple[list[int], list[bool]]], settings: WarmStart) -> float:
    """Teach the model the demonstrations, with a linear warm-up and a cosine decay.

    Args:
        model: The model, changed in place.
        episodes: All demonstrations.
        settings: Steps, batch size, learning rate and seed.

    Returns:
        Mean loss of the last tenth of the steps, in nats per token.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    losses: list[float] = []
    for step, rows in zip(range(settings.steps), _batches(episodes, settings), strict=False):
        warm = min(1.0, (step + 1) / 50)
        decay = 0.1 + 0.45 * (1 + math.cos(math.pi * step / settings.steps))
        optimizer.param_groups[0]["lr"] = settings.learning_rate * warm * decay
        loss, own = batch_loss(model, [episodes[i] for i in rows], settings.context_weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(own.item())
        if step % 50 == 49:
            _log.info("step %d of %d: loss %.4f", step + 1, settings.steps, np.mean(losses[-50:]))
    return float(np.mean(losses[-max(1, settings.steps // 10) :]))


def _batches(
    episodes: Sequence[tuple[list[int], list[bool]]], settings: WarmStart
) -> Iterator[list[int]]:
    """Endless batches of episode numbers, each of episodes of similar length: little padding."""
    rng = np.random.default_rng(settings.seed)
    size = settings.batch_episodes
    if len(episodes) < 16 * size:
        raise ValueError(
            f"expected at least 16 * batch_episodes = {16 * size} demonstrations, found "
            f"{len(episodes)}; raise worlds or episodes, or lower batch_episodes"
        )
    while True:
        order = rng.permutation(len(episodes))
        for start in range(0, len(order) - 16 * size + 1, 16 * size):
            pool = sorted(order[start : start + 16 * size], key=lambda i: len(episodes[i][0]))
            for part in rng.permutation(16):
                yield [int(i) for i in pool[part * size : (part + 1) * size]]


def warm_start(settings: WarmStart) -> dict[str, Any]:
    """Make the mini model: play, train a tokenizer, teach a new model, save both.

    Args:
        settings: All of it follows from these.

    Returns:
        Number of demonstrations, parameters, and the final loss in nats per token.

    Raises:
        FileExistsError: If something is in `out` already.
        CheckpointError: If another process makes a model there, or the model cannot be written.
    """
    with sole_writer(settings.out, CheckpointError, what="a warm start"):
        names = sorted(path.name for path in settings.out.iterdir())
        if found := [name for name in names if not name.startswith(".")]:
            raise FileExistsError(
                f"{settings.out}: expected an empty folder, found {found[0]}; choose another --out"
            )
        return _warm_start(settings)


def _warm_start(settings: WarmStart) -> dict[str, Any]:
    """Make the mini model in a folder that is empty and held."""
    first = FIRST_WORLD + 1000 * settings.seed
    played = [
        episode
        for world in range(first, first + settings.worlds)
        for episode in demonstrations(settings, world)
    ]
    _log.info("%d demonstrations from %d worlds", len(played), settings.worlds)
    # A third of the episodes is text enough for the tokenizer.
    texts = ["".join(text for text, _ in episode) for episode in played[::3]]
    tokenizer = train_tokenizer(texts, settings.vocabulary)
    model = new_model(settings, len(tokenizer), int(tokenizer.vocab[END]))
    loss = fit(model, [encode(tokenizer, episode) for episode in played], settings)
    with tempfile.TemporaryDirectory(prefix=".draft.", dir=settings.out) as draft:
        try:
            model.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
        except SafetensorError as error:  # what a full disk is to safetensors
            raise CheckpointError(
                f"{settings.out}: expected to write the model, found: {error}"
            ) from error
        for path in sorted(Path(draft).iterdir(), key=lambda path: path.name == "config.json"):
            path.rename(settings.out / path.name)  # last the file that says there is a model
    return {
        "demonstrations": len(played),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "loss": round(loss, 4),
        "settings": {name: str(value) for name, value in asdict(settings).items()},
    }
