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
# # 8. Training: four stages in miniature
#
# The paper trains its model in four stages. **After this notebook you can** say which tokens of a conversation are trained on, pack
# conversations of different lengths without changing their gradients, write the loss, the optimiser and the loop, and tell what
# each of the four stages trains, on what, and what the model has after it. It takes an hour; a small model is trained in the
# middle, which takes minutes.
#
# Every part is built here and compared with `vl3ref.training`; labels with those of the original code, and the loss and its
# gradients with transformers.

# %%
import io
import json
import math
import sys
from contextlib import redirect_stderr
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import vl3ref
from vl3ref import plots
from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.inputs.processor import Processor
from vl3ref.model.diff_fp import keep_all
from vl3ref.model.initialise import random_model
from vl3ref.model_inputs import join
from vl3ref.parity.reference import reference_inputs, reference_model
from vl3ref.tinyworld import TinyWorld
from vl3ref.training.batches import Conversations, packed
from vl3ref.training.run import train_stage
from vl3ref.training.run_log import read_log
from vl3ref.training.samples import to_conversation
from vl3ref.training.stages import OFFICIAL_2B, Stage
from vl3ref.training.trainer import Plan, schedule

sys.path.insert(0, ".")  # for check.py, beside this notebook
from check import check

MODEL = "vl3-tiny"  # whose tokenizer and processor are used; or "2b", a folder, a name on the hub
processor = vl3ref.load_processor(MODEL)
tokenizer = processor.tokenizer


def close(a, b):
    """Equal but for rounding: the largest difference is tiny beside the largest value."""
    a, b = a.detach(), b.detach()
    return a.shape == b.shape and float((a - b).abs().max()) <= 1e-4 * float(b.abs().max())


# %% [markdown]
# ## A model small enough
#
# Training is the same for any size, so the model here is a random one of the same build, with fewer blocks and narrower. Its
# tokens and its sizes of pictures are those of `MODEL`.


# %%
def small_model():
    end, stop = tokenizer.special("<|im_end|>"), tokenizer.special("<|endoftext|>")
    ids = processor.config.image_token_id, processor.config.video_token_id
    vision = VisionConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    language = LanguageConfig(
        vocab_size=tokenizer.backend.get_vocab_size(),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_ids=(end, stop),
    )
    return random_model(ModelConfig(vision, language, *ids), seed=0, deviation=None)


model = small_model()
parts = {"vision_encoder": model.vision_encoder, "projector": model.projector, "language_model": model.language_model}
for name, part in parts.items():
    print(f"{name:15} {sum(p.numel() for p in part.parameters()):9,} weights")

# %% [markdown]
# ## A sample becomes a conversation
#
# Samples come in the format of the official trainer: what is seen, and turns of "human" and "gpt", in whose text `<image>` or
# `<video>` marks the place of each. The small world draws as many of them as are asked for, all different.

# %%
world = TinyWorld(1, {"scene": 1, "chart": 1, "document": 1, "clip": 2}, turns=3, easy=0.5)
found = [world[index] for index in range(12)]
picture = next(sample for sample in found if "image" in sample and len(sample["conversations"]) > 2)
clip = next(sample for sample in found if "video" in sample and len(sample["conversations"]) > 2)
for sample in (picture, clip):
    print({name: value if name == "conversations" else "..." for name, value in sample.items()})
figure = plots.frames(clip["video"][0], [f"{time:g} s" for time in clip["timestamps"]])


# %% [markdown]
# The processor takes messages whose content is a list of parts. This is the whole of it for one picture or clip at the front of
# the first question; `vl3ref.training.samples` also places several, reads files, and refuses what it does not know.


# %%
def as_messages(sample):
    kind = "image" if "image" in sample else "video"
    visual = {"type": kind, kind: sample[kind][0]}
    if "timestamps" in sample:
        visual["timestamps"] = sample["timestamps"]
    messages = []
    for turn in sample["conversations"]:
        if turn["from"] == "gpt":
            messages.append({"role": "assistant", "content": turn["value"]})
            continue
        content = []
        for place, text in enumerate(turn["value"].split(f"<{kind}>")):
            content += [visual] if place else []
            content += [{"type": "text", "text": text.strip()}] if text.strip() else []
        messages.append({"role": {"human": "user", "system": "system"}[turn["from"]], "content": content})
    return messages


def prepared(messages, **options):
    return processor(messages, add_generation_prompt=False, return_labels=True, **options)


for sample in (picture, clip):
    mine, theirs = prepared(as_messages(sample)), prepared(to_conversation(sample))
    assert torch.equal(mine.input_ids, theirs.input_ids) and torch.equal(mine.pixel_values, theirs.pixel_values)
print(processor.prompt(as_messages(clip), add_generation_prompt=False))

# %% [markdown]
# ## Which tokens are trained on
#
# The model learns to write the assistant's turns: their words, and the token that ends them. Everything else, the pictures, the
# questions and the words "assistant" and newline, it only reads. A label is the token itself where it is trained on, and
# -100 where it is not.


# %%
def labels_of(ids, start, end, header):
    """ids (tokens,); start and end: <|im_start|> and <|im_end|>; header: the ids of "assistant" and a newline."""
    labels = torch.full_like(ids, -100)
    for opening in (ids == start).nonzero().flatten().tolist():
        first = opening + 1 + len(header)
        if ids[opening + 1 : first].tolist() == header:
            last = first + int((ids[first:] == end).nonzero()[0])
            labels[first : last + 1] = ids[first : last + 1]
    return labels


special = tokenizer.special("<|im_start|>"), tokenizer.special("<|im_end|>"), tokenizer.encode("assistant\n")[0]
for sample in found:
    inputs = prepared(as_messages(sample))
    assert torch.equal(labels_of(inputs.input_ids, *special), inputs.labels)

# %% [markdown]
# The original code's labels of five conversations lie among the tests, in Qwen2.5's ids.

# %%
rows = json.loads(Path("../tests/goldens/labels.json").read_text())
for row in rows:
    ids = torch.tensor(row["input_ids"])
    assert labels_of(ids, 151644, 151645, [77091, 198]).tolist() == row["labels"]
print("the same as the original:", ", ".join(row["name"] for row in rows))

# %% [markdown]
# The sequence of the clip's conversation, as the decoder reads it. Targets are few: most of a sequence is there to be looked at.

# %%
inputs = prepared(as_messages(clip))
visual = inputs.is_visual(model.config.visual_token_ids)
kinds = torch.zeros(len(inputs.input_ids)) + 0.5 * visual + (inputs.labels != -100)
print(
    f"{len(kinds)} tokens: {int(visual.sum())} visual, {int((inputs.labels != -100).sum())} targets:",
    [processor.decode([t], skip_special_tokens=False) for t in inputs.labels if t != -100],
)
figure = plots.matrix(
    kinds[None], rows=["tokens"], title="text (dark), visual tokens (green), targets (bright)", width=8
)

# %% [markdown]
# ## The loss
#
# Row i of the logits is about token i + 1, so labels are shifted by one against logits. The loss is the mean, over targets, of
# minus the logarithm of the probability that the target got. Visual tokens that DiffFP drops leave the sequence, and their labels
# go with them.


# %%
def cross_entropy(logits, labels):
    """logits (tokens, vocab) and labels (tokens,) of one conversation, after pruning -> loss of each target"""
    logits, labels = logits[:-1], labels[1:]
    rows = (labels != -100).nonzero().flatten()
    return -logits[rows].log_softmax(-1).gather(1, labels[rows][:, None])[:, 0]


kept = model.splice(inputs).kept
losses = cross_entropy(model(inputs).logits, inputs.labels[kept])
ours = model(inputs, inputs.labels).loss
assert close(losses.mean(), ours)
vocabulary = model.config.language.vocab_size
print(f"{ours.item():.3f}; guessed blindly, one of {vocabulary:,} tokens: {math.log(vocabulary):.3f}")

# %% [markdown]
# transformers' model with the same weights gives the same loss, and the same gradients for them.

# %%
theirs = reference_model(model)
theirs_loss = theirs(**reference_inputs(model, inputs), labels=inputs.labels[kept][None]).loss
assert close(theirs_loss, ours)
trained = list(model.parameters())
pairs = zip(torch.autograd.grad(ours, trained), torch.autograd.grad(theirs_loss, trained), strict=True)
scale = max(float(mine.abs().max()) for mine in torch.autograd.grad(losses.mean(), trained))
difference = max(float((mine - other).abs().max()) for mine, other in pairs)
print(f"largest difference of any gradient from transformers': {difference:.1e}, of gradients up to {scale:.1e}")
assert difference < 1e-4 * scale

# %% [markdown]
# ## Packing
#
# A batch of conversations is one sequence: they lie one after another, and attention stays within each. Nothing is padded. What a
# padded batch would have computed for nothing:

# %%
batch = [prepared(to_conversation(world[index])) for index in range(8)]
lengths = [len(one.input_ids) for one in batch]
print(f"lengths {lengths}: {sum(lengths)} tokens packed, {max(lengths) * len(lengths)} padded to the longest")
together = join(batch)
print(together)

# %% [markdown]
# Packing must change nothing. The loss of the pack is the mean over **all** its targets, so it is the mean of the conversations'
# losses, each counted as often as it has targets. Gradients add up the same way.


# %%
def gradient(loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)])


targets = torch.tensor([int((one.labels != -100).sum()) for one in batch])
alone = torch.stack([model(one, one.labels).loss for one in batch])
weighted = (alone * targets).sum() / targets.sum()
of_pack = model(together, together.labels).loss
gradient_of_pack = gradient(of_pack)
assert close(weighted, of_pack) and close(gradient(weighted), gradient_of_pack)
print(f"targets {targets.tolist()}")
print(f"mean over targets {of_pack.item():.4f}; mean over conversations {alone.mean().item():.4f}")

# %% [markdown]
# A step of many conversations does not fit into memory at once. It is cut into packs of neighbours, up to a number of tokens, whose
# gradients add up. Each pack's loss is divided by the targets of the **whole step**: a mean of the packs' means would depend
# on how they were cut.


# %%
def cut_into_packs(conversations, most):
    packs = [[]]
    for one in conversations:
        if packs[-1] and sum(len(other.input_ids) for other in packs[-1]) + len(one.input_ids) > most:
            packs.append([])
        packs[-1].append(one)
    return [join(pack) for pack in packs]


for most in (1, max(lengths), 2 * max(lengths), sum(lengths)):
    packs, ours = cut_into_packs(batch, most), list(packed(batch, most))
    assert [pack.lengths.tolist() for pack in packs] == [pack.lengths.tolist() for pack in ours]
    means = torch.stack([model(pack, pack.labels).loss for pack in packs])
    counts = torch.tensor([int((pack.labels != -100).sum()) for pack in packs])
    step_loss = (means * counts).sum() / counts.sum()
    assert close(step_loss, of_pack) and close(gradient(step_loss), gradient_of_pack)
    print(f"{len(packs)} packs: loss {step_loss.item():.4f}, mean of their means {means.mean().item():.4f}")

# %% [markdown]
# ## Learning rate and optimiser
#
# The learning rate rises in a straight line for a small share of the steps, then falls along half a cosine.


# %%
def share_of_peak(step, steps, warm_up):
    rise = math.ceil(warm_up * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


curve = [share_of_peak(step, 200, 0.1) for step in range(200)]
assert all(math.isclose(share, schedule(step, 200, 0.1)) for step, share in enumerate(curve))
figure = plots.lines({"share of the peak": curve}, x="step", y="learning rate / peak", width=5)

# %% [markdown]
# Adam keeps two running means of every gradient, of itself and of its square, and steps by their ratio: a weight moves about as
# far as the learning rate says, however large its gradient is. Both means begin at zero, which is corrected for. (AdamW also lets
# weights decay; the official trainer does not.) Before that, a gradient that is longer than one is cut to length one.


# %%
class Adam:
    def __init__(self, groups, betas=(0.9, 0.999), epsilon=1e-8):
        self.groups, self.betas, self.epsilon, self.steps = groups, betas, epsilon, 0
        self.means = {p: (torch.zeros_like(p), torch.zeros_like(p)) for group in groups for p in group["params"]}

    @torch.no_grad()
    def step(self, share=1.0):
        """share: of each group's peak learning rate"""
        self.steps += 1
        (b1, b2), n = self.betas, self.steps
        for group in self.groups:
            for p in group["params"]:
                mean, square = self.means[p]
                mean.mul_(b1).add_((1 - b1) * p.grad)
                square.mul_(b2).add_((1 - b2) * p.grad**2)
                p -= group["lr"] * share * (mean / (1 - b1**n)) / ((square / (1 - b2**n)).sqrt() + self.epsilon)


@torch.no_grad()
def clip_to(parameters, most):
    norm = torch.sqrt(sum((p.grad**2).sum() for p in parameters))
    for p in parameters:
        p.grad *= min(1.0, most / (float(norm) + 1e-6))
    return float(norm)


mine, other = (torch.nn.Parameter(torch.linspace(-1, 1, 12)) for _ in range(2))
adam, torchs = Adam([{"params": [mine], "lr": 0.1}]), torch.optim.AdamW([other], lr=0.1, weight_decay=0)
for step in range(5):
    for p in (mine, other):
        p.grad = torch.sin(p.detach() * (step + 2)) * 4
    norms = clip_to([mine], 1.0), float(torch.nn.utils.clip_grad_norm_([other], 1.0))
    assert math.isclose(*norms, rel_tol=1e-4)
    adam.step()
    torchs.step()
    assert close(mine, other)

# %% [markdown]
# ## The stages
#
# A stage says which parts train and how fast, how finely pictures are seen, and whether DiffFP drops tokens. The official numbers
# for the model of two billion parameters:

# %%
for stage in OFFICIAL_2B:
    rates = ", ".join(f"{part} {lr or 'frozen'}" for part, lr in stage.learning_rates.items() if part != "added")
    merge = f"merge {stage.image_merge_size} in pictures, {stage.video_merge_size} in videos"
    print(f"{stage.name}: {stage.purpose}")
    print(f"    {rates}; {merge}; {'DiffFP' if stage.prune else 'nothing is pruned'}")

# %% [markdown]
# A small model that knows nothing needs much larger steps. Everything else stays as it is.
#
# The paper does not start from nothing: its decoder has read the web (Qwen2.5) and its encoder has seen pictures (SigLIP). Ours gets a
# stand-in for the first: questions and answers in which text says what a picture or a clip shows. That is stage 0 here.

# %%
FAST = 4e-3
stages = [
    Stage("stage-0", FAST, None, None, 1, 2, True, "the decoder reads text; stands in for Qwen2.5's pre-training"),
    replace(OFFICIAL_2B[0], projector_lr=FAST, vision_lr=FAST),
    *(replace(stage, decoder_lr=FAST / 2, projector_lr=FAST / 2, vision_lr=FAST / 2) for stage in OFFICIAL_2B[1:]),
]
pictures = {"scene": 2, "chart": 1, "document": 1}
mixtures = [  # what each stage is trained on, and the share of it that is given as text
    ({**pictures, "clip": 2}, dict.fromkeys([*pictures, "clip"], 1.0)),
    (pictures, {}),
    ({**pictures, "clip": 1}, {"clip": 1.0}),
    ({**pictures, "clip": 4}, {}),
    ({**pictures, "clip": 12}, {}),
]

# %% [markdown]
# ## The loop
#
# All of it together: for each step the packs of its batch, their gradients, the clip, the optimiser. This is what
# `vl3ref/training/trainer.py` does, besides logs, checkpoints and several processes.


# %%
def train_by_hand(model, stage, samples, steps, batch_size, pack_tokens, warm_up):
    rates, groups = stage.learning_rates, []
    for name in ("vision_encoder", "projector", "language_model"):
        part = model.get_submodule(name).requires_grad_(rates[name] is not None)
        if rates[name] is not None:
            groups.append({"params": list(part.parameters()), "lr": rates[name]})
    training = [p for group in groups for p in group["params"]]
    adam, pruner, losses = Adam(groups), None if stage.prune else keep_all, []
    merge = {"image_merge_size": stage.image_merge_size, "video_merge_size": stage.video_merge_size}
    for step in range(steps):
        numbers = range(step * batch_size, (step + 1) * batch_size)
        batch = [prepared(samples.conversation(number), **merge) for number in numbers]
        targets, loss = sum(int((one.labels != -100).sum()) for one in batch), 0.0
        for p in training:
            p.grad = torch.zeros_like(p)
        for pack in cut_into_packs(batch, pack_tokens):
            share = model(pack, pack.labels, pruner=pruner).loss * int((pack.labels != -100).sum()) / targets
            share.backward()
            loss += share.item()
        clip_to(training, 1.0)
        adam.step(share_of_peak(step, steps, warm_up))
        losses.append(loss)
    return losses


def train_by_vl3ref(model, stage, samples, plan):
    with TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):  # progress goes to stderr
        train_stage(model, processor, samples, stage, plan, Path(folder))
        return [float(row["loss"]) for row in read_log(Path(folder) / "log.csv")]


# %% [markdown]
# A few steps of stage 3, in which all parts train, by hand and by `vl3ref.training`, from the same weights: the same losses.

# %%
mixture, as_text = mixtures[3]
samples = TinyWorld(3, mixture, turns=3, as_text=as_text, easy=1.0)
plan = Plan(4, batch_size=4, pack_tokens=300, shuffle=False, warm_up=0.25, workers=0)
by_hand = train_by_hand(deepcopy(model), stages[3], samples, 4, 4, 300, 0.25)
ours = train_by_vl3ref(deepcopy(model), stages[3], samples, plan)
print("by hand  ", [f"{loss:.4f}" for loss in by_hand])
print("by vl3ref", [f"{loss:.4f}" for loss in ours])
assert all(math.isclose(*pair, rel_tol=1e-3) for pair in zip(by_hand, ours, strict=True))

# %% [markdown]
# ## All stages, one after another
#
# Before and after each stage two things are measured. How far each part has moved: the norm of its change, divided by its own. And
# the loss on samples that are never trained on, by what they show.

# %%
KINDS = {"text": ("scene", 1.0), "pictures": ("scene", 0.0), "charts": ("chart", 0.0), "documents": ("document", 0.0)}
KINDS |= {"clips": ("clip", 0.0)}
unseen = {
    name: TinyWorld(1000, {kind: 1}, turns=3, as_text={kind: text}, easy=1.0) for name, (kind, text) in KINDS.items()
}


def with_merge_sizes(stage):
    merge = {"image_merge_size": stage.image_merge_size, "video_merge_size": stage.video_merge_size}
    return Processor(tokenizer, replace(processor.config, **merge))


@torch.no_grad()
def loss_on_unseen(model, stage):
    """Cross-entropy per target, for each kind."""
    batches = [Conversations(samples, with_merge_sizes(stage), 24, shuffle=False)[0] for samples in unseen.values()]
    return torch.stack([model(batch.packs[0], batch.packs[0].labels).loss for batch in batches])


def weights(model):
    """Every part as one long vector."""
    return {
        name: torch.cat([p.detach().flatten() for p in model.get_submodule(name).parameters()]).clone()
        for name in parts
    }


# %%
STEPS, BATCH = 80, 16
curves, moved, on_unseen, answers = {}, [], [loss_on_unseen(model, stages[0])], []
question = to_conversation(unseen["pictures"][0])[:-1]
for number, (stage, (mixture, as_text)) in enumerate(zip(stages, mixtures, strict=True)):
    before, samples = weights(model), TinyWorld(number + 1, mixture, turns=3, as_text=as_text, easy=1.0)
    plan = Plan(STEPS, batch_size=BATCH, shuffle=False, warm_up=0.1, workers=0)
    losses = train_by_vl3ref(model, stage, samples, plan)
    after = weights(model)
    curves[stage.name] = (range(number * STEPS, (number + 1) * STEPS), losses)
    moved.append([float((after[name] - before[name]).norm() / before[name].norm()) for name in parts])
    on_unseen.append(loss_on_unseen(model, stage))
    reply = model.generate(with_merge_sizes(stage)(question), max_new_tokens=12)[0]
    answers.append(processor.decode(reply))
    print(f"{stage.name}: loss {losses[0]:.2f} -> {losses[-1]:.2f}. {stage.purpose}")
figure = plots.lines(curves, x="step", y="loss per target", width=8)

# %% [markdown]
# Stage 0 learns what answers look like, stage 1 connects pictures to a decoder that stands still, and from stage 2 on everything
# moves together. Each stage begins with data that the one before did not have.
#
# What moved: a frozen part must not have moved at all.

# %%
names = [stage.name for stage in stages]
figure = plots.matrix(torch.tensor(moved), names, list(parts), title="change of a part, beside its size", width=5)
for stage, row in zip(stages, moved, strict=True):
    for name, change in zip(parts, row, strict=True):
        assert (change == 0) == (stage.learning_rates[name] is None)

# %% [markdown]
# And what was learned: the loss on unseen samples. Read it column by column: which stage made clips easier?

# %%
table = torch.stack(on_unseen)
print(f"{'':10}" + "".join(f"{kind:>12}" for kind in KINDS))
for name, row in zip(["before", *names], table.tolist(), strict=True):
    print(f"{name:10}" + "".join(f"{value:12.2f}" for value in row))
assert torch.equal(table[1, 0], table[2, 0])  # stage 1 leaves the decoder alone, so text reads as before
figure = plots.matrix(table[1:], names, list(KINDS), title="loss on unseen samples", width=6)

# %% [markdown]
# The losses are still those of a beginner: the model was trained for minutes, and knows how people answer better than what it
# sees. What it says to one question after each stage:

# %%
for part in question[-1]["content"]:
    if part["type"] == "text":
        print(part["text"])
for name, reply in zip(names, answers, strict=True):
    print(f"  {name}: {reply}")
figure = plots.frames(unseen["pictures"][0]["image"][0][None], width=2.5)

# %% [markdown]
# How much of that comes from looking? A control that costs nothing to run: the same questions about grey pictures. Where the two
# losses are equal, the model answers from the question alone.


# %%
def greyed(pack):
    return replace(pack, pixel_values=torch.zeros_like(pack.pixel_values))


with torch.no_grad():
    for name in ("pictures", "charts", "documents", "clips"):
        [pack] = Conversations(unseen[name], with_merge_sizes(stages[-1]), 24, shuffle=False)[0].packs
        seen, grey = (float(model(x, pack.labels, pruner=keep_all).loss) for x in (pack, greyed(pack)))
        print(f"{name:10} loss {seen:.3f}, grey {grey:.3f}")

# %% [markdown]
# ## To train for real
#
# `vl3ref train data.jsonl --stage 3 --model 2b --out runs/mine` runs one stage on your annotations, with these numbers, in as many
# processes as `torchrun` starts; `--lora` trains small matrices beside frozen ones. Loss curves stand in `log.csv`.
# `docs/recipes/finetune.md` and `lora.md` go through it. The recipe of vl3-tiny itself is `vl3ref/tinyworld/recipe.py`.
#
# ## Exercises
#
# Each has a cell to fill and a check that says at once whether it is right. Solutions: `solutions/n08.py`.
#
# **1.** Several processes each know the mean loss of their packs and their number of targets. What is the loss of the step? One of
# them may have no target at all, and then its mean is not a number.


# %%
def loss_of_step(means: list[float], targets: list[int]) -> float: ...


check("8.1", loss_of_step)

# %% [markdown]
# **2.** `cross_entropy` above takes one conversation. In a pack, the last token of one is followed by the first of the next, which it
# must not be asked to predict. Return a bool mask (tokens,): which rows of the packed logits have a target? `labels` are unshifted.
# Without a loop.


# %%
def rows_with_targets(labels: torch.Tensor, lengths: list[int]) -> torch.Tensor: ...


check("8.2", rows_with_targets)

# %% [markdown]
# **3.** With a mean over targets, a long caption counts as much as fifty answers of one word. Write the other loss: the mean over
# conversations of the mean over each one's targets. `logits` (tokens, vocab) and unshifted `labels` (tokens,) are those of a pack;
# a conversation without targets does not count. Which of the two would you want for captions, and which for questions with a
# word for an answer?


# %%
def balanced_loss(logits: torch.Tensor, labels: torch.Tensor, lengths: list[int]) -> torch.Tensor: ...


check("8.3", balanced_loss)
