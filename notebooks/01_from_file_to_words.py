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
# # 1. From file to words: a video's way through the model
#
# A question about a clip passes through twelve steps: frames, pixels, patches, prompt, features, tokens, words.
# **After this notebook you can** name each step, give the shape of what it hands on, draw it, and say which file of `vl3ref`
# holds it. It takes an hour; the cells run in seconds.
#
# Every step is computed here in a few lines and compared with what `vl3ref` computes. Later notebooks take single steps
# apart: sizes and patches (2), positions (3), attention (4), DiffFP (5), the decoder (6), generation (7).

# %%
import sys
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image

import vl3ref
from vl3ref import plots
from vl3ref.inputs.patches import target_sizes
from vl3ref.inputs.video_files import open_video_file
from vl3ref.inputs.videos import load_video
from vl3ref.inspection import visuals_of
from vl3ref.model.diff_fp import DiffFP, keep_all
from vl3ref.model.kv_cache import first_step
from vl3ref.model.vision import patch_positions
from vl3ref.parity.reference import reference_answer, reference_inputs, reference_model
from vl3ref.watching import watch

sys.path.insert(0, ".")  # for check.py, beside this notebook
from check import check

MODEL = "vl3-tiny"  # or "2b", a folder, a name on the hub
CLIP = "../docs/media/tinyworld/moves.mp4"  # or a clip of your own
QUESTION = "Where does the red circle move?"

model, processor = vl3ref.load(MODEL, "cpu")
torch.set_grad_enabled(False)
vision, decoder = model.vision_encoder, model.language_model
patch, merge = processor.config.patch_size, processor.config.video_merge_size

way = []


def step(name, x):
    """Note what a step hands on, and print its shape."""
    way.append((name, tuple(x.shape), str(x.dtype).removeprefix("torch.")))
    print(f"{name}: {way[-1][1]} {way[-1][2]}")


# %% [markdown]
# What all steps together give, in three lines. Everything below takes them apart.

# %%
conversation = [
    {"role": "user", "content": [{"type": "video", "video": CLIP}, {"type": "text", "text": QUESTION}]},
]
inputs = processor(conversation)
answer = model.generate(inputs, max_new_tokens=12)[0]
print(f"{QUESTION} {processor.decode(answer)}")

# %% [markdown]
# ## 1. File to frames
#
# A clip has more frames than a model can read. The released models take one for each second. Of the frames within a slot of
# time the **last** is taken, as ffmpeg's fps filter does when it rounds down. The frame's time is the beginning of its slot.
#
# `vl3ref/inputs/videos.py` does this for every kind of source; `max_frames` thins what is left, in long videos.

# %%
file, fps = open_video_file(Path(CLIP)), processor.config.fps
starts, end = file.starts - file.starts[0], file.ends[-1] - file.starts[0]
slots = int((end + 1e-4) * fps)  # a frame's time in the file is rounded: allow for it
chosen = [int((starts < (slot + 1) / fps - 1e-4).sum()) - 1 for slot in range(slots)]
frames = np.stack([file.read(index) for index in chosen])
times = file.starts[0] + np.arange(slots) / fps

their_frames, their_times = load_video(CLIP, fps=fps, max_frames=None)
assert np.array_equal(frames, their_frames) and np.allclose(times, their_times)
print(f"{len(starts)} frames in the file, shown over {end:.1f} s; taken: {chosen}")
step("frames", frames)
figure = plots.frames(frames, [f"{time:.1f}s" for time in times])

# %% [markdown]
# ## 2. Frames to a size that fits
#
# A visual token stands for `merge` x `merge` patches of 14 x 14 pixels, so both sides of a frame become multiples of that.
# The shape of the frame stays, to the nearest multiple: no square, no padding. A long or large video shrinks until its tokens
# fit the budget. Notebook 2 builds the rule.

# %%
limits = (processor.config.max_tokens, processor.config.min_tokens)
[(height, width)] = target_sizes([(len(frames), *frames.shape[1:3])], [merge], *limits)
resized = np.stack([Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames])
print(f"{frames.shape[1]} x {frames.shape[2]} -> {height} x {width}, multiples of {patch * merge}")
step("resized", resized)

# %% [markdown]
# ## 3. Pixels to patches
#
# Levels from 0 to 255 become numbers from -1 to 1. Then every frame is cut into patches, and each patch is a row of numbers:
# channel, row, column. There is no batch axis and no frame axis: all patches of all frames lie one after another.

# %%
pixels = torch.from_numpy((resized / 255 - 0.5) / 0.5).float()
patches = rearrange(
    pixels, "t (h m1 p1) (w m2 p2) c -> (t h w m1 m2) (c p1 p2)", m1=merge, m2=merge, p1=patch, p2=patch
)
assert torch.allclose(patches, inputs.pixel_values, atol=1e-6)
grid = (len(frames), height // patch, width // patch)
assert inputs.grid_sizes.tolist() == [list(grid)]
step("pixel_values", patches)
[seen] = visuals_of(inputs, keep_all(inputs))
figure = plots.patches(seen)

# %% [markdown]
# Thin lines are patches, thick ones the tokens that they will be merged into. The patches of one token follow one another
# ("merge-block order"), which makes every later step that needs them together a reshape. The numbers of the first frame's
# patches, in the order in which they lie in the tensor:

# %%
blocks = {"h": grid[1] // merge, "w": grid[2] // merge, "m": merge, "n": merge}
order = rearrange(torch.arange(grid[1] * grid[2]), "(h w m n) -> (h m) (w n)", **blocks)
figure = plots.matrix(order, title="place of each patch in the packed tensor", width=4)

# %% [markdown]
# ## 4. Words to ids
#
# The prompt is text with a place for every frame, and the frame's time in front of it. This is all the model is told about
# time. Then text becomes ids, and the place of each frame is filled with one id for each visual token.

# %%
print(processor.prompt(conversation))
visual = inputs.is_visual(model.config.visual_token_ids)
per_frame = grid[1] * grid[2] // merge**2
assert int(visual.sum()) == len(frames) * per_frame
print(
    f"{len(visual)} ids: {int(visual.sum())} visual ({len(frames)} frames of {per_frame}), {int((~visual).sum())} text"
)
step("input_ids", inputs.input_ids)


# %%
def strip(kept):
    """The sequence as a row: -1 is text, other numbers are the frame that a visual token belongs to."""
    row = torch.full(visual.shape, -1.0)
    row[visual] = torch.arange(len(frames)).repeat_interleave(per_frame).float()
    row[~kept] = torch.nan
    return row


everything = torch.ones_like(visual)
figure = plots.matrix(strip(everything)[None], rows=["prompt"], title="text (dark) and frames, in order", width=8)

# %% [markdown]
# ## 5. Patches to the residual stream
#
# One linear layer, the same for every patch. Checkpoints store it as a convolution whose stride is its size, which is the same
# thing.

# %%
kernel = vision.embeddings.patch_embedding
x = patches @ kernel.weight.flatten(1).T + kernel.bias
by_convolution = kernel(patches.view(-1, 3, patch, patch))  # a picture for each patch, a single position in each
assert torch.allclose(x, by_convolution.flatten(1), atol=1e-4)
step("patch embeddings", x)

# %% [markdown]
# ## 6. The encoder's blocks
#
# Each block adds two things to the stream: what attention gathers from the other patches **of the same frame**, and what a
# small network makes of each patch alone. No frame sees another; rows and columns enter by rotating queries and keys.

# %%
rotation = vision.rotary(patch_positions((grid[1], grid[2], merge), patches.device).repeat(len(frames), 1))
lengths = [grid[1] * grid[2]] * len(frames)
stream = [x]
for block in vision.encoder.layers:
    x = x + block.self_attn(block.layer_norm1(x), rotation, lengths)
    x = x + block.mlp(block.layer_norm2(x))
    stream.append(x)
x = vision.post_layernorm(x)


def on_grid(x):
    """Merge-block order -> row by row, to be looked at."""
    return rearrange(x, "(t h w m n) d -> (t h m w n) d", t=len(frames), **blocks)


with watch(model) as watched:
    model(inputs)
scale = max(float(state.abs().max()) for state in stream)
for ours, theirs in zip([*stream[:-1], x], watched.vision.hidden_states, strict=True):
    # watch lists what enters each block, and at the end what leaves the last norm
    assert torch.allclose(on_grid(ours), theirs, atol=1e-5 * scale)
step("features of patches", x)

# %% [markdown]
# A picture of features: the three directions in which they vary most become red, green and blue, so that what the encoder finds
# alike has one colour. The middle frame after some of the blocks:

# %%
middle = len(frames) // 2
shown = sorted({round(depth) for depth in np.linspace(0, len(stream) - 1, min(6, len(stream)))})
colours = [plots.colours(on_grid(stream[depth]), *grid)[middle] for depth in shown]
names = ["embedded" if depth == 0 else f"after block {depth - 1}" for depth in shown]
figure = plots.frames(np.stack(colours), names)

# %% [markdown]
# And where patches look: attention of the last block, from the patch with the strongest feature to all patches of its frame, as
# a mean over heads.

# %%
of_frame = on_grid(x).view(*grid, -1)[middle].flatten(0, 1)
strongest = int(of_frame.norm(dim=1).argmax())
looks = watched.vision.attentions[-1][middle].mean(0)[strongest]
print(f"frame {middle}, from the patch in row {strongest // grid[2]}, column {strongest % grid[2]}")
figure = plots.heat(seen.pictures()[[middle]], looks.view(1, *grid[1:]), width=4)

# %% [markdown]
# ## 7. Patches to visual tokens
#
# The mean of each `merge` x `merge` block becomes one token. `vl3ref` shrinks the grid bilinearly, as the official code does;
# for a size of 1 or 2 that is the mean.

# %%
features = x.view(-1, merge**2, x.shape[1]).mean(dim=1)
assert torch.allclose(features, vision(inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes), atol=1e-5 * scale)
step("features of tokens", features)
tokens_grid = (len(frames), grid[1] // merge, grid[2] // merge)
figure = plots.frames(plots.colours(features, *tokens_grid), [f"{time:.1f}s" for time in times])

# %% [markdown]
# ## 8. To the decoder's width
#
# The projector is a small network that is applied to each token alone: linear, GELU, linear. After it, a visual token is as
# wide as a word.

# %%
linears = [part for part in model.projector.modules() if isinstance(part, torch.nn.Linear)]
projected = linears[0](features)
for linear in linears[1:]:
    projected = linear(0.5 * projected * (1 + torch.erf(projected / 2**0.5)))
assert torch.allclose(projected, model.projector(features), atol=1e-4)
step("projected", projected)

# %% [markdown]
# How alike these tokens are: the cosine of every two, over all frames. Bright lines beside the diagonal are places that look the
# same in the next frames, and so say nothing new.

# %%
directions = torch.nn.functional.normalize(projected, dim=1)
figure = plots.matrix(directions @ directions.T, title="cosine of every two visual tokens", width=5)

# %% [markdown]
# ## 9. DiffFP: fewer tokens
#
# A token is dropped if its pixels hardly differ from the same place one frame earlier. The first frame stays whole, and of every
# frame at least one token stays: the time in front of it must be followed by something. Notebook 5 is about this.

# %%
by_token = rearrange(inputs.pixel_values, "(t n m) c -> t n (m c)", t=len(frames), m=merge**2)
change = (by_token[1:] - by_token[:-1]).abs().mean(dim=-1) * 255
keep = torch.cat([torch.ones(1, per_frame, dtype=torch.bool), change > 0.1])
keep[:, 0] |= ~keep.any(dim=1)
assert torch.equal(keep.flatten(), DiffFP()(inputs))
if not model.config.use_token_compression:  # a checkpoint that prunes nothing
    keep[:] = True
step("kept of projected", projected[keep.flatten()])
figure = plots.contact_sheet(visuals_of(inputs, keep.flatten())[0])

# %% [markdown]
# ## 10. Splice
#
# Words are looked up in the embedding table; the kept visual tokens take the places of their ids; places of dropped ones leave
# the sequence. What the decoder reads is one row of vectors, in which a patch of a video and a word are the same kind of thing.

# %%
kept = torch.ones_like(visual)
kept[visual] = keep.flatten()
embeddings = decoder.embed_tokens(inputs.input_ids)
embeddings[visual] = projected
embeddings = embeddings[kept]
spliced = model.splice(inputs)
assert torch.allclose(embeddings, spliced.embeddings, atol=1e-4) and spliced.lengths == [len(embeddings)]
step("embeddings", embeddings)
figure = plots.matrix(
    torch.stack([strip(everything), strip(kept)]), rows=["before", "after"], title="what is left of the prompt", width=8
)

# %% [markdown]
# ## 11. The decoder's blocks
#
# The same two steps as in the encoder, but each token looks only at itself and at what came before it. The head compares what
# leaves the last block with every word of the vocabulary.

# %%
plan = first_step([len(embeddings)], None, embeddings.device)  # positions 0, 1, 2, ... counted after the drop
rotation = decoder.rotary(plan.positions, embeddings.dtype)
states = [embeddings]
for block in decoder.layers:
    y = states[-1]
    y = y + block.self_attn(block.input_layernorm(y), rotation, plan)
    states.append(y + block.mlp(block.post_attention_layernorm(y)))
logits = decoder.head(decoder.norm(states[-1]))
expected = model(inputs).logits
assert torch.allclose(logits, expected, atol=1e-4 * float(expected.abs().max()))
step("logits", logits)

# %% [markdown]
# What would the model answer if it stopped after fewer blocks? The head reads the last position after each of them. Rows are
# depths, columns the words that the whole model finds most likely.

# %%
depths = torch.stack([decoder.head(decoder.norm(state[-1:]))[0].softmax(-1) for state in states])
best = depths[-1].topk(8).indices
words = [repr(processor.decode([token], skip_special_tokens=False)) for token in best]
rows = ["embedded", *(f"after block {n}" for n in range(len(decoder.layers)))]
figure = plots.matrix(depths[:, best], rows, words, "probability of the answer's first word", width=7)

# %% [markdown]
# ## 12. Words
#
# The likeliest word is appended, and the decoder reads everything again, until it says that it has finished. `generate` gives the
# same and keeps keys and values of what was read (notebooks 6 and 7).

# %%
written = []
while len(written) < 12 and (not written or written[-1] not in model.config.language.eos_token_ids):
    so_far = torch.cat([embeddings, decoder.embed_tokens(torch.tensor(written, dtype=torch.int64))])
    written.append(int(decoder(so_far, logits_to_keep=1).argmax()))
assert written == answer.tolist()
print([processor.decode([token], skip_special_tokens=False) for token in written])
print(f"{QUESTION} {processor.decode(written)}")

# %% [markdown]
# ## And transformers
#
# The same weights in transformers' model, given the same patches and the kept tokens of the prompt.

# %%
theirs = reference_model(model)
given = reference_inputs(model, inputs)
their_logits = theirs(**given).logits[0]
difference = float((their_logits - logits).abs().max())
print(f"largest difference of any logit: {difference:.1e}, of logits up to {float(logits.abs().max()):.1f}")
print(f"transformers' model says: {processor.decode(reference_answer(theirs, given, len(written)))}")
assert difference < 1e-4 * float(logits.abs().max())

# %% [markdown]
# ## The whole way

# %%
for name, shape, kind in way:
    print(f"{name:20} {shape!s:20} {kind:8} {int(np.prod(shape)):>12,} numbers")

# %% [markdown]
# ## Exercises
#
# Each has a cell to fill and a check that says at once whether it is right. Solutions: `solutions/n01.py`.
#
# **1.** A clip of `frames` frames has been resized to `height` x `width` pixels. How many patches does the encoder read, and how
# many visual tokens are there before DiffFP? Patches have a side of 14 pixels; return both numbers.


# %%
def patches_and_tokens(frames: int, height: int, width: int, merge: int) -> tuple[int, int]: ...


check("1.1", patches_and_tokens)

# %% [markdown]
# **2.** The way back from patches to pictures: `pixel_values` (patches, 3 x 14 x 14) in merge-block order, the grid (frames, rows,
# columns) of patches, and the merge size. Return (frames, height, width, 3) as uint8 levels from 0 to 255; round to the nearest.


# %%
def to_pictures(pixel_values: torch.Tensor, grid: tuple[int, int, int], merge: int) -> torch.Tensor: ...


check("1.2", to_pictures)

# %% [markdown]
# **3.** To draw what the decoder looks at, you need to know which place of its sequence shows which frame. Given which of the ids are
# visual (`visual`, over the whole prompt), how many tokens each frame has, and the keep mask over the visual tokens, return for
# every place of the sequence **after** the drop the number of its frame, and -1 for text. No loop over tokens is needed.


# %%
def frame_of_each_place(visual: torch.Tensor, tokens_per_frame: int, keep: torch.Tensor) -> torch.Tensor: ...


check("1.3", frame_of_each_place)
