# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Packed attention: one tensor, many frames, no mask
#
# Frames have any size here, and a frame must not see another. **After this notebook you can** pack sequences of different
# lengths into one tensor, attend within each of them without a mask, say what padding and masks would have cost, and
# explain how grouped-query and causal attention fit in. It takes half an hour; the cells run in seconds.
#
# Everything is built from tensors up, and compared with `vl3ref` in the cell, and `vl3ref` with transformers at the end.

# %%
import sys

import torch
from einops import rearrange
from torch.nn.functional import scaled_dot_product_attention

import vl3ref
from vl3ref import plots
from vl3ref.model.attention import packed_attention
from vl3ref.parity.reference import reference_inputs, reference_model

sys.path.insert(0, ".")  # for check.py, beside this notebook
from check import check

MODEL = "vl3-tiny"  # or "2b", a folder, a name on the hub
MEDIA = "../docs/media"
model, processor = vl3ref.load(MODEL, "cpu")

# %% [markdown]
# ## Frames of different sizes
#
# A picture and a clip, in one conversation. The processor cuts each into patches of 14 x 14 pixels and lays them one after
# another: there is no batch axis, and no padding.

# %%
content = [
    {"type": "image", "image": f"{MEDIA}/tinyworld/form.png"},
    {"type": "video", "video": f"{MEDIA}/tinyworld/moves.mp4"},
    {"type": "text", "text": "What do you see?"},
]
inputs = processor([{"role": "user", "content": content}])
lengths = [rows * columns for frames, rows, columns in inputs.grid_sizes.tolist() for _ in range(frames)]
print(f"pixel_values {tuple(inputs.pixel_values.shape)}: patches, and the 3 x 14 x 14 values of each")
print(f"grids (frames, rows, columns) {inputs.grid_sizes.tolist()}")
print(f"{len(lengths)} frames of {lengths} patches")

# %% [markdown]
# The first block's queries, keys and values for all of them. A hook reads them where the encoder computes them.

# %%
block = model.vision_encoder.encoder.layers[0]
caught = {}
handle = block.self_attn.attend.register_forward_hook(lambda _, args, out: caught.update(args=args, out=out))
with torch.no_grad():
    model.vision_encoder(inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)
handle.remove()
q, k, v, caught_lengths = caught["args"]
print(f"q {tuple(q.shape)}: patches, heads, values of a head; lengths {caught_lengths}")

# %% [markdown]
# ## The plain way: a loop
#
# softmax(q kᵀ / √d) v, frame by frame. This is the definition; everything after it has to give the same.


# %%
def attend_one(q, k, v):
    """One frame: (patches, heads, head_dim) each."""
    scores = torch.einsum("n h d, m h d -> h n m", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("h n m, m h d -> n h d", scores.softmax(-1), v)


def attend_loop(q, k, v, lengths):
    frames = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    return torch.cat([attend_one(*frame) for frame in frames])


looped = attend_loop(q, k, v, caught_lengths)
assert torch.allclose(looped, packed_attention(q, k, v, caught_lengths, causal=False), atol=1e-5)
assert torch.allclose(looped, caught["out"], atol=1e-5)

# %% [markdown]
# ## The expensive way: a mask
#
# One attention over everything, with a mask that forbids a patch to look at another frame. The answer is the same. The
# cost is not: every pair of patches gets a score, and most of them are thrown away.


# %%
def attend_masked(q, k, v, lengths):
    frame_of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = frame_of[:, None] == frame_of[None, :]
    batch = (rearrange(x, "n h d -> 1 h n d") for x in (q, k, v))
    return rearrange(scaled_dot_product_attention(*batch, attn_mask=mask), "1 h n d -> n h d"), mask


masked, mask = attend_masked(q, k, v, caught_lengths)
assert torch.allclose(masked, looped, atol=1e-5)
print(f"{mask.numel():,} pairs, {mask.float().mean():.1%} of them within a frame")
figure = plots.matrix(mask, title="who may look at whom", width=4)

# %% [markdown]
# How that grows with a clip's length, for frames of the size that the released models see. Within frames the number of pairs
# grows with the number of frames; over everything it grows with its square.

# %%
patches, counts = 24 * 24, [1, 2, 4, 8, 16, 32, 64, 128, 180]
within = [count * patches**2 for count in counts]
all_pairs = [(count * patches) ** 2 for count in counts]
print(f"{counts[-1]} frames: {all_pairs[-1] / within[-1]:.0f} times as many pairs with a mask as without")
figure = plots.lines(
    {"one mask over everything": (counts, all_pairs), "within frames": (counts, within)},
    x="frames",
    y="scores per head",
    log_x=True,
    log_y=True,
)

# %% [markdown]
# ## The packed way
#
# Neighbours of equal length, such as a video's frames, are a batch already: one reshape, one call for all of them. A picture
# among them is a call of its own. This is what `vl3ref/model/attention.py` does, but for kernels that take lengths directly.


# %%
def attend_packed(q, k, v, lengths):
    runs = []  # [length of each frame, number of frames in a row]
    for length in lengths:
        if runs and runs[-1][0] == length:
            runs[-1][1] += 1
        else:
            runs.append([length, 1])
    parts = zip(*(x.split([length * count for length, count in runs]) for x in (q, k, v)), strict=True)
    out = []
    for (_, count), part in zip(runs, parts, strict=True):
        batch = (rearrange(x, "(s n) h d -> s h n d", s=count) for x in part)
        out.append(rearrange(scaled_dot_product_attention(*batch), "s h n d -> (s n) h d"))
    return torch.cat(out), runs


packed, runs = attend_packed(q, k, v, caught_lengths)
assert torch.allclose(packed, looped, atol=1e-5)
print(f"{len(caught_lengths)} frames, {len(runs)} calls: {[f'{count} x {length}' for length, count in runs]}")

# %% [markdown]
# ## The decoder: causal, and with fewer keys than queries
#
# The decoder packs conversations as the encoder packs frames. A token looks at itself and at what came before it, and several
# query heads share a key head (grouped-query attention): that makes the KV cache smaller.

# %%
with torch.no_grad():
    caught.clear()
    attend = model.language_model.layers[0].self_attn.attend
    handle = attend.register_forward_hook(lambda _, args, out: caught.update(args=args, out=out))
    model(inputs)
    handle.remove()
q, k, v, text_lengths = caught["args"]
print(f"q {tuple(q.shape)}, k {tuple(k.shape)}: {q.shape[1] // k.shape[1]} query heads for each key head")


def attend_causal(q, k, v):
    """One conversation."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = torch.einsum("n h d, m h d -> h n m", q, k) / q.shape[-1] ** 0.5
    later = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
    return torch.einsum("h n m, m h d -> n h d", scores.masked_fill(later, -torch.inf).softmax(-1), v)


assert torch.allclose(attend_causal(q, k, v), caught["out"], atol=1e-5)

# %% [markdown]
# ## And transformers
#
# The same weights in transformers' model, on the clip: what vl3ref computes from end to end, they compute.

# %%
theirs, clip = reference_model(model), processor([{"role": "user", "content": content[1:]}])
with torch.no_grad():
    ours = model(clip).logits
    logits = theirs(**reference_inputs(model, clip)).logits[0]
difference = float((logits - ours).abs().max())
print(f"largest difference of any logit: {difference:.1e}, of logits up to {float(logits.abs().max()):.1f}")
assert difference < 1e-4 * float(logits.abs().max())

# %% [markdown]
# ## Exercises
#
# Each has a cell to fill and a check that says at once whether it is right. Solutions: `solutions/n04.py`.
#
# **1.** How many scores per head does attention within frames compute? And one mask over everything? Return both.


# %%
def scores(lengths: list[int]) -> tuple[int, int]:
    """(within frames, over everything)"""


check("4.1", scores)

# %% [markdown]
# **2.** Kernels for packed sequences (flash attention's `varlen`) take no lengths, but where each segment begins and where the
# last one ends: `[4, 2, 4]` becomes `[0, 4, 6, 10]`, as int32. Write it without a loop.


# %%
def cumulative(lengths: list[int]) -> torch.Tensor: ...


check("4.2", cumulative)

# %% [markdown]
# **3.** A window: a patch looks only at the patches of its own frame and of the frame before it (`lengths` as above, all frames
# of one video). Return the output for every patch, (patches, heads, head_dim). `attend_one` above computes one set of queries
# against any set of keys.


# %%
def attend_to_two_frames(q, k, v, lengths): ...


check("4.3", attend_to_two_frames)
