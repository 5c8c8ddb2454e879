"""The vision encoder: SigLIP turned into a NaViT (paper, section 3.1, Any-resolution Vision Tokenization).

    patches -> linear embedding -> blocks of (attention within a frame, MLP), 2D RoPE -> norm -> bilinear token merge

There is no learned position table and no pooling head: a picture of any size is as many patches as it has, and rows and
columns enter only through the rotation of queries and keys. Everything works on one packed tensor of patches; a frame's
patches never see another frame's.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from vl3ref.config import VisionConfig
from vl3ref.model.attention import attention_maps, packed_attention
from vl3ref.model.recording import Recording
from vl3ref.model.rope import Rotation, image_rotation, patch_positions, rotate

Grid = tuple[int, int, int]
"""Frames, rows and columns of patches of one video (or picture: one frame)."""


CHUNK_PATCHES = 1152
"""Two frames of 24 x 24 patches: the activations of their MLP stay in a processor's cache."""


class VisionEncoder(nn.Module):
    """Patches of any number of pictures and videos -> one feature per visual token.

    Attributes:
        chunk_patches: whole frames are encoded together until they reach this many patches. It bounds the memory of
            activations by a chunk instead of by the clip, and keeps a chunk's MLP in the processor's cache. None
            encodes everything in one go.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.chunk_patches: int | None = CHUNK_PATCHES
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
        pixel_values = pixel_values.to(self.embeddings.patch_embedding.weight.dtype)
        grids = [(t, h, w) for t, h, w in grid_sizes.tolist()]
        features, start = [], 0
        for chunk_grids, chunk_merges in self._chunks(grids, merge_sizes.tolist()):
            end = start + sum(t * h * w for t, h, w in chunk_grids)
            features.append(self._encode(pixel_values[start:end], chunk_grids, chunk_merges, recording))
            start = end
        if not features:
            return pixel_values.new_zeros(0, self.config.hidden_size)
        return torch.cat(features) if len(features) > 1 else features[0]

    def _chunks(self, grids: list[Grid], merges: list[int]) -> Iterator[tuple[list[Grid], list[int]]]:
        """Consecutive whole frames, up to `chunk_patches` of them (always at least one frame)."""
        if self.chunk_patches is None:
            if grids:
                yield grids, merges
            return
        chunk: list[Grid] = []
        chunk_merges: list[int] = []
        room = self.chunk_patches
        for (frames, height, width), merge in zip(grids, merges, strict=True):
            while frames:
                fit = min(frames, room // (height * width))
                if not fit and chunk:
                    yield chunk, chunk_merges
                    chunk, chunk_merges, room = [], [], self.chunk_patches
                    continue
                fit = max(fit, 1)
                chunk.append((fit, height, width))
                chunk_merges.append(merge)
                room -= fit * height * width
                frames -= fit
        if chunk:
            yield chunk, chunk_merges

    def _encode(
        self, patches: Tensor, grids: list[Grid], merges: list[int], recording: Recording | None
    ) -> Float[Tensor, "tokens dim"]:
        positions = [patch_positions(grid, merge, patches.device) for grid, merge in zip(grids, merges, strict=True)]
        rows, columns = (torch.cat(axis) for axis in zip(*positions, strict=True))
        rotation = image_rotation(rows, columns, self.config.head_dim, self.config.rope_theta)
        frame_lengths = [h * w for t, h, w in grids for _ in range(t)]

        x = self.embeddings(patches)
        x = self.encoder(x, rotation, frame_lengths, recording)
        x = self.post_layernorm(x)
        if recording is not None:
            recording.add_hidden(self.config.num_hidden_layers, x)
        return merge_tokens(x, grids, merges)


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
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
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
