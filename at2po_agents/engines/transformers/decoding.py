"""The step that generation consists of, for Llama-like models, in as few operations as it takes.

A step of a small model spends much of its time between operations: in modules that call modules, in
norms and rotations made of many small pieces. This is the same arithmetic on the model's own
weights, which are looked up again in every step, so that nothing has to follow their changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name torch's own documentation uses
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RMSNorm

from at2po_agents.engines.transformers.kv_cache import RowCache
from at2po_agents.policy.adapters import is_adapted_linear
from at2po_agents.policy.norms import RMSNorm

LlamaLike = LlamaForCausalLM | Qwen2ForCausalLM | Qwen3ForCausalLM
_MODELS = (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_PARTS = {nn.Linear, LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm}


def decodable(model: PreTrainedModel) -> LlamaLike | None:
    """Return a model if `decode` does what it does: its class and all of its parts are known."""
    if isinstance(model, _MODELS) and type(model) in _MODELS:
        if all(type(part) in _PARTS or is_adapted_linear(part) for part in _parts(model)):
            return model
    return None


def decode(
    model: LlamaLike, cache: RowCache, ids: Tensor, positions: Tensor, mask: Tensor
) -> Tensor:
    """Run one new token per row.

    Args:
        model: A `decodable` model, without gradients.
        cache: Keys and values; rows and positions are selected.
        ids: [R] the new tokens.
        positions: [R] their places.
        mask: [R, 1, 1, L] added to the scores of what each row can see.

    Returns:
        [R, V] logits of what follows.

    Source: Llama (arXiv 2302.13971) and Qwen3 (arXiv 2505.09388), as in transformers.
    """
    x = F.embedding(ids, model.model.embed_tokens.weight)
    cos, sin = model.model.rotary_emb(x, positions[:, None])  # [R, 1, D], for all heads
    half = sin.shape[-1] // 2
    sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)
    for number, layer in enumerate(_layers(model)):
        attention, mlp = layer.self_attn, layer.mlp
        h = _norm(x, layer.input_layernorm)
        q, k, v = (
            _linear(h, projection).view(len(ids), -1, attention.head_dim)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if hasattr(attention, "q_norm"):
            q, k = _norm(q, attention.q_norm), _norm(k, attention.k_norm)
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        keys, values = cache.update(k, v, number)
        # The query heads that share a key head are as many queries of that one head.
        q = q.view(len(ids), keys.shape[1], -1, attention.head_dim)
        seen = F.scaled_dot_product_attention(
            q, keys, values, attn_mask=mask, scale=attention.scaling
        )
        x = x + _linear(seen.flatten(1), attention.o_proj)
        h = _norm(x, layer.post_attention_layernorm)
        h = mlp.act_fn(_linear(h, mlp.gate_proj)) * _linear(h, mlp.up_proj)
        x = x + _linear(h, mlp.down_proj)
    return _linear(_norm(x, model.model.norm), model.lm_head)


def _linear(x: Tensor, module: nn.Linear) -> Tensor:
    adapted = type(module) is not nn.Linear
    product: Tensor = module(x) if adapted else F.linear(x, module.weight, module.bias)
    return product


def _norm(x: Tensor, module: RMSNorm) -> Tensor:
    """Normalise in float32 whatever the model's own dtype, as its module does."""
    normal = F.rms_norm(x.float(), x.shape[-1:], eps=module.variance_epsilon)
    return normal.to(x.dtype) * module.weight


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [R, heads, D] pairs of dimensions, the first half with the second."""
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)


def _layers(model: LlamaLike) -> Iterable[Qwen3DecoderLayer]:
    """Return the layers, typed as those of Qwen3, which have all parts that any of them has."""
    return cast("Iterable[Qwen3DecoderLayer]", model.model.layers)


def _parts(model: LlamaLike) -> Iterator[nn.Module]:
    """Yield all modules that `decode` takes the weights of without calling them."""
    yield from (model.model.norm, model.lm_head)
    for layer in _layers(model):
        attention, mlp = layer.self_attn, layer.mlp
        yield from (layer.input_layernorm, layer.post_attention_layernorm)
        yield from (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        yield from (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        if hasattr(attention, "q_norm"):
            yield from (attention.q_norm, attention.k_norm)
