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
# # 3. Two-dimensional rotary positions
#
# Attention knows no order: it sees a bag of patches. SigLIP adds a learned vector for each place of a fixed square; VideoLLaMA 3's
# encoder drops that table and rotates queries and keys by row and column instead. **After this notebook you can** derive the
# rotation, build it for one axis and for two, say what a score can depend on and what not, and test what happens on sizes that
# were never seen in training. It takes an hour; in the middle a few small models are trained.
#
# Every part is compared with `vl3ref`, and a whole attention with transformers.

# %%
import sys

import numpy as np
import torch
from einops import rearrange
from torch import nn
from torch.nn.functional import cross_entropy, interpolate, one_hot

import vl3ref
from vl3ref import plots
from vl3ref.inputs.images import load_image
from vl3ref.model.rope import ImageRotary, inverse_frequencies
from vl3ref.model.rope import rotate as vl3ref_rotate
from vl3ref.model.rope import rotation as vl3ref_rotation
from vl3ref.model.vision import patch_positions
from vl3ref.parity.reference import record_reference

sys.path.insert(0, ".")  # for check.py, beside this notebook
from check import check

MODEL = "vl3-tiny"  # or "2b", a folder, a name on the hub
PICTURE = "../docs/media/cat.jpg"
model, processor = vl3ref.load(MODEL, "cpu")
vision = model.config.vision
print(f"{vision.num_attention_heads} heads of {vision.head_dim} numbers, base {vision.rope_theta:g}")

# %% [markdown]
# ## One pair of numbers, one axis
#
# Take two numbers of a query as a complex number q, and the same two of a key as k. Their part of the dot product is the real part
# of q k*. Rotate the query at position m by the angle mω, and the key at n by nω:
#
# (q e^(imω)) (k e^(inω))* = q k* e^(i(m − n)ω)
#
# m and n are left only in their **difference**. Nothing was added to the vectors, and nothing was learned: the same two contents
# at the same distance have the same score, wherever they stand.

# %%
generator = torch.Generator().manual_seed(0)
q, k = torch.randn(2, dtype=torch.complex64, generator=generator)
omega, turn = 0.3, lambda angle: torch.exp(torch.tensor(1j * angle))
scores = [
    float((q * turn(omega * m) * (k * turn(omega * n)).conj()).real) for m, n in ((2, 0), (7, 5), (102, 100), (5, 7))
]
print("positions (2, 0), (7, 5), (102, 100), (5, 7):", [f"{score:.4f}" for score in scores])
assert np.allclose(scores[:3], scores[0], atol=1e-4)

# %% [markdown]
# ## Many pairs, many speeds
#
# One pair cannot tell distances apart that differ by a full turn. So every pair has a speed of its own: the first turns by one
# radian for each step, the others ever more slowly, down to nearly 1/base. With P pairs, pair j has the speed base^(−j/P).


# %%
def speeds(pairs, base):
    return base ** (-torch.arange(pairs) / pairs)


pairs = vision.head_dim // 4  # for each axis, as will be seen
assert torch.allclose(
    speeds(pairs, vision.rope_theta), inverse_frequencies(2 * pairs, vision.rope_theta, torch.device("cpu"))
)
turns = 2 * torch.pi / speeds(pairs, vision.rope_theta)
print("steps for a full turn:", [f"{float(steps):.3g}" for steps in turns])
figure = plots.matrix(
    (torch.arange(64)[:, None] * speeds(pairs, vision.rope_theta)).cos().T,
    rows=[f"pair {j}" for j in range(pairs)],
    title="cosine of each pair's angle, by position",
    diverging=True,
    width=7,
)

# %% [markdown]
# The score of a content with itself, by distance: the mean of these cosines. It is highest at a distance of 0 and falls with ripples.
# A smaller base turns all pairs faster, so that near distances differ more.

# %%
distance = torch.arange(64)
curves = {
    f"base {base:g}": (distance, (distance[:, None] * speeds(pairs, base)).cos().mean(1))
    for base in (100.0, 1000.0, 10000.0)
}
figure = plots.lines(curves, x="distance", y="score with itself")

# %% [markdown]
# ## Real numbers, whole heads
#
# A head of d numbers has d/2 pairs. Which numbers make a pair is a convention: here number i and number i + d/2, as in Qwen and
# in transformers (others pair neighbours; weights of one are useless in the other). A rotation takes (a, b) to
# (a cos − b sin, b cos + a sin).


# %%
def rotate(x, angles):
    """x (tokens, heads, d), angles (tokens, d/2)."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


x = torch.randn(5, 3, 16, generator=generator)
angles = torch.randn(5, 8, generator=generator)
assert torch.allclose(rotate(x, angles), vl3ref_rotate(x, vl3ref_rotation(angles, torch.float32)), atol=1e-6)
assert torch.allclose(rotate(x, angles).norm(dim=-1), x.norm(dim=-1), atol=1e-5)  # a rotation keeps lengths

# %% [markdown]
# ## Two axes
#
# A patch has a row and a column. Half of the pairs turn by the row, the other half by the column; both halves have the same
# speeds. So a head of d numbers has d/4 speeds.


# %%
def angles_of(positions, head_dim, base):
    """(patches, 2) rows and columns -> (patches, head_dim / 2)."""
    row, column = positions.float().unbind(dim=1)
    speed = speeds(head_dim // 4, base)
    return torch.cat([row[:, None] * speed, column[:, None] * speed], dim=1)


def grid_of(rows, columns):
    """Rows and columns of all patches, row by row."""
    return torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), dim=-1).flatten(0, 1)


SIDE = 24
angles = angles_of(grid_of(SIDE, SIDE), vision.head_dim, vision.rope_theta)
theirs = ImageRotary(vision)(grid_of(SIDE, SIDE))
assert torch.allclose(angles.cos(), theirs.cos[:, 0, : vision.head_dim // 2], atol=1e-5)
assert torch.allclose(angles.sin(), theirs.sin[:, 0, vision.head_dim // 2 :], atol=1e-5)

# %% [markdown]
# The cosine of some pairs' angles over a grid of patches: the first half sees rows only, the second columns only.

# %%
chosen = [0, pairs // 4, pairs // 2, pairs, pairs + pairs // 4, pairs + pairs // 2]
maps = (angles.cos().T[chosen].view(len(chosen), SIDE, SIDE) * 127.5 + 127.5).to(torch.uint8)
figure = plots.frames(maps[..., None].expand(-1, -1, -1, 3).numpy(), [f"pair {j}" for j in chosen])

# %% [markdown]
# ## What a score can depend on
#
# For fixed contents, the score of two patches is a sum over pairs: some know only the difference of rows, the others only that of
# columns. So it is **f(rows apart) + g(columns apart)**. Twice the mean-free part of a sum of this form is zero, which is checked
# here, and so is that the score does not depend on where the two patches are.

# %%
head = torch.randn(2, 1, 1, vision.head_dim, generator=generator)
middle = SIDE // 2


def scores_at(offset):
    """Of a query in the middle and keys everywhere, all of them moved by an offset (rows, columns)."""
    where = grid_of(SIDE, SIDE) + torch.tensor(offset)
    turned = angles_of(where, vision.head_dim, vision.rope_theta)
    key = rotate(head[1].expand(len(where), 1, -1), turned)
    query = rotate(head[0], turned[[middle * SIDE + middle]])
    return (key[:, 0] @ query[0, 0]).view(SIDE, SIDE)


score = scores_at((0, 0))
both = score - score.mean(0, keepdim=True) - score.mean(1, keepdim=True) + score.mean()
assert torch.allclose(both, torch.zeros_like(both), atol=1e-4)  # nothing depends on rows and columns together
for offset in ((3, 0), (0, 50), (200, 100)):
    assert torch.allclose(scores_at(offset), score, atol=1e-2)  # float32 angles of large positions round
    print(f"moved by {offset}: largest difference {float((scores_at(offset) - score).abs().max()):.1e}")
figure = plots.matrix(
    score, title="score of the middle with every patch, for two fixed contents", diverging=True, width=5
)

# %% [markdown]
# The pattern is a plaid: stripes of rows plus stripes of columns. "Up to the left" in one head cannot be preferred to the sum of
# "up" and "left". But softmax follows: exp(f + g) = exp(f) exp(g), so an attention map can have a single spot, where a good row
# crosses a good column.
#
# ## What trained heads prefer
#
# Take the first block of the encoder, and the mean query and the mean key of a picture: what is left is what each head prefers
# whatever it sees. The softmax of the score, by rows and columns apart:

# %%
with torch.no_grad():
    conversation = [{"role": "user", "content": [{"type": "image", "image": PICTURE}]}]
    inputs = processor(conversation, max_tokens=200, image_merge_size=2)
    encoder = model.vision_encoder
    (frames, rows, columns), merge = inputs.grid_sizes[0].tolist(), int(inputs.merge_sizes[0])
    block = encoder.encoder.layers[0]
    where = patch_positions((rows, columns, merge), torch.device("cpu"))
    embedded = encoder.embeddings(inputs.pixel_values, where)
    normed, attention = block.layer_norm1(embedded), block.self_attn
    q, k, v = (
        layer(normed).view(len(normed), -1, vision.head_dim)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )

REACH = 6
around = grid_of(2 * REACH + 1, 2 * REACH + 1)
turned = angles_of(around, vision.head_dim, vision.rope_theta)
keys = rotate(k.mean(0, keepdim=True).expand(len(around), -1, -1), turned)
query = rotate(q.mean(0, keepdim=True), turned[[len(around) // 2]])[0]
preferred = (torch.einsum("n h d, h d -> h n", keys, query) / vision.head_dim**0.5).softmax(-1)
heads = min(12, len(preferred))
shown = preferred[:heads] / preferred[:heads].amax(1, keepdim=True)
maps = (shown.view(heads, 2 * REACH + 1, 2 * REACH + 1, 1) * 255).to(torch.uint8).expand(-1, -1, -1, 3).numpy()
figure = plots.frames(maps, [f"head {h}" for h in range(heads)])

# %% [markdown]
# ## Where each patch is
#
# The processor lists patches in merge-block order: those of one visual token are neighbours in the tensor. Their rows and columns have
# to be listed in the same order. This is the error that ports make most easily, because nothing breaks.

# %%
by_row = grid_of(rows, columns)
in_blocks = rearrange(by_row, "(h m w n) yx -> (h w m n) yx", h=rows // merge, w=columns // merge, m=merge, n=merge)
assert torch.equal(in_blocks, where)


def attend(positions):
    """The first block's attention, by hand."""
    turned = angles_of(positions, vision.head_dim, vision.rope_theta)
    scores = torch.einsum("n h d, m h d -> h n m", rotate(q, turned), rotate(k, turned)) / vision.head_dim**0.5
    return attention.out_proj(torch.einsum("h n m, m h d -> n h d", scores.softmax(-1), v).flatten(1))


with torch.no_grad():
    ours = attend(in_blocks)
    assert torch.allclose(ours, attention(normed, encoder.rotary(where), [len(normed)]), atol=1e-4)
    for name, positions in {"row by row": by_row, "forgotten": torch.zeros_like(by_row)}.items():
        off = (attend(positions) - ours).norm() / ours.norm()
        print(f"positions {name}: the block's attention is off by {float(off):.0%} of its size (merge size {merge})")

# %% [markdown]
# The same attention inside transformers' model, with the same weights:

# %%
recorded = record_reference(model, inputs, new_tokens=1)["vision.layers.0.attention"]
print(f"largest difference {float((recorded - ours).abs().max()):.1e}, of values up to {float(ours.abs().max()):.1f}")
assert torch.allclose(recorded, ours, atol=1e-4 * max(1, float(ours.abs().max())))

# %% [markdown]
# ## Sizes never seen: an experiment
#
# A rotation exists for any row and column, so a picture of any size **can** be computed. Whether it is **understood** is another
# question. The smallest experiment: every place of a grid shows one of eight things, and each place has to say what its right
# neighbour shows. One attention suffices. It is trained on 6 x 6 alone, with three kinds of positions: a learned table (stretched
# to other sizes, as is usual), and rotations of two bases.

# %%
TRAINED, THINGS, WIDTH, HEAD = 6, 8, 64, 32


class OneAttention(nn.Module):
    def __init__(self, base=None):
        super().__init__()
        self.base = base  # None: a table
        self.embed, self.out = nn.Linear(THINGS, WIDTH), nn.Linear(WIDTH, THINGS)
        self.q, self.k, self.v = nn.Linear(WIDTH, HEAD), nn.Linear(WIDTH, HEAD), nn.Linear(WIDTH, WIDTH)
        self.table = nn.Parameter(torch.randn(1, WIDTH, TRAINED, TRAINED) / 2)

    def attention(self, x, rows, columns):
        if self.base is None:
            x = x + interpolate(self.table, size=(rows, columns), mode="bilinear")[0].flatten(1).T
            q, k = self.q(x), self.k(x)
        else:
            turned = angles_of(grid_of(rows, columns), HEAD, self.base)
            q, k = (rotate(y.transpose(0, 1), turned).transpose(0, 1) for y in (self.q(x), self.k(x)))
        return (q @ k.transpose(1, 2) / HEAD**0.5).softmax(-1)

    def forward(self, things, rows, columns):
        x = self.embed(things)
        return self.out(self.attention(x, rows, columns) @ self.v(x))


def draw(count, rows, columns, generator):
    """Things (count, places, THINGS), and what stands to the right of each; -100 in the last column."""
    things = torch.randint(0, THINGS, (count, rows, columns), generator=generator)
    right = torch.full_like(things, -100)
    right[:, :, :-1] = things[:, :, 1:]
    return one_hot(things.flatten(1), THINGS).float(), right.flatten(1)


def train(base, seed, steps=150):
    torch.manual_seed(seed)
    small, generator = OneAttention(base), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(small.parameters(), lr=0.01)
    for _ in range(steps):
        things, right = draw(32, TRAINED, TRAINED, generator)
        loss = cross_entropy(small(things, TRAINED, TRAINED).flatten(0, 1), right.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return small, float(loss.detach())


bases = {"a learned table": None, "rotation, base 10000": 10000.0, "rotation, base 100": 100.0}
trained = {}
for name, base in bases.items():
    trained[name], losses = zip(*(train(base, seed) for seed in range(3)), strict=True)
    print(f"{name}: last loss {max(losses):.4f} at most, of {len(losses)} seeds")

# %% [markdown]
# All learn it. On other sizes, as a mean over the seeds:


# %%
@torch.no_grad()
def right_on(small, rows, columns):
    things, right = draw(8, rows, columns, torch.Generator().manual_seed(1))
    asked = right >= 0
    return float((small(things, rows, columns).argmax(-1) == right)[asked].float().mean())


sides = [4, 5, 6, 7, 8, 10, 12, 16, 24]
curves = {
    name: (sides, [float(np.mean([right_on(small, side, side) for small in models])) for side in sides])
    for name, models in trained.items()
}
for name, (_, shares) in curves.items():
    print(f"{name:22}" + "".join(f"{side:4}: {share:4.0%}" for side, share in zip(sides, shares, strict=True)))
    other = [right_on(small, 4, 9) for small in trained[name]]
    print(f"{'':22}  on 4 x 9: {', '.join(f'{share:.0%}' for share in other)}")
figure = plots.lines(curves, x="side of the grid (trained on 6)", y="share of places that are right")

# %% [markdown]
# The table knows places, not distances: stretched, what was one step apart no longer is, even in grids that are smaller. The rotation
# knows the step at any place. But larger grids hold distances that training never had, and nothing taught the model to
# ignore them: where a far distance has turned the fast pairs by whole turns, they are where they were, and if the slow ones hardly
# count, attention leaks. Whether it does depends on the speeds, and on chance. The place of a larger grid whose right neighbour gets the least attention, and what it looks at:

# %%
side, maps, names = 20, [], []
asked = grid_of(side, side)[:, 1] < side - 1
with torch.no_grad():
    things, _ = draw(1, side, side, torch.Generator().manual_seed(1))
    for name, (small, *_) in trained.items():
        attention = small.attention(small.embed(things), side, side)[0]
        to_the_right = attention.diagonal(offset=1)[asked[:-1]]  # of the place after each, where that is in its row
        place = int(asked.nonzero()[to_the_right.argmin()])
        names.append(f"{name}: row {place // side}, column {place % side}")
        maps.append((attention[place] / attention[place].max()).view(side, side))
        print(f"{names[-1]} gives its right neighbour {float(to_the_right.min()):.1%} of its attention")
pictures = (torch.stack(maps) * 255).to(torch.uint8)[..., None].expand(-1, -1, -1, 3).numpy()
figure = plots.frames(pictures, names, width=8)

# %% [markdown]
# So rotary positions make any size possible, and seeing many sizes in training makes them work: the first training stage of
# VideoLLaMA 3 (vision encoder adaptation) does this, on pictures of all sizes.
#
# ## The trained encoder on canvases of any size
#
# The drawn form, pasted on ever larger blank canvases. Attention sees the blank patches too, so its features do change; how much is
# printed as the mean cosine with those of the form alone, at two places of the canvas. And what the model answers.


# %%
def pasted(picture, rows_before, columns_before, times, unit):
    """A picture on a canvas `times` as large, in the colour of its corner, some units from the corner."""
    height, width, _ = picture.shape
    canvas = np.empty((height * times, width * times, 3), np.uint8)
    canvas[:] = picture[0, 0]
    canvas[rows_before * unit :, columns_before * unit :][:height, :width] = picture
    return canvas


@torch.no_grad()
def features_of(picture):
    """(rows, columns, dim) of the visual tokens."""
    inputs = processor([{"role": "user", "content": [{"type": "image", "image": picture}]}], min_tokens=1)
    features = encoder(inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)
    return features.view(*(inputs.grid_sizes[0, 1:] // inputs.merge_sizes[0]).tolist(), -1)


question = "How much is the tea?"
form, unit = (
    load_image("../docs/media/tinyworld/form.png"),
    processor.config.patch_size * processor.config.image_merge_size,
)
alone = features_of(form)
height, width, _ = alone.shape
for times in (1, 2, 3, 4):
    ends = (height * (times - 1), width * (times - 1))  # as far from the corner as it can be
    near = []
    for top, left in ((0, 0), ends):
        there = features_of(pasted(form, top, left, times, unit))[top : top + height, left : left + width]
        near.append(f"{float(torch.cosine_similarity(there, alone, dim=-1).mean()):.3f}")
    picture = pasted(form, 0, 0, times, unit)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    answer = model.generate(processor([{"role": "user", "content": content}]), max_new_tokens=12)[0]
    print(f"canvas {picture.shape[0]} x {picture.shape[1]}: cosine {near}; {question} {processor.decode(answer)}")

# %% [markdown]
# ## Exercises
#
# Each has a cell to fill and a check that says at once whether it is right. Solutions: `solutions/n03.py`.
#
# **1.** The angles of one patch, (head_dim / 2,): first those of its row, then those of its column.


# %%
def angles_of_patch(row: int, column: int, head_dim: int, base: float) -> torch.Tensor: ...


check("3.1", angles_of_patch)

# %% [markdown]
# **2.** Rotate with complex numbers, as the derivation does: no sine, no cosine. `x` is (tokens, heads, d), `angles` (tokens, d / 2), and
# number i is paired with number i + d/2. `torch.complex` and `torch.polar` make complex tensors.


# %%
def rotate_complex(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor: ...


check("3.2", rotate_complex)

# %% [markdown]
# **3.** A third axis, time, as newer models have it. Positions are (tokens, 3): frame, row, column. `shares` says how many of the pairs
# turn by each, in this order; an axis with s pairs has the speeds base^(−j/s), j < s. Rotate `x` (tokens, heads, d) by them, for
# any number of axes and shares, and without a loop over tokens. (With shares (0, d/4, d/4) it is the encoder's rotation.)


# %%
def rotate_axes(x: torch.Tensor, positions: torch.Tensor, shares: tuple[int, ...], base: float) -> torch.Tensor: ...


check("3.3", rotate_axes)
