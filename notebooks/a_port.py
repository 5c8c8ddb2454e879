"""Somebody's port of VideoLLaMA 3, which notebook 11 debugs. It has mistakes; do not take it for a model of anything.

It answers about one video. Names and shapes are its own: there is a batch axis, of frames in the encoder and of one
conversation in the decoder.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vl3ref import ModelInputs, VideoLLaMA3


class Rope(nn.Module):
    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """x (batch, tokens, heads * dim), angles (tokens, dim / 2)"""
        heads = x.view(*x.shape[:2], -1, 2 * angles.shape[1])
        a, b = heads.chunk(2, dim=-1)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(2)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.causal = heads, kv_heads, causal
        self.q, self.k, self.v = (nn.Linear(dim, n * head_dim) for n in (heads, kv_heads, kv_heads))
        self.o = nn.Linear(heads * head_dim, dim, bias=not causal)
        self.turn_q, self.turn_k = Rope(), Rope()

    def share(self, x: Tensor) -> Tensor:
        """(batch, kv_heads, tokens, dim) -> as many heads as queries have"""
        return x.repeat(1, self.heads // self.kv_heads, 1, 1)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k = self.turn_q(self.q(x), angles), self.turn_k(self.k(x), angles)
        q, k, v = (
            y.view(batch, tokens, n, -1).transpose(1, 2)
            for y, n in ((q, self.heads), (k, self.kv_heads), (self.v(x), self.kv_heads))
        )
        out = F.scaled_dot_product_attention(q, self.share(k), self.share(v), is_causal=self.causal)
        return self.o(out.transpose(1, 2).flatten(2))


class PlainMLP(nn.Module):
    def __init__(self, dim: int, wide: int) -> None:
        super().__init__()
        self.up, self.gelu, self.down = nn.Linear(dim, wide), nn.GELU(), nn.Linear(wide, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gelu(self.up(x)))


class GatedMLP(nn.Module):
    def __init__(self, dim: int, wide: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(dim, wide, bias=False), nn.Linear(dim, wide, bias=False)
        self.down = nn.Linear(wide, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, norm1: nn.Module, attn: nn.Module, norm2: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm1, attn, norm2, mlp

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), angles)
        return x + self.mlp(self.norm2(x))


def angles_of(positions: Tensor, pairs: int, theta: float) -> Tensor:
    return positions[:, None] * theta ** (-torch.arange(pairs) / pairs)


class Eye(nn.Module):
    """Frames of one size -> a feature for each visual token."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        dim, self.head_dim, self.theta = config.hidden_size, config.head_dim, config.rope_theta
        heads = config.num_attention_heads

        def norm() -> nn.Module:
            return nn.LayerNorm(dim, config.layer_norm_eps)

        self.patch = nn.Linear(config.patch_values, dim)
        self.blocks = nn.ModuleList(
            Block(
                norm(),
                Attention(dim, heads, heads, self.head_dim, causal=False),
                norm(),
                PlainMLP(dim, config.intermediate_size),
            )
            for _ in range(config.num_hidden_layers)
        )
        self.norm = norm()

    def forward(self, pixels: Tensor, rows: int, columns: int, merge: int) -> Tensor:
        """(frames, patches, values) -> (tokens, dim); the patches of a token are neighbours"""
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places = torch.stack([row, column]).view(2, rows // merge, merge, columns // merge, merge)
        row, column = places.transpose(2, 3).flatten(1)
        angles = torch.cat([angles_of(axis, self.head_dim // 4, self.theta) for axis in (row, column)], dim=1)
        x = self.patch(pixels)
        for block in self.blocks:
            x = block(x, angles)
        return self.norm(x).view(-1, merge**2, x.shape[-1]).mean(1)


class Mind(nn.Module):
    """Embeddings -> logits."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        dim, self.head_dim, self.theta = config.hidden_size, config.head_dim, config.rope_theta
        shape = (config.num_attention_heads, config.num_key_value_heads, self.head_dim)

        def norm() -> nn.Module:
            return nn.RMSNorm(dim, config.rms_norm_eps)

        self.words = nn.Embedding(config.vocab_size, dim)
        self.blocks = nn.ModuleList(
            Block(norm(), Attention(dim, *shape, causal=True), norm(), GatedMLP(dim, config.intermediate_size))
            for _ in range(config.num_hidden_layers)
        )
        self.norm, self.head = norm(), nn.Linear(dim, config.vocab_size, bias=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        angles = angles_of(positions, self.head_dim // 2, self.theta)
        for block in self.blocks:
            x = block(x, angles)
        return self.head(self.norm(x))


class Port(nn.Module):
    """The port, with the weights of one of vl3ref's models."""

    def __init__(self, model: VideoLLaMA3) -> None:
        super().__init__()
        config = self.config = model.config
        self.eye, self.mind = Eye(config.vision), Mind(config.language)
        self.bridge = nn.Sequential(nn.Linear(config.vision.hidden_size, config.language.hidden_size))
        for _ in range(config.projector_depth - 1):
            self.bridge.extend([nn.GELU(), nn.Linear(config.language.hidden_size, config.language.hidden_size)])
        weights = {renamed(name): weight for name, weight in model.state_dict().items()}
        weights["eye.patch.weight"] = weights["eye.patch.weight"].flatten(1)
        weights.setdefault("mind.head.weight", weights["mind.words.weight"])
        self.load_state_dict(weights)

    def positions(self, kept: Tensor) -> Tensor:
        """Which tokens of the prompt are kept -> rotary positions of these"""
        return torch.arange(len(kept))[kept]

    def forward(self, inputs: ModelInputs, keep_mask: Tensor) -> Tensor:
        """Logits (1, kept tokens, vocab). `keep_mask`: which visual tokens DiffFP keeps."""
        [[frames, rows, columns]], [merge] = inputs.grid_sizes.tolist(), inputs.merge_sizes.tolist()
        features = self.eye(inputs.pixel_values.view(frames, rows * columns, -1), rows, columns, merge)
        visual = inputs.is_visual(self.config.visual_token_ids)
        kept = torch.ones_like(visual).masked_scatter(visual, keep_mask)
        x = self.mind.words(inputs.input_ids[kept])
        x[visual[kept]] = self.bridge(features[keep_mask])
        return self.mind(x[None], self.positions(kept))


def renamed(name: str) -> str:
    """A weight's name in vl3ref -> its name here"""
    names = {
        "vision_encoder.embeddings.patch_embedding": "eye.patch",
        "vision_encoder.encoder.layers": "eye.blocks",
        "vision_encoder.post_layernorm": "eye.norm",
        "projector.readout": "bridge",
        "language_model.embed_tokens": "mind.words",
        "language_model.layers": "mind.blocks",
        "language_model.norm": "mind.norm",
        "language_model.lm_head": "mind.head",
        "post_attention_layernorm": "norm2",
        "input_layernorm": "norm1",
        "layer_norm": "norm",
        "self_attn": "attn",
        "out_proj": "o",
        "fc1": "up",
        "fc2": "down",
        "_proj": "",
    }
    for theirs, here in names.items():
        name = name.replace(theirs, here)
    return name
