"""The decoder: Qwen2.5, embeddings -> logits, over packed conversations.

    ids -> embed_tokens -> blocks of (causal grouped-query attention with RoPE, SiLU-gated MLP) -> norm -> head

It is whole without the rest of the model: `LanguageModel` takes ids or embeddings, and generates.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vl3ref.config import LanguageConfig
from vl3ref.errors import InputError
from vl3ref.model.attention import attention_maps, cached_attention, packed_attention
from vl3ref.model.kv_cache import KVCache, Step, first_step
from vl3ref.model.recording import Recording
from vl3ref.model.rope import Rotation, rotate, text_rotation
from vl3ref.model_inputs import IGNORED

MLP_CHUNK = 2048
"""Tokens that an MLP computes at once: the 2B's then holds 0.2 GB of activations, however long the prompt."""

LOSS_CHUNK = 1024
"""Tokens whose logits are held at once while the loss is computed: 0.6 GB in float32 with Qwen's vocabulary."""


class LanguageModel(nn.Module):
    """Qwen2.5 with its head (the embedding table itself where the checkpoint ties them).

    Attributes:
        recompute: hold only what passes between layers for the backward pass, and compute the rest again in it
            (gradient checkpointing).
        decode: how new tokens are computed, see `vl3ref.decoding`; None for the best of the device.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.decode: Literal["eager", "captured", "compiled"] | None = None
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
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
        recording: Recording | None = None,
    ) -> Float[Tensor, "kept vocab"]:
        """
        Args:
            x: packed token ids (tokens,) int64, or embeddings (tokens, dim).
            lengths: tokens of each conversation (default: one conversation).
            cache: appended to, and read from: positions go on where each conversation's tokens left off.
            logits_to_keep: 0 for the logits of every token, k for those of the last k of each conversation.

        Returns:
            Logits in the model's dtype, packed.

        Raises:
            InputError: x has another form, or lengths or ids do not fit it.
        """
        lengths = [len(x)] if lengths is None else [int(n) for n in lengths]
        if x.ndim not in (1, 2) or (x.ndim == 2) != x.is_floating_point() or not len(x):
            raise InputError(f"the decoder takes ids (tokens,) or embeddings (tokens, dim), not {tuple(x.shape)}")
        if sum(lengths) != len(x) or min(lengths) < 0:
            raise InputError(f"lengths add up to {sum(lengths)}, but there are {len(x)} tokens")
        if not x.is_floating_point() and not 0 <= int(x.min()) <= int(x.max()) < self.config.vocab_size:
            raise InputError(f"token ids should lie between 0 and {self.config.vocab_size - 1}")
        hidden = self.hidden(x, lengths, cache, recording)
        if logits_to_keep:
            hidden = torch.cat([segment[-logits_to_keep:] for segment in hidden.split(lengths)])
        return self.head(hidden)

    def hidden(
        self,
        x: Shaped[Tensor, "tokens *dim"],
        lengths: Sequence[int],
        cache: KVCache | None = None,
        recording: Recording | None = None,
    ) -> Float[Tensor, "tokens dim"]:
        """What the head reads: the residual stream after the last norm."""
        if not x.is_floating_point():
            x = self.embed_tokens(x)
        if cache is not None:
            cache.reserve(lengths)
        step = first_step(lengths, x.device) if cache is None else cache.step(lengths)
        x = self.run(x, step, cache, recording)
        if cache is not None:
            cache.advance(lengths)
        return x

    def prefill(
        self, x: Float[Tensor, "tokens dim"], lengths: Sequence[int], cache: KVCache
    ) -> Float[Tensor, "conversations vocab"]:
        """Fill the cache with prompts, and give the logits that follow each."""
        ends = torch.tensor(lengths, device=x.device).cumsum(0) - 1
        return self.head(self.hidden(x, lengths, cache)[ends])

    def run(
        self,
        x: Float[Tensor, "tokens dim"],
        step: Step,
        cache: KVCache | None = None,
        recording: Recording | None = None,
    ) -> Float[Tensor, "tokens dim"]:
        """All blocks and the last norm, for a step that is planned already."""
        if cache is None:
            rotation = text_rotation(step.positions, self.config.head_dim, self.config.rope_theta, x.dtype)
        else:
            rotation = cache.rotation.at(step.positions)
        for index, layer in enumerate(self.layers):
            if recording is not None:
                recording.add_hidden(index, x)
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, rotation, step, cache, recording, use_reentrant=False)
            else:
                x = layer(x, rotation, step, cache, recording)
        x = self.norm(x)
        if recording is not None:
            recording.add_hidden(len(self.layers), x)
        return x

    def head(self, hidden: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens vocab"]:
        return F.linear(hidden, self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight)

    def loss(
        self, hidden: Float[Tensor, "tokens dim"], labels: Int[Tensor, " tokens"], lengths: Sequence[int]
    ) -> Float[Tensor, ""]:
        """Next-token cross-entropy, the mean over all learnt tokens, in float32.

        The hidden state at i predicts the label at i + 1 of the same conversation. Logits are made for learnt tokens
        alone, a chunk at a time, and made again for the backward pass, so that (tokens, vocab) is never held.

        Args:
            labels: unshifted, -100 where nothing is learnt. A conversation's first label is never learnt: nothing
                stands before it.

        Returns:
            A scalar; nan if no token is learnt.
        """
        learnt = learnt_after(labels, lengths)
        hidden, targets = hidden[learnt], labels.roll(-1)[learnt]

        def summed(rows: Tensor, wanted: Tensor) -> Tensor:
            return F.cross_entropy(self.head(rows).float(), wanted, reduction="sum")

        total = hidden.new_zeros((), dtype=torch.float32)
        for rows, wanted in zip(hidden.split(LOSS_CHUNK), targets.split(LOSS_CHUNK), strict=True):
            total = total + checkpoint(summed, rows, wanted, use_reentrant=False)
        return total / targets.numel()

    def chunk_mlps(self, tokens: int | None) -> None:
        """How many tokens every MLP computes together; None for all."""
        for module in self.modules():
            if isinstance(module, GatedMLP):
                module.chunk = tokens

    def generate(
        self,
        ids: Int[Tensor, " tokens"],
        max_new_tokens: int = 128,
        min_new_tokens: int = 0,
        temperature: int | float = 0.0,
        top_p: int | float | None = None,
        top_k: int | None = None,
        repetition_penalty: int | float = 1.0,
        seed: int | None = None,
        **options: Any,
    ) -> list[Tensor]:
        """Continue a text. The list has one entry.

        Args:
            options: penalty_scope and end_token_ids; see `vl3ref.generation.generate`, which also explains the rest.

        Returns:
            One int64 tensor per conversation: the new ids alone, the end-of-text id included when it came.
        """
        from vl3ref.generation import generate  # generation is built on the model, not the other way round

        sampling = (temperature, top_p, top_k, repetition_penalty, seed)
        return generate(self, ids, max_new_tokens, min_new_tokens, *sampling, **options)


def learnt_after(labels: Int[Tensor, " tokens"], lengths: Sequence[int]) -> Bool[Tensor, " tokens"]:
    """Which tokens are followed, in their own conversation, by one that is learnt."""
    learnt = labels.roll(-1) != IGNORED
    ends = torch.tensor(lengths, device=labels.device).cumsum(0) - 1
    learnt[ends] = False
    return learnt


class DecoderLayer(nn.Module):
    def __init__(self, config: LanguageConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config, index)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config)

    def forward(
        self,
        x: Float[Tensor, "tokens dim"],
        rotation: Rotation,
        step: Step,
        cache: KVCache | None = None,
        recording: Recording | None = None,
    ) -> Float[Tensor, "tokens dim"]:
        x = x + self.self_attn(self.input_layernorm(x), rotation, step, cache, recording)
        return x + self.mlp(self.post_attention_layernorm(x))


class SelfAttention(nn.Module):
    """Causal grouped-query attention: several query heads share one key and value head. Biases on q, k, v only."""

    def __init__(self, config: LanguageConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_dim = config.head_dim
        kv_dim = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, kv_dim)
        self.v_proj = nn.Linear(config.hidden_size, kv_dim)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        x: Float[Tensor, "tokens dim"],
        rotation: Rotation,
        step: Step,
        cache: KVCache | None = None,
        recording: Recording | None = None,
    ) -> Float[Tensor, "tokens dim"]:
        q, k, v = (project(x).view(len(x), -1, self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, rotation), rotate(k, rotation)
        if recording is not None and recording.attentions:
            recording.add_attention(self.index, attention_maps(q, k, step.lengths, causal=True))
        if cache is not None:
            cache.write(self.index, k, v, step)
        if cache is None or not step.goes_on:
            out = packed_attention(q, k, v, step.lengths, causal=True)
        else:
            out = cached_attention(q, cache.keys[self.index], cache.values[self.index], step)
        return self.o_proj(out.flatten(1))


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)).

    Attributes:
        chunk: how many tokens are computed together; None for all. An MLP is several times as wide as the residual
            stream: in pieces, it is no longer what bounds the length of a prompt.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.chunk: int | None = MLP_CHUNK
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens dim"]:
        if self.chunk is not None and len(x) > self.chunk:
            return torch.cat([self._together(piece) for piece in x.split(self.chunk)])
        return self._together(x)

    def _together(self, x: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens dim"]:
        # In place of silu's result, which nobody else holds: one array of the MLP's width less to write.
        return self.down_proj(F.silu(self.gate_proj(x)).mul_(self.up_proj(x)))


class RMSNorm(nn.Module):
    """Divide by the root mean square. Computed in float32, rounded to x's dtype, then scaled by the weight.

    torch's own does the same for wide dtypes, bit for bit and in one call; for narrow ones it scales before it rounds.
    """

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
