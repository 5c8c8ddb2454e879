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
# # 2. Any resolution: from pixels to packed patches
#
# Most vision encoders take squares of one size. VideoLLaMA 3's takes every picture at its own size and shape (Any-resolution Vision
# Tokenization, paper, section 3.1). **After this notebook you can** compute the size that a picture gets, cut it into packed patches,
# encode pictures of different sizes in one call, and say what a fixed square and padding would have lost, in numbers.
# It takes an hour.
#
# Sizes and patches are compared with `vl3ref` and with what the official processor made; features with transformers.

# %%
import json
import math
import sys

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from safetensors.torch import load_file

import vl3ref
from vl3ref import plots
from vl3ref.inputs.images import load_image
from vl3ref.inputs.patches import patchify, target_sizes
from vl3ref.inputs.videos import load_video
from vl3ref.inspection import visuals_of
from vl3ref.model.diff_fp import keep_all
from vl3ref.parity.reference import reference_inputs, reference_model

sys.path.insert(0, ".")  # for check.py, beside this notebook
from check import check

MODEL = "vl3-tiny"  # or "2b", a folder, a name on the hub
MEDIA = "../docs/media"
GOLDENS = "../tests/goldens/processing"  # sizes and pixels that the official processor made

model, processor = vl3ref.load(MODEL, "cpu")
torch.set_grad_enabled(False)
PATCH = processor.config.patch_size

# %% [markdown]
# Pictures of several sizes: a photo, a frame of a film, a strip cut from it, a column cut from it, and a small drawn form.

# %%
film = load_video(f"{MEDIA}/bunny.mp4", max_frames=4)[0][-1]
pictures = {
    "photo": load_image(f"{MEDIA}/cat.jpg"),
    "film": film,
    "strip": film[250:400],
    "column": film[:, 420:620],
    "form": load_image(f"{MEDIA}/tinyworld/form.png"),
}
for name, picture in pictures.items():
    height, width, _ = picture.shape
    print(f"{name:8} {height:4} x {width:4} pixels, {width / height:.2f} times as wide as high")

# %% [markdown]
# ## Which size?
#
# A picture is cut into patches of 14 x 14 pixels, and `merge` x `merge` of them become one visual token. Both sides have to be
# multiples of the two, a **unit**. So the rule is: the nearest multiples, unless the picture then has too many tokens (shrink
# it, and round down) or too few (enlarge it, and round up). Python rounds halves to the even neighbour, and so did the
# authors.


# %%
def fitting_size(height, width, unit, most, least):
    """Of one picture; at most `most` tokens, at least `least`."""
    size = round(height / unit) * unit, round(width / unit) * unit
    if size[0] * size[1] > most * unit**2:
        shrink = math.sqrt(height * width / (most * unit**2))
        size = tuple(math.floor(side / shrink / unit) * unit for side in (height, width))
    if size[0] * size[1] < least * unit**2:
        grow = math.sqrt(least * unit**2 / (height * width))
        size = tuple(math.ceil(side * grow / unit) * unit for side in (height, width))
    return max(size[0], unit), max(size[1], unit)


for name, picture in pictures.items():
    for merge in (1, 2):
        for most in (16384, 700, 100):
            size = fitting_size(*picture.shape[:2], PATCH * merge, most, 16)
            assert size == target_sizes([(1, *picture.shape[:2])], [merge], most, 16)[0]
    size = fitting_size(*picture.shape[:2], PATCH * 2, 700, 16)
    print(f"{name}: {picture.shape[0]} x {picture.shape[1]} -> {size[0]} x {size[1]}, merged by 2, 700 tokens at most")

# %% [markdown]
# The same for every single picture in the list of sizes that the official processor computed:

# %%
with open(f"{GOLDENS}/sizes.json") as file:
    cases = [case for case in json.load(file) if len(case["items"]) == 1 and case["items"][0][1] == 1]
for case in cases:
    [(_, _, height, width)], [merge] = case["items"], case["merge_sizes"]
    assert [list(fitting_size(height, width, 14 * merge, case["max_tokens"], 16))] == case["target_sizes"]
print(f"{len(cases)} official sizes are ours")

# %% [markdown]
# ## The budget is a conversation's
#
# Several pictures, or a video's frames, share the tokens: all frames may have the same number of pixels. So a longer
# video is seen less sharply. For frames of the film, with the limit of the released models and `vl3ref`'s rule:

# %%
counts = [1, 2, 4, 8, 16, 32, 64, 128, 180]
sizes = [target_sizes([(count, *film.shape[:2])], [2], max_tokens=16384)[0] for count in counts]
per_frame = [height * width // (2 * PATCH) ** 2 for height, width in sizes]
for count, (height, width), tokens in zip(counts, sizes, per_frame, strict=True):
    print(f"{count:3} frames of {height} x {width} pixels: {tokens:5} tokens each, {count * tokens:6} together")
figure = plots.lines(
    {"tokens of a frame": (counts, per_frame), "tokens of the video": (counts, np.multiply(counts, per_frame))},
    x="frames",
    log_x=True,
    log_y=True,
)

# %% [markdown]
# ## Pixels to patches
#
# Resize (Pillow's bicubic filter: torch's gives other pixels), scale levels from 0..255 to -1..1, cut. Patches of one token follow
# each other, so that merging them later is a reshape; within a patch the order is channel, row, column.


# %%
def to_patches(picture, size, merge):
    resized = np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    scaled = torch.from_numpy((resized / 255 - 0.5) / 0.5).float()
    return rearrange(scaled, "(h m1 p1) (w m2 p2) c -> (h w m1 m2) (c p1 p2)", m1=merge, m2=merge, p1=PATCH, p2=PATCH)


for picture in pictures.values():
    size = fitting_size(*picture.shape[:2], PATCH * 2, 700, 16)
    assert torch.allclose(to_patches(picture, size, 2), patchify([picture], 1, size, 2), atol=1e-6)

# %% [markdown]
# And the official processor's pixels, for the same file:

# %%
official = load_file(f"{GOLDENS}/pixels.safetensors")
with open(f"{GOLDENS}/pixels.json") as file:
    case = next(x for x in json.load(file) if x["name"] == "a")
grid, merge = case["grid_sizes"][0], case["merge_sizes"][0]
ours = to_patches(load_image(f"{GOLDENS}/a_91x37.png"), (grid[1] * 14, grid[2] * 14), merge)
theirs = official["a"]
assert torch.allclose(ours, theirs, atol=1e-6)
print(f"{tuple(ours.shape)}: largest difference {float((ours - theirs).abs().max()):.1e}")

# %% [markdown]
# ## Packed
#
# All pictures in one conversation: the patches of one after those of the other, and a list of grids that says where each ends.
# No batch axis, no padding.

# %%
content = [{"type": "image", "image": picture} for picture in pictures.values()]
inputs = processor([{"role": "user", "content": content}], max_tokens=1600)
print(inputs)
merge = int(inputs.merge_sizes[0])
grids = inputs.grid_sizes.tolist()
packed = torch.cat(
    [
        to_patches(picture, (rows * PATCH, columns * PATCH), merge)
        for picture, (_, rows, columns) in zip(pictures.values(), grids, strict=True)
    ]
)
assert torch.allclose(packed, inputs.pixel_values, atol=1e-6)
seen = visuals_of(inputs, keep_all(inputs))
figure = plots.patches(seen[0])

# %% [markdown]
# The encoder takes them in one call. Each picture gets the features that it would get alone: attention stays within it, and rows
# and columns are counted from its own corner (notebooks 3 and 4).

# %%
features = model.vision_encoder(inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)
parts = features.split(inputs.tokens_per_visual())
alone = [
    model.vision_encoder(patches, inputs.grid_sizes[[n]], inputs.merge_sizes[[n]])
    for n, (patches, *_) in enumerate(inputs.visuals())
]
for name, together, one in zip(pictures, parts, alone, strict=True):
    assert torch.allclose(together, one, atol=1e-5 * float(one.abs().max()))
    print(f"{name:8} {tuple(together.shape)}")

# %% [markdown]
# The features of the photo as a picture: the three directions in which they vary most are red, green and blue.

# %%
rows, columns = grids[0][1] // merge, grids[0][2] // merge
figure = plots.frames(plots.colours(parts[0], 1, rows, columns), width=4)

# %% [markdown]
# ## What padding costs
#
# The usual way to put pictures of several sizes in one tensor is to pad them to the largest. What that computes in vain:
# patches that are padding, and attention among them, which grows with the square.

# %%
real = [rows * columns for _, rows, columns in grids]
tallest, widest = max(rows for _, rows, _ in grids), max(columns for _, _, columns in grids)
padded = tallest * widest
print(f"patches: {sum(real)} real, {len(grids) * padded} padded to {tallest} x {widest}: ", end="")
print(f"{1 - sum(real) / (len(grids) * padded):.0%} of them are padding")
within, all_pairs = sum(n * n for n in real), len(grids) * padded**2
print(f"scores of each head: {within:,} packed, {all_pairs:,} padded, {all_pairs / within:.1f} times as many")

# %% [markdown]
# ## What a fixed square loses
#
# An encoder of one size has two ways to take another shape: **squash** it to the square, or fit it within the square and **pad**
# the rest. SigLIP, which this encoder was made from, has squares of 27 x 27 patches. To measure what is lost, resize there and
# back, and compare with the original: the root mean square error in grey levels. A side that would grow is left as it is, since
# enlarging loses nothing. Any resolution comes in two sizes: as the rule has it, and with as many patches as the square, to
# compare shapes at equal cost.

# %%
SQUARE = 27


def there_and_back(picture, size):
    """What is left of a picture that went through another size."""
    height, width, _ = picture.shape
    smaller = min(size[1], width), min(size[0], height)  # Pillow wants the width first
    small = Image.fromarray(picture).resize(smaller, Image.Resampling.BICUBIC)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def error(picture, size):
    return float(np.sqrt(np.mean((there_and_back(picture, size).astype(float) - picture) ** 2)))


def inside_square(height, width):
    scale = SQUARE * PATCH / max(height, width)
    return max(round(height * scale), 1), max(round(width * scale), 1)


ways = {
    "any resolution": lambda h, w: fitting_size(h, w, PATCH, 16384, 16),
    "any, as many patches": lambda h, w: fitting_size(h, w, PATCH, SQUARE**2, 16),
    "squashed": lambda h, w: (SQUARE * PATCH, SQUARE * PATCH),
    "padded": inside_square,
}
errors = torch.zeros(len(pictures), len(ways))
print(f"{'':9}" + "".join(f"{way:>26}" for way in ways))
for row, (name, picture) in enumerate(pictures.items()):
    cells = []
    for column, fit in enumerate(ways.values()):
        size = fit(*picture.shape[:2])
        errors[row, column] = error(picture, size)
        patches = size[0] * size[1] / PATCH**2
        cells.append(f"{errors[row, column]:6.2f}, {patches:6.0f} patches")
    print(f"{name:9}" + "".join(f"{cell:>26}" for cell in cells))
figure = plots.matrix(errors, list(pictures), list(ways), "error after resizing there and back, grey levels", width=4)

# %% [markdown]
# Three losses are seen here.
#
# - **Detail.** The square has one number of patches for a film frame and for a stamp. The rule spends patches where there are pixels.
# - **Shape.** Squashing keeps all patches busy, but squeezes a long picture along its long side: the longer it is, the larger its error
#   beside that of the right shape with as many patches. The photo is nearly a square, and there the two hardly differ: a resize by
#   a few pixels has its error, too. (Nothing here counts that things look wrong: a circle is no circle.)
# - **Room.** Padding keeps the shape and wastes what is beside it:

# %%
for name, picture in pictures.items():
    size = inside_square(*picture.shape[:2])
    print(f"{name:8} {1 - size[0] * size[1] / (SQUARE * PATCH) ** 2:4.0%} of the square is padding")

# %% [markdown]
# And a small picture is blown up to the square: the form becomes several times as many patches as it has, which say nothing more.
#
# What the strip looks like to each, its most detailed part enlarged:

# %%
strip = pictures["strip"]
detail = np.abs(np.diff(strip.astype(int), axis=1)).mean(axis=(0, 2))
start = int(np.convolve(detail, np.ones(len(strip)), "valid").argmax())
part = np.s_[:, start : start + len(strip)]
crops = [there_and_back(strip, fit(*strip.shape[:2]))[part] for fit in ways.values()]
figure = plots.frames(np.stack([strip[part], *crops]), ["original", *ways])

# %% [markdown]
# ## What the rule itself changes
#
# Rounding to multiples changes the shape a little. How much depends on the picture's size in units: a side of one and a half
# units is off by a third, a side of thirty and a half by a sixtieth. The largest relative change of the ratio of width to height,
# over a range of shapes, with merge sizes 1 and 2:

# %%
smallest = np.arange(14, 700, 6)
shapes = np.random.default_rng(0).uniform(1, 3, 60)  # width by height


def distortion(height, width, unit):
    new_height, new_width = fitting_size(height, width, unit, 16384, 1)
    ratio = (new_width / new_height) / (width / height)
    return max(ratio, 1 / ratio) - 1


curves = {
    f"merged by {merge}": (
        smallest,
        [max(distortion(side, int(side * wide), PATCH * merge) for wide in shapes) for side in smallest],
    )
    for merge in (1, 2)
}
figure = plots.lines(curves, x="shorter side in pixels", y="largest change of shape", log_y=True)

# %% [markdown]
# ## Does the model notice?
#
# The form, asked about at its own shape, and squashed to half its height before the processor sees it. One question shows how to
# look; what a model makes of squashed pictures is a matter of its training.

# %%
question = "How much is the tea?"
form = pictures["form"]
height, width, _ = form.shape
squeezed = {"as it is": (height, width), "half as high": (height // 2, width), "half as wide": (height, width // 2)}
for name, size in squeezed.items():
    picture = np.asarray(Image.fromarray(form).resize((size[1], size[0]), Image.Resampling.BICUBIC))
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    asked = processor([{"role": "user", "content": parts}])
    answer = processor.decode(model.generate(asked, max_new_tokens=12)[0])
    print(f"{name:13} {asked.tokens_per_visual()[0]:3} tokens: {question} {answer}")

# %% [markdown]
# ## And transformers
#
# All pictures in one conversation through transformers' model, with the same weights.

# %%
logits = model(inputs).logits
theirs = reference_model(model)(**reference_inputs(model, inputs)).logits[0]
difference = float((theirs - logits).abs().max())
print(f"largest difference of any logit: {difference:.1e}, of logits up to {float(logits.abs().max()):.1f}")
assert difference < 1e-4 * float(logits.abs().max())

# %% [markdown]
# ## Exercises
#
# Each has a cell to fill and a check that says at once whether it is right. Solutions: `solutions/n02.py`.
#
# **1.** How many visual tokens does a picture of `height` x `width` pixels become, merged by `merge`, if neither the budget nor the
# minimum changes its size? Patches have a side of 14 pixels; every picture gets at least one token.


# %%
def tokens_of(height: int, width: int, merge: int) -> int: ...


check("2.1", tokens_of)

# %% [markdown]
# **2.** Pictures with grids (rows, columns) of patches are padded to the most rows and the most columns among them. Which share of
# all patches is padding? Then sort them first: they are put into batches of `size`, in order of their number of patches, and each
# batch is padded for itself. Return the two shares.


# %%
def padding(grids: list[tuple[int, int]], size: int) -> tuple[float, float]:
    """(all in one batch, in batches of similar pictures)"""


check("2.2", padding)

# %% [markdown]
# **3.** Where does a patch lie? Row `index` of the packed patches of **one** picture, which has `rows` x `columns` patches in merge-block
# order and was `height` x `width` pixels large before it was resized. Return (left, top, right, bottom) in pixels of the original.


# %%
def box_of(index: int, rows: int, columns: int, merge: int, height: int, width: int) -> tuple: ...


check("2.3", box_of)
