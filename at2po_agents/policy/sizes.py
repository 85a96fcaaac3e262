"""The sizes of decoders, and what follows from them: parameters, keys and values of a token."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from at2po_agents.errors import ModelNotFoundError, UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def optional(config: object, name: str) -> Any:
    """Return a setting that only some architectures have, or None."""
    return getattr(config, name, None)


@dataclass(frozen=True)
class Decoder:
    """The sizes of a Llama-like decoder.

    Attributes:
        layers: Number of layers.
        hidden: Width.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of a head.
        intermediate: Width of the gated MLP.
        vocabulary: Rows of the output matrix.
        tied: Whether the embedding is the output matrix, too.
        norms_heads: Whether queries and keys are normalised head by head, as in Qwen3.
        has_bias: Whether queries, keys and values have biases, as in Qwen2.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = False
    norms_heads: bool = True
    has_bias: bool = False

    @classmethod
    def of(cls, config: PretrainedConfig) -> Decoder:
        """Read the sizes off a transformers configuration.

        Raises:
            UnsupportedModelError: If the architecture has other parts than these.
        """
        kind = config.model_type
        biased = optional(config, "attention_bias") or optional(config, "mlp_bias")
        if kind not in ("llama", "qwen2", "qwen3") or biased:
            raise UnsupportedModelError(
                f"expected a model of type llama, qwen2 or qwen3 with their usual biases, found "
                f"{kind}{' with more biases' if biased else ''}; its sizes are not known here"
            )
        heads = config.num_attention_heads
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            heads,
            config.num_key_value_heads,
            optional(config, "head_dim") or config.hidden_size // heads,
            config.intermediate_size,
            config.vocab_size,
            tied=config.tie_word_embeddings,
            norms_heads=kind == "qwen3",
            has_bias=kind == "qwen2",
        )

    @property
    def query_width(self) -> int:
        """Width of a token's queries, all heads together."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of a token's keys, all heads together; that of its values is the same."""
        return self.kv_heads * self.head_dim

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of the matrices of one layer: q, k, v, o, gate, up, down."""
        width, q, k, inner = self.hidden, self.query_width, self.key_width, self.intermediate
        attention = ((q, width), (k, width), (k, width), (width, q))
        return (*attention, (inner, width), (inner, width), (width, inner))

    @property
    def weights(self) -> int:
        """Weights of all layers' matrices, embedding and head apart."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices)

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: matrices, biases and norms."""
        biases = self.query_width + 2 * self.key_width if self.has_bias else 0
        norms = 2 * self.hidden + (2 * self.head_dim if self.norms_heads else 0)
        return self.weights // self.layers + biases + norms

    @property
    def root_parameters(self) -> int:
        """Parameters outside of the layers: embedding, output matrix and the last norm."""
        return (1 if self.tied else 2) * self.vocabulary * self.hidden + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        return self.layers * self.layer_parameters + self.root_parameters

    def adapter_parameters(self, rank: int) -> int:
        """Parameters of adapters of some rank on all matrices of all layers.

        Source: LoRA (arXiv 2106.09685), section 4.1.
        """
        return self.layers * sum(rank * (rows + columns) for rows, columns in self.matrices)

    def cache_bytes(self, item: int) -> int:
        """Bytes of the keys and values of one token in all layers, `item` bytes a number."""
        return 2 * self.layers * self.key_width * item


SIZES = {
    "Qwen3-0.6B": Decoder(28, 1024, 16, 8, 128, 3072, 151936, tied=True),
    "Qwen3-1.7B": Decoder(28, 2048, 16, 8, 128, 6144, 151936, tied=True),
    "Qwen3-4B": Decoder(36, 2560, 32, 8, 128, 9728, 151936, tied=True),
    "Qwen3-8B": Decoder(36, 4096, 32, 8, 128, 12288, 151936),
    "Qwen3-14B": Decoder(40, 5120, 40, 8, 128, 17408, 151936),
    "Qwen3-32B": Decoder(64, 5120, 64, 8, 128, 25600, 151936),
    "Qwen2.5-7B": Decoder(28, 3584, 28, 4, 128, 18944, 152064, norms_heads=False, has_bias=True),
}
"""Sizes of models that need not be there. Source: config.json of Qwen/<name> on the hub."""


def find_sizes(name: str) -> tuple[Decoder, str]:
    """Return the sizes of a model and where they come from.

    Args:
        name: As for `load_model`; `SIZES` helps where neither a folder nor the hub has it.

    Raises:
        ModelNotFoundError: None of the places has it.
        UnsupportedModelError: It is no Llama-like decoder.
    """
    from at2po_agents.policy.loading import model_config  # needs torch and transformers

    listed = SIZES.get(re.sub(r"^Qwen/|-(Instruct|Base)$", "", name))
    try:
        return Decoder.of(model_config(name)), "its configuration"
    except ModelNotFoundError as error:
        if listed is None:
            raise ModelNotFoundError(f"{error}; sizes are known of {', '.join(SIZES)}") from error
    return listed, "the sizes that at2po knows"
