"""The vision encoder: SigLIP turned into a NaViT (paper, section 3.1, Any-resolution Vision Tokenization).

    patches -> linear embedding -> blocks of (attention within a frame, MLP), 2D RoPE -> norm -> bilinear token merge

There is no learned position table and no pooling head: an image of any size is as many patches as it has, and rows and
columns enter only through the rotation of queries and keys. The unit of work is a frame. An image is one frame, a video
several; no frame attends to another, so any number of them can be packed together.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vl3ref.config import VisionConfig
from vl3ref.model.attention import PackedAttention
from vl3ref.model.rope import ImageRotary, Rotation, rotate
from vl3ref.model.token_merge import Frame, TokenMerge
from vl3ref.model_inputs import check_grids

Patches = Float[Tensor, "patches dim"]
"""The residual stream: one row per patch, frame after frame."""

CHUNK_PATCHES = {"cpu": 1152, "cuda": 9216}
"""Patches encoded together: on a CPU two frames of 24 x 24, whose activations stay in its cache; on a GPU sixteen, for
larger matrix products (not measured)."""


class VisionEncoder(nn.Module):
    """Patches of any number of images and videos -> one feature per visual token.

    Attributes:
        chunk_patches: encode at most this many patches together, in whole frames: it bounds the memory of a long video.
            None looks `CHUNK_PATCHES` up.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.chunk_patches: int | None = None
        self.gradient_checkpointing = False  # in training: keep what passes between layers, and compute the rest again
        self.embeddings: nn.Module = PatchEmbeddings(config)
        self.rotary: nn.Module = ImageRotary(config)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.merge: nn.Module = TokenMerge()

    def forward(
        self,
        pixel_values: Float[Tensor, "patches values"],
        grid_sizes: Int[Tensor, "visuals 3"],
        merge_sizes: Int[Tensor, " visuals"],
    ) -> Float[Tensor, "tokens dim"]:
        """Features, frame by frame and row by row: tokens = sum of frames * rows * columns / merge^2.

        Args: as in `ModelInputs`; pixels of any float dtype.
        Raises InputError: the merge size does not divide a grid, or the pixels are not the grids'.
        """
        check_grids(pixel_values, grid_sizes, merge_sizes, self.config.patch_values)
        grids = zip(grid_sizes.tolist(), merge_sizes.tolist(), strict=True)
        frames = [(h, w, merge) for (t, h, w), merge in grids for _ in range(t)]
        limit = self.chunk_patches or CHUNK_PATCHES.get(pixel_values.device.type, CHUNK_PATCHES["cpu"])
        chunks = list(in_chunks(frames, limit))
        patches = pixel_values.split([sum(h * w for h, w, _ in chunk) for chunk in chunks])
        features = [self.encode(x, chunk) for x, chunk in zip(patches, chunks, strict=True)]
        return torch.cat(features) if features else pixel_values.new_zeros(0, self.config.hidden_size)

    def encode(self, patches: Float[Tensor, "patches values"], frames: Sequence[Frame]) -> Float[Tensor, "tokens dim"]:
        """Frames of any sizes, all at once."""
        positions = torch.cat([patch_positions(frame, patches.device) for frame in frames])
        rotation = self.rotary(positions)
        lengths = [h * w for h, w, _ in frames]
        x = self.embeddings(patches.to(self.post_layernorm.weight.dtype), positions)
        for layer in self.encoder.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, rotation, lengths, use_reentrant=False)
            else:
                x = layer(x, rotation, lengths)
        return self.merge(self.post_layernorm(x), frames)


def in_chunks(frames: Sequence[Frame], limit: int) -> Iterator[list[Frame]]:
    """Neighbouring frames of together at most `limit` patches, and always at least one frame."""
    start = size = 0
    for end, (height, width, _) in enumerate(frames):
        if end > start and size + height * width > limit:
            yield list(frames[start:end])
            start, size = end, 0
        size += height * width
    if frames:
        yield list(frames[start:])


@lru_cache(maxsize=64)
def patch_positions(frame: Frame, device: torch.device) -> Int[Tensor, "patches 2"]:
    """Row and column of every patch of a frame, in merge x merge blocks as the processor writes them: the patches of a
    visual token are neighbours. Every frame starts at (0, 0); time is written into the prompt instead."""
    height, width, merge = frame
    with torch.inference_mode(False):  # kept, and used in training too
        rows = repeat(torch.arange(height, device=device), "h -> h w", w=width)
        columns = repeat(torch.arange(width, device=device), "w -> h w", h=height)
        return rearrange(torch.stack([rows, columns]), "yx (h m) (w n) -> (h w m n) yx", m=merge, n=merge)


class PatchEmbeddings(nn.Module):
    """Flattened patches -> the residual stream. Positions are not used: they enter by the rotation.

    The checkpoint stores a convolution; over one patch that is a matrix product, which is several times faster.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, kernel_size=size, stride=size)

    def forward(self, patches: Float[Tensor, "patches values"], positions: Int[Tensor, "patches 2"]) -> Patches:
        return F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)


class Encoder(nn.Module):
    """The blocks, under the name they have in checkpoints: `encoder.layers`."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))


class EncoderLayer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(self, x: Patches, rotation: Rotation, lengths: Sequence[int]) -> Patches:
        x = x + self.self_attn(self.layer_norm1(x), rotation, lengths)
        return x + self.mlp(self.layer_norm2(x))


class VisionAttention(nn.Module):
    """Multi-head attention among the patches of one frame; every projection has a bias."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.attend = PackedAttention()

    def forward(self, x: Patches, rotation: Rotation, lengths: Sequence[int]) -> Patches:
        q, k, v = (project(x).view(len(x), -1, self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj))
        out = self.attend(rotate(q, rotation), rotate(k, rotation), v, lengths, causal=False)
        return self.out_proj(out.flatten(1))


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Patches) -> Patches:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
