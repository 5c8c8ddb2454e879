"""The decoder: Qwen2.5, embeddings -> logits, over packed conversations.

    ids -> embed_tokens -> blocks of (causal grouped-query attention with RoPE, SiLU-gated MLP) -> norm -> head

It does not need the rest of the model: `LanguageModel` takes ids or embeddings, and generates. What differs in Qwen3
and Llama (head size, norms of queries and keys, biases, RoPE scaling) is in the config.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vl3ref.config import LanguageConfig
from vl3ref.errors import InputError, quoted
from vl3ref.model.attention import PackedAttention
from vl3ref.model.kv_cache import KVCache, Step, first_step
from vl3ref.model.outputs import check_logits_to_keep, check_packed
from vl3ref.model.rope import Rotation, TextRotary, rotate

Tokens = Float[Tensor, "tokens dim"]
"""The residual stream: one row per token, conversation after conversation."""


class LanguageModel(nn.Module):
    """A decoder with its head (the embedding table itself where the checkpoint ties them)."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False  # in training: keep what passes between layers, and compute the rest again
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.rotary: nn.Module = TextRotary(config)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        x: Shaped[Tensor, "tokens *dim"],
        lengths: Sequence[int] | Tensor | None = None,
        cache: KVCache | None = None,
        logits_to_keep: int = 0,
    ) -> Float[Tensor, "kept vocab"]:
        """
        Args:
            x: packed token ids (tokens,) int64, or embeddings (tokens, dim).
            lengths: tokens of each conversation (default: one conversation).
            cache: read and extended: positions continue where each conversation left off.
            logits_to_keep: 0 for the logits of every token, k for those of the last k of each conversation.

        Raises:
            InputError: x has another form, or lengths or ids do not fit it.
        """
        check_logits_to_keep(logits_to_keep)
        lengths = check_packed(x, lengths, self.config.hidden_size)
        if cache is not None and not isinstance(cache, KVCache):
            raise InputError(f"cache should be a KVCache, not {quoted(cache)}")
        if not x.is_floating_point() and not 0 <= int(x.min()) <= int(x.max()) < self.config.vocab_size:
            raise InputError(f"token ids should lie between 0 and {self.config.vocab_size - 1}")
        return self.head(last_of_each(self.hidden(x, lengths, cache), lengths, logits_to_keep))

    def hidden(
        self,
        x: Shaped[Tensor, "tokens *dim"],
        lengths: Sequence[int],
        cache: KVCache | None = None,
        positions: Int[Tensor, "tokens *axes"] | None = None,
    ) -> Tokens:
        """What the head reads: the residual stream after the last norm. `positions`: see `KVCache.step`."""
        if cache is None:
            return self.run(x, first_step(lengths, positions, x.device))
        cache.reserve(lengths)
        step = cache.step(lengths, positions)
        x = self.run(x, step, cache)
        cache.advance(lengths, None if positions is None else step.positions)
        return x

    def run(self, x: Shaped[Tensor, "tokens *dim"], step: Step, cache: KVCache | None = None) -> Tokens:
        """All blocks and the last norm, for a step that is planned already."""
        x = x if x.is_floating_point() else self.embed_tokens(x)
        rotation = self.rotary(step.positions, x.dtype)
        for layer in self.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, rotation, step, cache, use_reentrant=False)
            else:
                x = layer(x, rotation, step, cache)
        return self.norm(x)

    def head(self, hidden: Tokens) -> Float[Tensor, "tokens vocab"]:
        return F.linear(hidden, self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight)

    def new_cache(self, conversations: int, capacity: int = 0) -> KVCache:
        """An empty cache in the model's dtype and on its device."""
        like = self.embed_tokens.weight
        return KVCache(self.config, conversations, capacity, like.dtype, like.device)

    def generate(self, ids: Int[Tensor, " tokens"], *options: Any, **named: Any) -> Any:
        """Continue a text; the list has one entry. Options: see `vl3ref.generation.stream`."""
        from vl3ref.generation import generate  # generation is built on the model, not the other way round

        return generate(self, ids, *options, **named)


def last_of_each(x: Tokens, lengths: Sequence[int], k: int) -> Float[Tensor, "kept dim"]:
    """The last k tokens of each conversation; all of them if k is 0."""
    return torch.cat([segment[-k:] for segment in x.split(list(lengths))]) if k else x


class DecoderLayer(nn.Module):
    def __init__(self, config: LanguageConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config, index)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config)

    def forward(self, x: Tokens, rotation: Rotation, step: Step, cache: KVCache | None = None) -> Tokens:
        x = x + self.self_attn(self.input_layernorm(x), rotation, step, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class SelfAttention(nn.Module):
    """Causal grouped-query attention: several query heads share one key and value head."""

    def __init__(self, config: LanguageConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_dim = config.head_dim
        q_dim, kv_dim = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
        self.q_proj = nn.Linear(config.hidden_size, q_dim, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_dim, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_dim, bias=config.qkv_bias)
        self.o_proj = nn.Linear(q_dim, config.hidden_size, bias=config.output_bias)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.attend = PackedAttention()

    def forward(self, x: Tokens, rotation: Rotation, step: Step, cache: KVCache | None = None) -> Tokens:
        q, k, v = (project(x).view(len(x), -1, self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, rotation), rotate(k, rotation)
        if cache is not None:
            cache.write(self.index, k, v, step)
        if cache is None or step.kind == "prefill":
            out = self.attend(q, k, v, step.lengths, causal=True)
        else:
            out = cache.attend(self.index, q, step)
        return self.o_proj(out.flatten(1))


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)). It is several times as wide as the residual stream, and would bound the length of a
    prompt: `chunk_tokens` are computed together, for which the 2B's holds 0.2 GB."""

    chunk_tokens = 2048

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tokens) -> Tokens:
        if len(x) > self.chunk_tokens:
            return torch.cat([self.forward(chunk) for chunk in x.split(self.chunk_tokens)])
        # mul_: in place of silu's result, one array of the MLP's width less
        return self.down_proj(F.silu(self.gate_proj(x)).mul_(self.up_proj(x)))


class RMSNorm(nn.Module):
    """Divide by the root mean square: in float32, rounded to x's dtype, then scaled by the weight, as Qwen2 does.
    (torch's own scales narrow dtypes before it rounds.)"""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        if x.dtype not in (torch.bfloat16, torch.float16):
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)
