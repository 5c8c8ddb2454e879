"""The vision encoder: SigLIP turned into a NaViT (paper, section 3.1, Any-resolution Vision Tokenization).

    patches -> linear embedding -> blocks of (attention within a frame, MLP), 2D RoPE -> norm -> bilinear token merge

There is no learned position table and no pooling head: a picture of any size is as many patches as it has, and rows and
columns enter only through the rotation of queries and keys. Everything works on one packed tensor of patches; a frame's
patches never see another frame's.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vl3ref.config import VisionConfig
from vl3ref.model.attention import attention_maps, packed_attention
from vl3ref.model.recording import Recording
from vl3ref.model.rope import Rotation, image_rotation, patch_positions, rotate
from vl3ref.model_inputs import check_grids

Grid = tuple[int, int, int]
"""Frames, rows and columns of patches of one video (or picture: one frame)."""


CHUNK_PATCHES = {"cpu": 1152, "cuda": 9216}
"""Two frames of 24 x 24 patches: the activations of their MLP stay in a processor's cache. Sixteen on a GPU, whose
matrix products want thousands of rows to keep all its multiprocessors busy (not measured)."""


class VisionEncoder(nn.Module):
    """Patches of any number of pictures and videos -> one feature per visual token.

    Attributes:
        chunk_patches: how many patches are encoded together at most, in whole frames (and always at least one). It
            bounds the memory of activations by a chunk instead of by the clip. "auto" takes what suits the device
            (`CHUNK_PATCHES`), None encodes everything in one go.
        reuse_frames: encode frames of a long video that have the same pixels once.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.chunk_patches: int | Literal["auto"] | None = "auto"
        self.reuse_frames = True
        self.embeddings = PatchEmbeddings(config)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        pixel_values: Float[Tensor, "patches values"],
        grid_sizes: Int[Tensor, "visuals 3"],
        merge_sizes: Int[Tensor, " visuals"],
        recording: Recording | None = None,
    ) -> Float[Tensor, "tokens dim"]:
        """
        Args:
            pixel_values: flattened normalised patches (patches, 3*14*14), each visual's in merge-block order, the
                visuals one after another. Any float dtype; computed in the encoder's.
            grid_sizes: frames, rows and columns of patches of each visual.
            merge_sizes: how many patches along each side become one token.

        Returns:
            Features (tokens, dim), frame by frame, row by row; tokens = sum of frames * rows * columns / merge^2.
        """
        grids = [(t, h, w) for t, h, w in grid_sizes.tolist()]
        check_grids(pixel_values, grids, merge_sizes.tolist(), self.config.patch_values)
        visuals = zip(pixel_values.split([t * h * w for t, h, w in grids]), grids, merge_sizes.tolist(), strict=True)
        features: list[Tensor] = []
        together: list[tuple[Tensor, Grid, int]] = []
        room = self.patches_together
        for visual in visuals:
            patches, grid, merge = visual
            if room is not None and together and sum(len(x) for x, _, _ in together) + len(patches) > room:
                features.append(self._encode(together, recording))
                together = []
            if room is not None and len(patches) > room and grid[0] > 1:
                features.append(self._encode_long(patches, grid, merge, room, recording))
            else:
                together.append(visual)
        if together:
            features.append(self._encode(together, recording))
        if not features:
            return self.post_layernorm.weight.new_zeros(0, self.config.hidden_size)
        return torch.cat(features) if len(features) > 1 else features[0]

    @property
    def patches_together(self) -> int | None:
        """`chunk_patches`, with "auto" looked up for the device."""
        if self.chunk_patches == "auto":
            return CHUNK_PATCHES.get(self.post_layernorm.weight.device.type, CHUNK_PATCHES["cpu"])
        return self.chunk_patches

    def _encode_long(
        self, patches: Tensor, grid: Grid, merge: int, room: int, recording: Recording | None
    ) -> Float[Tensor, "tokens dim"]:
        """A video that does not fit into one chunk: chunk after chunk of its distinct frames.

        All chunks have the same number of frames (the last one is filled up), so the shapes of the matrix products, and
        with them the bits of a frame's features, do not depend on how many frames are distinct.
        """
        frames, height, width = grid
        by_frame = patches.view(frames, height * width, -1)
        # Recorded activations are one per frame, repeated or not.
        reuse = self.reuse_frames and recording is None
        first = first_occurrences(by_frame) if reuse else list(range(frames))
        distinct = sorted(set(first))
        chunks = -(-frames // max(1, room // (height * width)))
        size = -(-frames // chunks)  # as even as can be: what the last chunk is filled up with is computed for nothing
        encoded: dict[int, Tensor] = {}
        for start in range(0, len(distinct), size):
            chunk = distinct[start : start + size]
            filled = chunk + chunk[-1:] * (size - len(chunk))
            visual = (torch.cat([by_frame[index] for index in filled]), (size, height, width), merge)
            features = self._encode([visual], recording)
            if recording is not None:
                recording.forget_last(size - len(chunk), height * width)
            encoded |= dict(zip(chunk, features.chunk(size), strict=False))
        return torch.cat([encoded[index] for index in first])

    def _encode(
        self, visuals: Sequence[tuple[Tensor, Grid, int]], recording: Recording | None
    ) -> Float[Tensor, "tokens dim"]:
        """Everything given, in one go: patches, grid and merge size of each visual."""
        parts, grids, merges = zip(*visuals, strict=True)
        patches = torch.cat(parts) if len(parts) > 1 else parts[0]
        positions = [patch_positions(grid, merge, patches.device) for grid, merge in zip(grids, merges, strict=True)]
        rows, columns = (torch.cat(axis) for axis in zip(*positions, strict=True))
        rotation = image_rotation(rows, columns, self.config.head_dim, self.config.rope_theta)
        frame_lengths = [h * w for t, h, w in grids for _ in range(t)]

        x = self.embeddings(patches.to(self.post_layernorm.weight.dtype))
        x = self.encoder(x, rotation, frame_lengths, recording)
        x = self.post_layernorm(x)
        if recording is not None:
            recording.add_hidden(self.config.num_hidden_layers, x)
        return merge_tokens(x, grids, merges)


def first_occurrences(frames: Float[Tensor, "frames patches values"]) -> list[int]:
    """For each frame, the index of the first frame that has the very same pixels (its own, if none before has).

    A screen recording or a slide show repeats itself to the bit. A sum over the pixels' bits, weighted by place, finds
    candidates in one pass; each is then compared for good.
    """
    bits = frames.flatten(1).view(torch.int64 if frames.dtype == torch.float64 else torch.int32)
    weights = torch.arange(1, 2 * bits.shape[1], 2, device=frames.device)
    # Into buffers: small results between large ones would keep an allocator from using the large ones' room again.
    product, sums = torch.empty_like(weights), weights.new_empty(len(bits))
    for row, total in zip(bits, sums, strict=True):
        torch.sum(torch.mul(row, weights, out=product), dim=0, out=total)
    prints = sums.tolist()
    seen: dict[int, list[int]] = {}
    first = []
    for index, mark in enumerate(prints):
        same = next((k for k in seen.get(mark, []) if torch.equal(frames[k], frames[index])), index)
        if same == index:
            seen.setdefault(mark, []).append(index)
        first.append(same)
    return first


def merge_tokens(
    x: Float[Tensor, "patches dim"], grids: Sequence[Grid], merges: Sequence[int]
) -> Float[Tensor, "tokens dim"]:
    """Shrink each frame's grid of features by its merge size (bilinear: for 2, the mean of each 2 x 2 block)."""
    merged = []
    for features, (t, h, w), merge in zip(x.split([t * h * w for t, h, w in grids]), grids, merges, strict=True):
        if merge == 1:
            merged.append(features)
            continue
        image = rearrange(
            features, "(t h w m n) d -> t d (h m) (w n)", t=t, h=h // merge, w=w // merge, m=merge, n=merge
        )
        image = F.interpolate(image, size=(h // merge, w // merge), mode="bilinear")
        merged.append(rearrange(image, "t d h w -> (t h w) d"))
    return torch.cat(merged)


class PatchEmbeddings(nn.Module):
    """Flattened patches -> the residual stream.

    The checkpoint stores a convolution. Over one patch that is a matrix product, which is several times faster.

    Attributes:
        as_convolution: compute it as one all the same, for the reference's bits (see `VideoLLaMA3.exact`).
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        size = config.patch_size
        self.as_convolution = False
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, kernel_size=size, stride=size)

    def forward(self, patches: Float[Tensor, "patches values"]) -> Float[Tensor, "patches dim"]:
        weight, bias = self.patch_embedding.weight, self.patch_embedding.bias
        if self.as_convolution:
            _, c, h, w = weight.shape
            return self.patch_embedding(rearrange(patches, "n (c h w) -> n c h w", c=c, h=h, w=w)).flatten(1)
        return F.linear(patches, weight.flatten(1), bias)


class Encoder(nn.Module):
    """The blocks.

    Attributes:
        recompute: gradient checkpointing, as in `LanguageModel`.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.recompute = False
        self.layers = nn.ModuleList(EncoderLayer(config, index) for index in range(config.num_hidden_layers))

    def forward(
        self,
        x: Float[Tensor, "patches dim"],
        rotation: Rotation,
        lengths: Sequence[int],
        recording: Recording | None = None,
    ) -> Float[Tensor, "patches dim"]:
        for index, layer in enumerate(self.layers):
            if recording is not None:
                recording.add_hidden(index, x)
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, rotation, lengths, recording, use_reentrant=False)
            else:
                x = layer(x, rotation, lengths, recording)
        return x


class EncoderLayer(nn.Module):
    def __init__(self, config: VisionConfig, index: int) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config, index)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMLP(config)

    def forward(
        self,
        x: Float[Tensor, "patches dim"],
        rotation: Rotation,
        lengths: Sequence[int],
        recording: Recording | None = None,
    ) -> Float[Tensor, "patches dim"]:
        x = x + self.self_attn(self.layer_norm1(x), rotation, lengths, recording)
        return x + self.mlp(self.layer_norm2(x))


class VisionAttention(nn.Module):
    """Multi-head attention among the patches of one frame; every projection has a bias."""

    def __init__(self, config: VisionConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        x: Float[Tensor, "patches dim"],
        rotation: Rotation,
        lengths: Sequence[int],
        recording: Recording | None = None,
    ) -> Float[Tensor, "patches dim"]:
        q, k, v = (project(x).view(len(x), -1, self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, rotation), rotate(k, rotation)
        if recording is not None and recording.attentions:
            recording.add_attention(self.index, attention_maps(q, k, lengths, causal=False))
        out = packed_attention(q, k, v, lengths, causal=False)
        return self.out_proj(out.flatten(1))


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Float[Tensor, "patches dim"]) -> Float[Tensor, "patches dim"]:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
