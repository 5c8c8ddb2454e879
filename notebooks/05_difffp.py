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
# # 5. DiffFP: which patches go, what it costs and what it saves
#
# Most of a video was there a second ago. The Differential Frame Pruner (paper, section 3.1) drops visual tokens whose pixels hardly
# differ from the same place one frame earlier. **After this notebook you can** build it in a few lines, choose its threshold from a
# curve, say what it saves (and what it does not), name the clips on which it fails, and put a pruner of your own in its place.
# It takes an hour.
#
# The rule is built from the pixels up and compared with `vl3ref`, with masks that the official code made, and with transformers.

# %%
import json
import statistics
import sys
import time

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file

import vl3ref
from vl3ref import plots
from vl3ref.config import preset
from vl3ref.inputs.videos import load_video
from vl3ref.inspection import dim, visuals_of
from vl3ref.likelihood import score
from vl3ref.model.diff_fp import DiffFP, frame_change, keep_all
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity.reference import reference_inputs, reference_model
from vl3ref.pruners import Above, Share, cosine_change, pixel_change, run_length_change

sys.path.insert(0, ".")  # for check.py, beside this notebook
from check import check

MODEL = "vl3-tiny"  # or "2b", a folder, a name on the hub
FILM = "../docs/media/bunny.mp4"
DRAWN = "../docs/media/tinyworld/moves.mp4"
QUESTION, ANSWERS = "Where does the red circle move?", ["left", "right", "up", "down"]

model, processor = vl3ref.load(MODEL, "cpu")
torch.set_grad_enabled(False)


def ask(video, **overrides):
    content = [{"type": "video", "video": video}, {"type": "text", "text": QUESTION}]
    return processor([{"role": "user", "content": content}], **overrides)


# %% [markdown]
# Two clips: a film, in which nearly everything moves a little, and a drawn one, in which one thing moves over a background that
# stands still. The film is made smaller here, so that the cells run fast.

# %%
film, drawn = ask(FILM, max_tokens=1000), ask(DRAWN)
for name, inputs in {"film": film, "drawn": drawn}.items():
    (frames, rows, columns), merge = inputs.grid_sizes[0].tolist(), int(inputs.merge_sizes[0])
    print(f"{name}: {frames} frames of {rows} x {columns} patches, {rows * columns // merge**2} tokens each")

# %% [markdown]
# ## How much does a token change?
#
# A visual token stands for `merge` x `merge` patches, which lie one after another. So a reshape puts all numbers of a token in one
# row, and the frames before each other. Pixels lie between -1 and 1; the mean absolute difference is multiplied by 255, as the
# released code does.


# %%
def changes(inputs):
    """(frames - 1, tokens of a frame), for inputs that hold one video."""
    frames, merge = int(inputs.grid_sizes[0, 0]), int(inputs.merge_sizes[0])
    by_token = rearrange(inputs.pixel_values, "(t n m) c -> t n (m c)", t=frames, m=merge**2)
    return (by_token[1:] - by_token[:-1]).abs().mean(dim=-1) * 255


for inputs in (film, drawn):
    frames, merge = int(inputs.grid_sizes[0, 0]), int(inputs.merge_sizes[0])
    assert torch.allclose(changes(inputs), frame_change(inputs.pixel_values, frames, merge), atol=1e-4)


def show_changes(inputs, width=plots.WIDTH):
    [seen] = visuals_of(inputs, keep_all(inputs))
    values = torch.cat([torch.zeros(1, seen.tokens_per_frame), changes(inputs)])
    return plots.heat(seen.pictures(), values.view(seen.keep.shape), [f"{second:.1f}s" for second in seen.times], width)


figure = show_changes(film, width=6)

# %%
figure = show_changes(drawn)

# %% [markdown]
# ## The rule
#
# A token is kept if its change exceeds the threshold, 0.1 in the released models. Two exceptions: the first frame of a video is
# kept whole, since there is nothing before it, and so are images. And of every frame at least the first token stays, because
# the frame's time in the prompt must be followed by something.


# %%
def my_difffp(inputs, features=None, threshold=0.1):
    masks = []
    for pixels, (frames, rows, columns), merge, modal in inputs.visuals():
        keep = torch.ones(frames, rows * columns // merge**2, dtype=torch.bool)
        if modal == "video" and frames > 1:
            by_token = rearrange(pixels, "(t n m) c -> t n (m c)", t=frames, m=merge**2)
            keep[1:] = (by_token[1:] - by_token[:-1]).abs().mean(dim=-1) * 255 > threshold
            keep[:, 0] |= ~keep.any(dim=1)
        masks.append(keep.flatten())
    return torch.cat(masks)


for inputs in (film, drawn):
    assert torch.equal(my_difffp(inputs), DiffFP()(inputs))
figure = plots.contact_sheet(visuals_of(film, my_difffp(film))[0])

# %%
figure = plots.contact_sheet(visuals_of(drawn, my_difffp(drawn))[0])

# %% [markdown]
# The official code made masks for cases with images, several videos and both merge sizes. They are stored with the tests of
# `vl3ref`; ours are equal.

# %%
GOLDENS = "../tests/goldens/official-tiny"
stored = load_file(f"{GOLDENS}/cases.safetensors")
with open(f"{GOLDENS}/cases.json") as file:
    cases = json.load(file)
for name, case in cases.items():
    if case["modals"]:
        ids, *rest = (stored[f"{name}.{field}"] for field in ("input_ids", "pixel_values", "grid_sizes", "merge_sizes"))
        mask = my_difffp(ModelInputs(ids, torch.tensor([len(ids)]), *rest, case["modals"]))
        assert torch.equal(mask, stored[f"{name}.keep_mask"])
        print(f"{name}: {int(mask.sum())} of {len(mask)} tokens kept, as in the official code")

# %% [markdown]
# ## What the threshold means
#
# Pixels from -1 to 1 are two units wide, so after the factor of 255 a change of 1.0 is **half** a grey level, on average over the
# token's numbers. The released threshold is far below one level. How few numbers have to change, by a single level each, for a
# token to be kept?

# %%
numbers = int(drawn.merge_sizes[0]) ** 2 * drawn.pixel_values.shape[1]
print(f"a threshold of {DiffFP().threshold} is {DiffFP().threshold / 2} grey levels of 255")
enough = int(DiffFP().threshold / 2 * numbers) + 1
print(f"a token has {numbers} numbers: it is kept if {enough} of them ({enough / numbers:.0%}) change by one level")

# %% [markdown]
# The comparison is made on float32 pixels, before they are cast to the model's dtype. In bfloat16 neighbouring grey levels are
# still different numbers, but the steps between them are uneven, so a token near the threshold can fall on its other side.
# How uneven, and how many decisions differ on these clips?

# %%
levels = (torch.arange(256) / 255 - 0.5) / 0.5
steps = levels.bfloat16().float().diff() / levels.diff()
print(
    f"in bfloat16 a step of one grey level becomes one of {float(steps.min()):.2f} to {float(steps.max()):.2f} levels"
)
for name, inputs in {"film": film, "drawn": drawn}.items():
    cast = ModelInputs(**{**vars(inputs), "pixel_values": inputs.pixel_values.bfloat16().float()})
    different = int((my_difffp(cast) != my_difffp(inputs)).sum())
    print(f"{name}: {different} of {len(my_difffp(inputs))} decisions differ if pixels are cast to bfloat16 first")

# %% [markdown]
# ## The threshold's curve
#
# The share of tokens that is kept, for every threshold. A third clip is the drawn one seen by a camera: each number gets noise
# of one grey level. A fourth is the drawn clip without its codec: the frames of the file differ a little even where nothing was
# drawn, because H.264 encodes the whole background again in some frames.

# %%
drawn_frames, seconds = load_video(DRAWN)
noise = np.random.default_rng(0).normal(0, 1, drawn_frames.shape)
noisy = ask(np.clip(np.round(drawn_frames + noise), 0, 255).astype(np.uint8))
median = np.median(drawn_frames, axis=0)  # what is there most of the time: the background
still = np.abs(drawn_frames - median).max(axis=-1, keepdims=True) < 8
clean = ask(np.where(still, median, drawn_frames).astype(np.uint8))

clips = {"film": film, "drawn": drawn, "drawn, noise of one level": noisy, "drawn, background made still": clean}
thresholds = np.logspace(-3, 2.4, 80)


def share_kept(inputs, threshold):
    return float(my_difffp(inputs, threshold=threshold).float().mean())


curves = {name: (thresholds, [share_kept(inputs, x) for x in thresholds]) for name, inputs in clips.items()}
figure = plots.lines(curves, x="threshold", y="share of tokens kept", log_x=True, width=7)
figure.axes[0].axvline(DiffFP().threshold, color="black", linestyle=":", linewidth=1)
for name, inputs in clips.items():
    print(f"{name}: {share_kept(inputs, DiffFP().threshold):.0%} kept at the released threshold")

# %% [markdown]
# A flat stretch of a curve is a safe place for a threshold: on its left lies noise, on its right what moves. The film has none:
# its camera or its grain changes every token. On the drawn clip the released threshold, the dotted line, lies in the
# middle of what the codec leaves, and one level of camera noise undoes the pruning.
#
# ## The paper's rule and the released one
#
# The paper calls it the 1-norm distance of consecutive patches in pixel space, and its threshold 0.1. It says neither in which
# units pixels are, nor whether the distance is a sum or a mean. Three readings, beside the released rule and the one of
# Run-Length Tokenization, which the paper follows:

# %%
inputs = film
frames, merge = int(inputs.grid_sizes[0, 0]), int(inputs.merge_sizes[0])
by_token = rearrange(inputs.pixel_values, "(t n m) c -> t n (m c)", t=frames, m=merge**2)
difference = (by_token[1:] - by_token[:-1]).abs()
readings = {  # the threshold that the released rule would need to do the same, and what the reading says
    "a sum, pixels in [-1, 1]": (0.1 * 255 / numbers, difference.sum(-1) > 0.1),
    "released: a mean x 255": (0.1, difference.mean(-1) * 255 > 0.1),
    "a mean, pixels in [-1, 1]": (0.1 * 255, difference.mean(-1) > 0.1),
    "a mean, pixels in [0, 1]": (0.1 * 255 * 2, (difference / 2).mean(-1) > 0.1),
}
for threshold, reading in readings.values():
    apart = (changes(film) - threshold).abs() > 1e-3  # but for ties
    assert torch.equal(reading[apart], (changes(film) > threshold)[apart])

print(f"{'':28} threshold   grey levels" + "".join(f"{name:>9}" for name in ("film", "drawn")))
for name, (threshold, _) in readings.items():
    kept = "".join(f"{share_kept(inputs, threshold):9.0%}" for inputs in (film, drawn))
    print(f"{name:28} {threshold:9.3f} {threshold / 2:13.3f}{kept}")
kept = "".join(f"{float(Above(run_length_change, 0.1)(inputs).float().mean()):9.0%}" for inputs in (film, drawn))
print(f"{'RLT: mean, ImageNet units':28}{'':24}{kept}")

# %% [markdown]
# The readings lie orders of magnitude apart. Only the released one makes the keep masks of the released models, so it is the
# default of `vl3ref`; the others are `DiffFP(threshold)` with the number in the table. On the film's
# second frame:

# %%
[seen] = visuals_of(film, keep_all(film))
masks = [DiffFP(threshold)(film).view(seen.keep.shape)[1] for threshold, _ in readings.values()]
figure = plots.frames(np.stack([dim(seen.pictures()[1], mask) for mask in masks]), list(readings), width=8)

# %% [markdown]
# ## What dropping a token means
#
# A dropped token leaves the decoder's sequence, and positions are counted afterwards: 0, 1, 2, ... without gaps. So pruning is
# nothing but deleting rows of the decoder's input.

# %%
unpruned = model.splice(drawn, pruner=keep_all)
mask = my_difffp(drawn)
kept = torch.ones_like(drawn.input_ids, dtype=torch.bool)
kept[drawn.is_visual(model.config.visual_token_ids)] = mask
by_hand = model.language_model(unpruned.embeddings[kept])
pruned = model(drawn, pruner=my_difffp)
assert torch.allclose(by_hand, pruned.logits, atol=1e-4 * float(by_hand.abs().max()))
print(f"{len(kept)} tokens, {int(kept.sum())} after pruning")

# %% [markdown]
# transformers does the same with a mask that it is given; the weights are shared.

# %%
model.pruner = my_difffp
logits = reference_model(model)(**reference_inputs(model, drawn)).logits[0]
print(f"largest difference of any logit: {float((logits - by_hand).abs().max()):.1e}")
assert torch.allclose(logits, by_hand, atol=1e-4 * float(by_hand.abs().max()))
model.pruner = DiffFP()

# %% [markdown]
# ## What it saves
#
# Every frame is still **encoded** whole: a patch's features depend on its whole frame, and the mask is known only beside them. What
# becomes smaller is everything that the decoder does: reading the prompt, and the KV cache that each new word reads. Measured
# here, on the film:


# %%
def median_seconds(work):
    work()
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


decoder, language = model.language_model, model.config.language
encoding = median_seconds(lambda: model.vision_encoder(film.pixel_values, film.grid_sizes, film.merge_sizes))
deciding = median_seconds(lambda: DiffFP()(film))
print(f"encoding all frames {encoding * 1e3:.0f} ms, deciding which tokens stay {deciding * 1e3:.1f} ms")
everything = model.splice(film, pruner=keep_all)
visual = film.is_visual(model.config.visual_token_ids)
for share in (1, 0.5, 0.25, 0.1):
    kept = torch.ones_like(visual)
    kept[visual] = Share(pixel_change, share)(film)
    x = everything.embeddings[kept]
    reading = median_seconds(lambda x=x: decoder.hidden(x, [len(x)]))
    cache = (
        2 * language.num_hidden_layers * language.num_key_value_heads * language.head_dim * len(x) * x.element_size()
    )
    print(f"{share:4.0%} of visual tokens: reading the prompt {reading * 1e3:5.0f} ms, KV cache {cache / 1e6:.2f} MB")

# %% [markdown]
# How that looks for the released 2B on a long clip follows from its sizes. A matrix product of a token with a weight takes two
# operations for every number of the weight; attention takes four for each pair of tokens and each of the head's numbers.

# %%
big, length, side = preset("2b"), 180, 24  # a frame of 24 x 24 patches


def operations(share):
    """(encoder, decoder reading the prompt), for visual tokens alone."""
    patches = length * side**2
    tokens = share * patches / 4
    sight, text = big.vision, big.language
    encoder = 2 * sight.parameters * patches
    encoder += 4 * length * (side**2) ** 2 * sight.hidden_size * sight.num_hidden_layers
    blocks = text.parameters - text.vocab_size * text.hidden_size  # looking words up costs nothing
    pairs = tokens**2 / 2  # each token with those before it
    return encoder, 2 * blocks * tokens + 4 * pairs * text.num_attention_heads * text.head_dim * text.num_hidden_layers


shares = np.linspace(0.02, 1, 50)
encoder, reading = np.array([operations(share) for share in shares]).T / 1e12
figure = plots.lines(
    {"encoder": (shares, encoder), "decoder, prompt": (shares, reading), "together": (shares, encoder + reading)},
    x="share of visual tokens kept",
    y="10^12 operations",
    title=f"{length} frames of {side} x {side} patches, 2B",
)
least = operations(0.25)[1] + operations(1)[0]
print(f"a quarter of the tokens: the decoder computes {operations(1)[1] / operations(0.25)[1]:.1f} times less,")
print(f"encoder and decoder together {sum(operations(1)) / least:.2f} times less")
per_token = 2 * big.language.num_hidden_layers * big.language.num_key_value_heads * big.language.head_dim * 2
tokens = length * side**2 // 4
print(f"KV cache in bfloat16: {tokens * per_token / 1e6:.0f} MB whole, {tokens * per_token / 4e6:.0f} MB of a quarter")

# %% [markdown]
# ## What it costs
#
# The model was trained with DiffFP, so what it makes of more or fewer tokens is seen in its answers. Each row is a pruner;
# the last columns are the likelihood of the possible answers, relative to one another.


# %%
def answers_with(pruner, inputs=drawn):
    kept = model.splice(inputs, pruner).keep_mask
    likely = score(model, inputs, ANSWERS, processor, pruner=pruner).softmax(0)
    says = processor.decode(model.generate(inputs, max_new_tokens=8, pruner=pruner)[0])
    shown = "  ".join(f"{answer} {float(p):.0%}" for answer, p in zip(ANSWERS, likely, strict=True))
    return f"{int(kept.sum()):3} of {len(kept)} tokens   {shown}   says {says!r}"


pruners = {
    "keep all": keep_all,
    "released": DiffFP(),
    "a mean, [-1, 1]": DiffFP(25.5),
    "half, by change": Share(pixel_change, 0.5),
    "a quarter": Share(pixel_change, 0.25),
}
print(QUESTION)
for name, pruner in pruners.items():
    print(f"{name:16} {answers_with(pruner)}")

# %% [markdown]
# One question on one clip shows how to look, not what is true in general: `vl3ref eval tinyworld --pruner ...` asks hundreds.
#
# ## Where it fails
#
# A token is compared with the frame **before**, not with what the decoder last saw of that place. A change that is slow enough is
# never seen. This clip darkens one pixel of every token in each frame, just below the threshold:

# %%
merge, count = processor.config.video_merge_size, 150
side = merge * processor.config.patch_size
darker = int(0.98 * 0.1 / 2 * numbers / 3)  # levels, of the three channels of one pixel
y, x = np.mgrid[:side, :side] - (side - 1) / 2
rank = np.argsort(np.argsort((y**2 + x**2).ravel(), kind="stable")).reshape(side, side)  # from the middle outwards
slow = np.stack([220 - darker * (rank < frame) for frame in range(count)]).astype(np.uint8)
slow = np.tile(slow[..., None], (1, 4, 4, 3))
slow_inputs = ask(slow)
mask = DiffFP()(slow_inputs)
[seen] = visuals_of(slow_inputs, mask)
first, *later = seen.kept_per_frame
print(f"largest change between neighbours {float(changes(slow_inputs).max()):.3f}")
print(f"tokens kept: {first} of the first frame, {min(later)} to {max(later)} of each of the {len(later)} after it")
figure = plots.frames(seen.pictures()[[0, count // 3, 2 * count // 3, count - 1]], ["first", "", "", "last"], width=7)

# %% [markdown]
# Of all frames after the first only the token in the corner is kept, which has to be. The third exercise mends this.
#
# ## A pruner of your own
#
# A pruner is a function of the inputs and the encoder's features that returns which tokens are kept. It can be handed to one call
# or become the model's. This one keeps what DiffFP keeps **and the tokens around it**, so that a moving thing is seen with its
# surroundings:


# %%
def with_a_rim(inputs, features=None):
    masks = DiffFP()(inputs).split(inputs.tokens_per_visual())
    wider = []
    for mask, (_, (frames, rows, columns), merge, _) in zip(masks, inputs.visuals(), strict=True):
        grid = mask.view(frames, 1, rows // merge, columns // merge).float()
        wider.append(torch.nn.functional.max_pool2d(grid, 3, stride=1, padding=1).flatten() > 0)
    return torch.cat(wider)


mask = model(drawn, pruner=with_a_rim).keep_mask
assert torch.equal(mask, with_a_rim(drawn)) and bool((mask | ~DiffFP()(drawn)).all())
print(f"{'with a rim':16} {answers_with(with_a_rim)}")
figure = plots.contact_sheet(visuals_of(drawn, mask)[0])

# %% [markdown]
# And one that reads features: a token is dropped if its feature points in the same direction as the one before it in that place.
# FrameFusion (arXiv 2501.01986) finds similar tokens like this. `vl3ref.pruners` has it, to compare with.


# %%
def turned(inputs, features):
    masks = []
    parts = zip(features.split(inputs.tokens_per_visual()), inputs.visuals(), strict=True)
    for part, (_, (frames, _, _), _, modal) in parts:
        directions = torch.nn.functional.normalize(part, dim=-1).view(frames, -1, part.shape[1])
        keep = torch.ones(directions.shape[:2], dtype=torch.bool)
        if modal == "video":
            keep[1:] = (directions[1:] * directions[:-1]).sum(-1) < 0.6
        keep[:, 0] |= ~keep.any(dim=1)
        masks.append(keep.flatten())
    return torch.cat(masks)


assert torch.equal(model(drawn, pruner=turned).keep_mask, model(drawn, pruner=Above(cosine_change, 0.4)).keep_mask)
print(f"{'features turned':16} {answers_with(turned)}")

# %% [markdown]
# To train with a pruner, set it in a change: `vl3ref train --change file.py:f` with `def f(model): model.pruner = with_a_rim`
# (notebook 10).
#
# ## Exercises
#
# Each has a cell to fill and a check that says at once whether it is right. Solutions: `solutions/n05.py`.
#
# **1.** Which threshold keeps tokens whose numbers change by more than `levels` grey levels of 255 on average?


# %%
def threshold_for(levels: float) -> float: ...


check("5.1", threshold_for)

# %% [markdown]
# **2.** A budget instead of a threshold. `change` is (frames - 1, tokens): return the lowest threshold, 0 or one of the changes, at
# which at most `budget` of these tokens are kept (those **above** it). Leave the first frame and the one token of every frame
# aside. Equal changes are kept or dropped together.


# %%
def threshold_for_budget(change: torch.Tensor, budget: int) -> float: ...


check("5.2", threshold_for_budget)

# %% [markdown]
# **3.** Compare each token with **the last one kept** in its place, instead of the frame before, so that slow changes add up. All else
# as in DiffFP: images and first frames are whole; a frame that would lose everything keeps its first token (which then is the
# last one kept there). Try it on `slow_inputs` when it is right.


# %%
def since_last_kept(inputs: ModelInputs, features=None, threshold: float = 0.1) -> torch.Tensor: ...


check("5.3", since_last_kept)
