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
# # 10. Change the model: a projector, a pruner, positions of your own
#
# Research begins with a part that is done differently. **After this notebook you can** put a projector, a pruner and a position
# scheme of your own in place of the model's, prove that your copy of a part is the part before you change it, train the
# changed model, save it and load it again, and measure it beside the unchanged one. It takes an hour; four models are trained a
# little in it, which takes minutes.
#
# Every part is first rebuilt as it is and compared with `vl3ref`, and the rebuilt model with transformers. Only then is it changed.

# %%
import io
import sys
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from torch.nn.functional import silu

import vl3ref
from vl3ref import plots
from vl3ref.errors import VL3Error
from vl3ref.inspection import visuals_of
from vl3ref.model.diff_fp import DiffFP
from vl3ref.model.rope import inverse_frequencies, rotation
from vl3ref.parity.reference import reference_inputs, reference_model
from vl3ref.tinyworld import TinyWorld, examine
from vl3ref.training.batches import Conversations
from vl3ref.training.run import train
from vl3ref.training.run_log import read_log
from vl3ref.training.stages import Stage
from vl3ref.training.trainer import Plan

sys.path.insert(0, ".")  # for check.py, beside this notebook
from check import check

MODEL = "vl3-tiny"  # or "2b", a folder, a name on the hub; to train those takes a GPU
MEDIA = "../docs/media/tinyworld"
model, processor = vl3ref.load(MODEL, "cpu")
CONVERSATIONS = [
    [{"type": "video", "video": f"{MEDIA}/moves.mp4"}, {"type": "text", "text": "Where does the red circle move?"}],
    [{"type": "image", "image": f"{MEDIA}/chart.png"}, {"type": "text", "text": "What is in the picture?"}],
    [{"type": "text", "text": "What can you do?"}],
]
inputs = processor([[{"role": "user", "content": content}] for content in CONVERSATIONS])


@torch.no_grad()
def logits_of(model, inputs=inputs):
    return model(inputs).logits


def close(a, b):
    """Equal but for rounding: the largest difference is tiny beside the largest value."""
    return a.shape == b.shape and float((a - b).abs().max()) <= 1e-4 * float(b.abs().max())


# %% [markdown]
# ## One door
#
# A change is a function that swaps parts of a freshly built model, before its weights are read. `vl3ref.load`, `train` and `examine`,
# and `--change file.py:function` on the command line, all take the same function. What it puts in gets the checkpoint's weights
# where names and shapes agree, and keeps its own values where not: `load` says so.


# %%
def load(change):
    with redirect_stderr(io.StringIO()) as said:
        changed, _ = vl3ref.load(MODEL, "cpu", change=change)
    print(
        said.getvalue().strip().replace(str(vl3ref.find_checkpoint(MODEL)), MODEL) or "all values are the checkpoint's"
    )
    return changed


# %% [markdown]
# ## A projector
#
# The projector makes a word's width of a feature's, each visual token on its own: a linear layer, GELU, a linear layer. First the
# same again, under the checkpoint's names, so that its weights go in.


# %%
class Gelu(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1 + torch.erf(x / 2**0.5))


class SameProjector(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.language.hidden_size
        layers = [nn.Linear(config.vision.hidden_size, width)]
        for _ in range(config.projector_depth - 1):
            layers += [Gelu(), nn.Linear(width, width)]
        self.readout = nn.Sequential(*layers)

    def forward(self, features):
        return self.readout(features)


def same_projector(model):
    model.projector = SameProjector(model.config)


assert close(logits_of(load(same_projector)), logits_of(model))

# %% [markdown]
# Now another: gated, as the decoder's own MLPs are. One of two projections up, through SiLU, opens and closes the other. It has
# names of its own, so nothing in the checkpoint fits.


# %%
class GatedProjector(nn.Module):
    def __init__(self, config):
        super().__init__()
        seen, width = config.vision.hidden_size, config.language.hidden_size
        self.norm = nn.LayerNorm(seen)
        self.gate, self.up, self.down = nn.Linear(seen, width), nn.Linear(seen, width), nn.Linear(width, width)

    def forward(self, features):
        x = self.norm(features)
        return self.down(silu(self.gate(x)) * self.up(x))


def gated_projector(model):
    model.projector = GatedProjector(model.config)


gated = load(gated_projector)
text_only = processor([{"role": "user", "content": CONVERSATIONS[-1]}])
assert close(logits_of(gated, text_only), logits_of(model, text_only))  # without a picture nothing has changed
sizes = [sum(p.numel() for p in one.projector.parameters()) for one in (model, gated)]
print(f"{sizes[0]:,} weights before, {sizes[1]:,} now")

# %% [markdown]
# ## A pruner
#
# A pruner says which visual tokens the decoder reads. DiffFP keeps those whose pixels changed since the frame before: once more by
# hand. (Notebook 5 takes it apart.)


# %%
def same_pruner(model):
    def pruner(inputs, features):
        masks = []
        for pixels, (frames, rows, columns), merge, modal in inputs.visuals():
            by_token = pixels.view(frames, rows * columns // merge**2, -1)
            keep = torch.ones(by_token.shape[:2], dtype=torch.bool)
            if modal == "video":
                keep[1:] = (by_token[1:] - by_token[:-1]).abs().mean(-1) * 255 > 0.1
                keep[:, 0] |= ~keep.any(1)  # a frame's time must be followed by something
            masks.append(keep.flatten())
        return torch.cat(masks) if masks else torch.ones(0, dtype=torch.bool)

    if isinstance(model.pruner, DiffFP):  # not every checkpoint prunes
        model.pruner = pruner


assert close(logits_of(load(same_pruner)), logits_of(model))

# %% [markdown]
# Another: of what DiffFP leaves, the half of each frame that a linear layer scores highest. How is a choice trained? A pruner may
# return scores in place of a mask: tokens with a score above zero are kept, and their embeddings are multiplied by it. So a
# gradient reaches the layer that scored them. Untrained, its choice is arbitrary.


# %%
class BestHalf(nn.Module):
    def __init__(self, before, dim):
        super().__init__()
        self.before, self.score = before, nn.Linear(dim, 1)

    def forward(self, inputs, features):
        keep = self.before(inputs, features)
        scores = 2 * torch.sigmoid(self.score(features))[:, 0]  # around one, and never zero
        scores = scores * (keep if keep.dtype == torch.bool else (keep > 0))
        counts = zip(inputs.tokens_per_visual(), inputs.grid_sizes[:, 0].tolist(), strict=True)
        frames = [n // frames for n, frames in counts for _ in range(frames)]
        best = []
        for one in scores.split(frames):
            wanted = max(1, round(int((one > 0).sum()) / 2))
            best.append(torch.zeros_like(one).scatter(0, one.topk(wanted).indices, 1.0))
        return scores * torch.cat(best)


def best_half(model):
    model.pruner = BestHalf(model.pruner, model.config.vision.hidden_size)


halved = load(best_half)
for name, one in (("unchanged", model), ("best half", halved)):
    keep = one(inputs).keep_mask
    print(
        f"{name}: {int(keep.sum())} of {len(keep)} visual tokens kept, in all conversations {len(logits_of(one))} tokens"
    )
figure = plots.contact_sheet(visuals_of(inputs, halved(inputs).keep_mask)[0])

# %% [markdown]
# ## Positions
#
# The decoder counts its tokens, 0, 1, 2, ... in each conversation, after pruning. As a scheme of one's own that is:


# %%
def same_positions(model):
    def positions(inputs, kept):
        counts = [int(part.sum()) for part in kept.split(inputs.lengths.tolist())]
        return torch.cat([torch.arange(n) for n in counts])

    model.positions = positions


assert close(logits_of(load(same_positions)), logits_of(model))

# %% [markdown]
# All three copies together are the original still; and transformers' model with the same weights agrees, on the clip.


# %%
def rebuilt(model):
    for change in (same_projector, same_pruner, same_positions):
        change(model)


copied = load(rebuilt)
assert close(logits_of(copied), logits_of(model))
clip = processor([{"role": "user", "content": CONVERSATIONS[0]}])
with torch.no_grad():
    theirs = reference_model(model)(**reference_inputs(model, clip)).logits[0]
assert close(logits_of(copied, clip), theirs)

# %% [markdown]
# A line of numbers knows nothing of rows and columns. M-RoPE (Qwen2-VL) gives each token three positions: time, row, column. A text
# token has the same three, and time goes on by one; all tokens of a frame share one time, and their row and column are added to it.
# The pairs of each head take turns: one rotates by time, the next by row, the next by column.


# %%
def three_positions(inputs, kept, visual_ids):
    visual = inputs.is_visual(visual_ids)
    places = [torch.zeros(0, 3, dtype=torch.int64)]
    for _, (frames, rows, columns), merge, _ in inputs.visuals():
        places.append(torch.cartesian_prod(*map(torch.arange, (frames, rows // merge, columns // merge))).view(-1, 3))
    place = torch.zeros(len(visual), 3, dtype=torch.int64)
    place[visual] = torch.cat(places)
    first_of_frame = visual & (place[:, 1:].sum(1) == 0)
    ticks = (~visual | first_of_frame).split(inputs.lengths.tolist())
    time = torch.cat([tick.cumsum(0) - 1 for tick in ticks])
    place[:, 0] = 0
    return (time[:, None] + place)[kept]


class ThreeAxes(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, positions, dtype):
        if positions.ndim == 1:  # tokens of an answer: the same on all axes
            positions = positions[:, None].expand(-1, 3)
        frequencies = inverse_frequencies(self.config.head_dim, self.config.rope_theta, positions.device)
        axis = torch.arange(len(frequencies)) % 3
        return rotation(positions[:, axis].float() * frequencies, dtype)


def three_axes(model):
    model.language_model.rotary = ThreeAxes(model.config.language)
    model.positions = lambda inputs, kept: three_positions(inputs, kept, model.config.visual_token_ids)


with_axes = load(three_axes)
assert close(logits_of(with_axes, text_only), logits_of(model, text_only))  # text is where it was
kept = model.splice(clip).kept
shown = three_positions(clip, kept, model.config.visual_token_ids)
assert torch.equal(shown[-1], shown[-1, :1].expand(3))  # the last token is text
figure = plots.lines(
    {"counted": range(len(shown)), **{name: shown[:, axis] for axis, name in enumerate(("time", "row", "column"))}},
    x="token of the prompt",
    y="position",
    width=7,
)

# %% [markdown]
# ## Does a changed model still know anything?
#
# The measure: cross-entropy per target on unseen samples of the small world, and visual tokens that the decoder reads. Before training, each
# change costs something, since the rest of the model was trained with the part that is gone.

# %%
CHANGES = {"unchanged": None, "gated projector": gated_projector, "best half": best_half, "three axes": three_axes}
mixture = {"scene": 2, "chart": 1, "document": 1, "clip": 3}
unseen = Conversations(TinyWorld(1000, mixture, turns=3, easy=0.7), processor, 48, shuffle=False)[0]


@torch.no_grad()
def measure(model):
    """Loss per target, and visual tokens of a sample that the decoder reads."""
    outputs = [model(pack, pack.labels) for pack in unseen.packs]
    targets = torch.tensor([float((pack.labels != -100).sum()) for pack in unseen.packs])
    losses = torch.stack([output.loss for output in outputs])
    tokens = sum(int(output.keep_mask.sum()) for output in outputs) / unseen.samples
    return float((losses * targets).sum() / targets.sum()), tokens


models = {name: vl3ref.load(MODEL, "cpu")[0] if change is None else load(change) for name, change in CHANGES.items()}
before = {name: measure(one) for name, one in models.items()}
for name, (loss, tokens) in before.items():
    print(f"{name:16} loss {loss:6.3f}, {tokens:.1f} visual tokens a sample")

# %% [markdown]
# ## A little training
#
# All four are trained alike: the same samples in the same order, as many steps, the same learning rates. The unchanged one too, or the
# comparison would be with a model that has seen less. `train` saves what comes out as a checkpoint.

# %%
stage = Stage(
    "a little",
    decoder_lr=4e-4,
    projector_lr=1e-3,
    vision_lr=4e-4,
    image_merge_size=processor.config.image_merge_size,
    video_merge_size=processor.config.video_merge_size,
    prune=True,
    purpose="to get used to a changed part",
    added_lr=1e-3,  # of what is in none of the three parts: the pruner's layer
)
plan = Plan(36, batch_size=10, shuffle=False, warm_up=0.1, workers=0)
place, runs, curves = TemporaryDirectory(), {}, {}
for name, change in CHANGES.items():
    folder = Path(place.name) / name
    with redirect_stderr(io.StringIO()):  # progress
        runs[name] = train(
            TinyWorld(1, mixture, turns=3, easy=0.7), stage, (models[name], processor), folder, plan, change
        )
    curves[name] = [float(row["loss"]) for row in read_log(folder / "log.csv")]
    print(f"{name:16} loss of a step {curves[name][0]:.3f} -> {curves[name][-1]:.3f}")
figure = plots.lines(curves, x="step", y="loss per target", log_y=True, width=7)

# %%
after = {name: measure(one) for name, one in models.items()}
print(f"{'':16} {'before':>8} {'after':>8} {'tokens':>8} {'new weights':>12}")
for name, one in models.items():
    known = dict(model.named_parameters())
    new = sum(p.numel() for key, p in one.named_parameters() if key not in known or known[key].shape != p.shape)
    print(f"{name:16} {before[name][0]:8.3f} {after[name][0]:8.3f} {after[name][1]:8.1f} {new:12,}")

# %% [markdown]
# Read the table as what it is: a few steps on few samples. Learning rates were chosen for what is new; where the unchanged model
# gets worse, they are larger than a trained model needs. Whether a change is good is a question for more training, more than one
# seed, and the benchmarks (`vl3ref eval`). What it does show is which parts the rest of the model depends on, and how soon it gets
# used to another.
#
# Answers beside losses: `examine` asks held-out questions and wants the right answer to the letter. With so few questions a share is
# known roughly, and the error printed with it says how roughly.

# %%
SKILLS_ASKED, QUESTIONS = ("colour", "chart", "motion"), 12
for name, one in models.items():
    scores = examine(one, processor, SKILLS_ASKED, questions=QUESTIONS)
    right, asked = sum(score.right for score in scores.values()), sum(score.asked for score in scores.values())
    share = (right + 1) / (asked + 2)  # a little towards a half, so that the error is never zero
    error = (share * (1 - share) / asked) ** 0.5
    print(f"{name:16} {right} of {asked} right, a share of {right / asked:.2f} ± {error:.2f}")

# %% [markdown]
# ## Save and load
#
# A checkpoint never names code to run. Who loads it hands over the same function, and gets the trained model back. Without the
# function it is refused, if names or shapes differ; a change without weights of its own leaves no trace in the files, so write down
# which one it was.

# %%
for name, change in CHANGES.items():
    back, _ = vl3ref.load(runs[name], "cpu", change=change)
    stored = getattr(torch, model.config.dtype)  # what the checkpoint's numbers are, and so the saved ones
    saved = {key: value.to(stored).float() for key, value in models[name].state_dict().items()}
    assert all(torch.equal(value, saved[key]) for key, value in back.state_dict().items())
    try:
        vl3ref.load(runs[name], "cpu")  # without its change
        print(f"{name}: loads, too")
    except VL3Error as error:
        first, *_, last = str(error).replace(str(runs[name]), "its folder").splitlines()
        print(f"{name}: {first} ... {last.strip()}")

# %% [markdown]
# On the command line, with the functions in a file of yours:
#
#     vl3ref train data.jsonl --stage 3 --model 2b --change mine.py:gated_projector --out runs/gated
#     vl3ref eval tinyworld --model runs/gated/final --change mine.py:gated_projector
#
# `docs/recipes/swap_a_part.md` lists every part that can be swapped, and what each is called with.
#
# ## Exercises
#
# Each has a cell to fill and a check that says at once whether it is right. Solutions: `solutions/n10.py`.
#
# **1.** A pruner that keeps every second frame of a video whole (the first, the third, ...), of the other frames the first token
# alone, and images whole. Return a bool mask (visual tokens,). `inputs.visuals()` yields what `same_pruner` above takes from it.


# %%
def every_second_frame(inputs, features=None) -> torch.Tensor: ...


check("10.1", every_second_frame)

# %% [markdown]
# **2.** A new part that starts from random numbers breaks what was learned. One that starts as **nothing** does not: beside the old
# projector, a new branch whose last layer is zero. Write a change that adds such a branch (a linear layer, GELU, a linear
# layer, say). The model's logits have to stay as they are, the old projector's weights have to keep their names (so that they
# load), and a gradient has to reach the branch.


# %%
def branch_beside_the_projector(model): ...


check("10.2", branch_beside_the_projector)

# %% [markdown]
# **3.** Positions in which a frame costs one: text tokens count on by one each, all visual tokens of a frame share one position, and
# the text after it goes on with the next. `visual` and `kept` are bool masks over all tokens of packed conversations
# of these `lengths`. A frame's tokens stand together, and between two frames there is text. Return int64 (kept tokens,), from 0
# in each conversation. Why does it not matter whether pruning comes before the counting or after?


# %%
def one_position_per_frame(visual: torch.Tensor, kept: torch.Tensor, lengths: list[int]) -> torch.Tensor: ...


check("10.3", one_position_per_frame)
