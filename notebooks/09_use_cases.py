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
# # 9. Use cases: charts, documents, captions, several images, grounding in time
#
# One model, and one way to ask it. **After this notebook you can** ask about charts, documents, pictures and clips; say how likely an
# answer is, token by token and beside other answers; draw which pixels and which moments an answer needs; ask about several
# pictures, about a moment, in a chat, and many questions at once. It takes an hour; the cells run in seconds.
#
# The tools, likelihood and occlusion, are built from logits up. What is asserted is that equal computations are equal: in a batch
# and alone, with a cache and without, `vl3ref` and transformers. What a model answers is printed, and is for you to judge.

# %%
import sys
from dataclasses import replace

import torch
from PIL import Image

import vl3ref
from vl3ref import plots
from vl3ref.chat import Chat
from vl3ref.generation import score
from vl3ref.inputs.videos import load_video
from vl3ref.inspection import visuals_of
from vl3ref.model.diff_fp import keep_all
from vl3ref.model_inputs import join
from vl3ref.parity.reference import reference_inputs, reference_model
from vl3ref.trace import trace
from vl3ref.watching import watch

sys.path.insert(0, ".")  # for check.py, beside this notebook
from check import check

MODEL = "vl3-tiny"  # or "2b", a folder, a name on the hub
MEDIA = (
    "../docs/media/tinyworld"  # vl3-tiny knows nothing but such pictures; with another model, take files of your own
)
model, processor = vl3ref.load(MODEL, "cpu")
torch.set_grad_enabled(False)  # nothing is trained here
END = processor.tokenizer.special("<|im_end|>")


def file(name, **options):
    kind = "video" if name.endswith(".mp4") else "image"
    return {"type": kind, kind: f"{MEDIA}/{name}", **options}


def prompt(*content):
    """Files and texts, in order -> the inputs of one conversation."""
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return processor([{"role": "user", "content": parts}])


def close(a, b):
    """Equal but for rounding: the largest difference is tiny beside the largest value, or beside one."""
    return a.shape == b.shape and float((a - b).abs().max()) <= 1e-4 * max(1.0, float(b.abs().max()))


# %% [markdown]
# ## How likely is an answer?
#
# An answer is generated token by token, each with a probability given all before it. The same probabilities come from one pass over
# the prompt with the answer behind it: a row of logits is about the token after it. Several conversations are packed, and each
# has its own last rows.


# %%
def answered(inputs, answer):
    """The prompt of one conversation with an answer (tokens,) behind it."""
    ids = torch.cat([inputs.input_ids, torch.as_tensor(answer)])
    return replace(inputs, input_ids=ids, lengths=torch.tensor([len(ids)]))


def log_probabilities(inputs, count, pruner=None):
    """log P of the last `count` tokens of each conversation, (conversations, count)"""
    rows = model(inputs, logits_to_keep=count + 1, pruner=pruner).logits.view(len(inputs.lengths), count + 1, -1)
    tokens = torch.stack([ids[-count:] for ids in inputs.input_ids.split(inputs.lengths.tolist())])
    return rows[:, :-1].log_softmax(-1).gather(2, tokens[:, :, None])[:, :, 0]


def ask(inputs, most=48):
    """The greedy answer (tokens,) and the log-probability of each of its tokens."""
    [answer], [given] = model.generate(inputs, max_new_tokens=most, return_log_probs=True)
    assert close(log_probabilities(answered(inputs, answer), len(answer))[0], given)
    return answer, given


def show(question, answer, given):
    tokens = " ".join(f"{processor.decode([t]) or 'end'}:{p:.0%}" for t, p in zip(answer, given.exp(), strict=True))
    print(f"{question}\n    {processor.decode(answer)}\n    {tokens}")


# %% [markdown]
# ## A chart
#
# Questions, the answers, and how sure the model is of each token. Beside its own answer, any others can be scored: "end" is counted
# with each, so that one answer which begins like another does not gain by being shorter.

# %%
figure = plots.frames(visuals_of(prompt(file("chart.png")), keep_all(prompt(file("chart.png"))))[0].pictures(), width=3)
for question in ("Which bar is the highest?", "How high is the green bar?", "Describe the picture."):
    show(question, *ask(prompt(file("chart.png"), question)))

# %%
chart = prompt(file("chart.png"), "Which bar is the highest?")
options = ["green", "red", "blue", "yellow"]
ids = [[*processor.tokenizer.encode(option)[0], END] for option in options]
scores = score(model, chart, ids)
by_hand = [log_probabilities(answered(chart, option), len(option)).sum() for option in ids]
assert close(scores, torch.stack(by_hand))
for option, share, value in zip(options, scores.softmax(-1), scores, strict=True):
    print(f"{option:8} log P {value:7.2f}, {share:6.1%} among these")

# %% [markdown]
# ## Where the answer looks, and what it needs
#
# Two pictures of an answer. Attention: how much its rows look at each visual token, as a mean over the decoder's blocks and heads.
# Occlusion: a token's pixels are replaced by the picture's mean, and the answer's log-probability falls by so much. The first shows
# what is read, the second what the answer hangs on; they need not agree.
#
# The patches of a visual token are neighbours in `pixel_values`, so that covering one is a slice. All covered versions of
# the picture are conversations of their own, packed.


# %%
def covered(inputs):
    """For each visual token of one conversation, inputs in which its pixels are the mean of its picture."""
    start, versions = 0, []
    for patches, _, merge, _ in inputs.visuals():
        size = inputs.pixel_values.shape[1]
        mean = patches.view(-1, 3, size // 3).mean((0, 2)).repeat_interleave(size // 3)
        for first in range(start, start + len(patches), merge**2):
            pixels = inputs.pixel_values.clone()
            pixels[first : first + merge**2] = mean
            versions.append(replace(inputs, pixel_values=pixels))
        start += len(patches)
    return versions


def needed(inputs, answer):
    """How much log P(answer) falls when a visual token is covered; one value for each, 0 for those that are dropped."""
    whole = answered(inputs, answer)
    keep = model(whole, logits_to_keep=1).keep_mask  # covering pixels must not change which tokens are kept
    complete = log_probabilities(whole, len(answer)).sum()
    versions = [one for one, kept in zip(covered(whole), keep.tolist(), strict=True) if kept]
    falls = []
    for first in range(0, len(versions), 16):  # 16 in a batch
        pack = versions[first : first + 16]
        mask = keep.repeat(len(pack))
        falls.append(complete - log_probabilities(join(pack), len(answer), lambda *_, mask=mask: mask).sum(1))
    return torch.zeros(len(keep)).masked_scatter(keep, torch.cat(falls))


def looked_at(inputs, answer):
    """Attention of the answer's rows to each visual token; 0 for those that are dropped."""
    whole = answered(inputs, answer)
    with watch(model) as seen:
        keep = model(whole).keep_mask
    maps = torch.stack([maps[0] for maps in seen.language.attentions]).mean((0, 1))
    looks = maps[-len(answer) - 1 : -1, trace(whole, keep).position].sum(0)
    return torch.zeros(len(keep)).masked_scatter(keep, looks)


def two_pictures(inputs, answer):
    """The picture with what is looked at, and with what is needed, each as a share of its largest value."""
    [seen] = visuals_of(inputs, keep_all(inputs))
    both = [values.view(seen.keep.shape).clamp(min=0) for values in (looked_at(inputs, answer), needed(inputs, answer))]
    both = [values / values.max().clamp(min=1e-12) for values in both]
    return plots.heat(seen.pictures().repeat(2, 0), torch.cat(both), ["looked at", "needed"], width=6)


answer, _ = ask(chart)
whole = answered(chart, answer)
apart = [log_probabilities(one, len(answer))[0] for one in covered(whole)[:3]]
assert close(log_probabilities(join(covered(whole)[:3]), len(answer)), torch.stack(apart))  # packed, and one by one
print(f"{processor.decode(answer)!r}")
figure = two_pictures(chart, answer)

# %% [markdown]
# ## A document, and reading
#
# A text is read token by token, and the probability of each says where the model is unsure. Any resolution: a page that is sent larger
# is more patches and more visual tokens, with nothing else to set. Whether it helps depends on the sizes that the model was
# trained on.

# %%
form = Image.open(f"{MEDIA}/form.png").convert("RGB")
for scale in (1.0, 1.5, 2.0):
    larger = form.resize((round(form.width * scale), round(form.height * scale)), Image.Resampling.BICUBIC)
    inputs = prompt({"type": "image", "image": larger}, "Name everything you see.")
    print(f"{larger.size}: {sum(inputs.tokens_per_visual())} visual tokens")
    show("Name everything you see.", *ask(inputs))

# %%
for name, question in (("form.png", "How much is the tea?"), ("sign.png", "Read the sign.")):
    inputs = prompt(file(name), question)
    show(question, *ask(inputs))
figure = two_pictures(inputs, ask(inputs)[0])

# %% [markdown]
# ## Captions
#
# A greedy caption takes the likeliest next token each time. Sampling gives others; the mean log-probability of a token ranks captions of
# different lengths. `best_of` does both: it samples several captions and returns the likeliest.

# %%
scene = prompt(file("scene.png"), "Describe the picture.")
show("greedy", *ask(scene))
captions = {}
for seed in range(6):
    sample, given = model.generate(scene, max_new_tokens=48, temperature=1.2, seed=seed, return_log_probs=True)
    captions[processor.decode(sample[0])] = float(given[0].mean())
for caption, mean in sorted(captions.items(), key=lambda item: -item[1]):
    print(f"{mean:6.2f} a token: {caption}")
best = model.generate(scene, max_new_tokens=48, temperature=1.2, seed=0, best_of=6)[0]
print("best of six:", processor.decode(best))

# %% [markdown]
# ## Several images
#
# Pictures of any sizes stand in one conversation, in the order in which they are given, with text between them. The encoder sees each
# alone: a picture's features are the same whatever stands beside it. Only the decoder reads them together.

# %%
pair = prompt("Picture 1:", file("scene.png"), "Picture 2:", file("sign.png"), "What is in picture 2?")


def features(inputs):
    return model.vision_encoder(inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)


alone = [features(prompt(file(name))) for name in ("scene.png", "sign.png")]
assert close(features(pair), torch.cat(alone))
print(processor.prompt([{"role": "user", "content": [file("scene.png"), file("sign.png")]}]))
print(f"visual tokens of each: {pair.tokens_per_visual()}")

# %% [markdown]
# Which picture does the answer need? Occlusion again, added up by picture (`trace` knows which token belongs to which).

# %%
answer, given = ask(pair)
show("What is in picture 2?", answer, given)
where, falls = trace(pair), needed(pair, answer)
for visual, source in enumerate(pair.sources):
    of_picture = where.visual == visual
    print(
        f"{source.name.rpartition('/')[2]}: log P falls by {falls[of_picture].max():.2f} at most when a token is covered"
    )

# %% [markdown]
# ## Grounding in time
#
# The prompt holds each frame's time in front of its tokens, so a model can say when. Asked for one moment, all of the clip's
# moments can be scored as answers: a distribution over time, in place of a single guess.

# %%
blinks = prompt(file("blinks.mp4"), "When is the triangle first seen?")
answer, given = ask(blinks)
show("When is the triangle first seen?", answer, given)
times = blinks.sources[0].timestamps
moments = [[*processor.tokenizer.encode(f"at {time:.1f} seconds")[0], END] for time in times]
share = score(model, blinks, moments).softmax(-1)
[seen] = visuals_of(blinks, model(blinks, logits_to_keep=1).keep_mask)
figure = plots.frames(seen.pictures(), [f"{t:g} s: {p:.1%}" for t, p in zip(times, share, strict=True)])

# %% [markdown]
# Which frames does the answer need? A frame is covered by taking the tokens away that it kept; `score` takes a pruner. A token of
# the frame has to stay, or its time would be followed by nothing.

# %%
where_all = trace(blinks)
keep = model.pruner(blinks, features(blinks)) > 0


def without(frame):
    first = int((where_all.frame == frame).nonzero()[0])
    return lambda inputs, _: keep & ((where_all.frame != frame) | (torch.arange(len(keep)) == first))


complete = score(model, blinks, [answer])
assert close(complete, log_probabilities(answered(blinks, answer), len(answer)).sum(1))
falls = torch.cat([complete - score(model, blinks, [answer], pruner=without(frame)) for frame in range(len(times))])
figure = plots.lines({"without a frame": (times, falls)}, x="second of the frame", y="log P(answer) falls by", width=5)

# %% [markdown]
# A part of a clip: `start_time` and `end_time` cut it before anything is sampled. Times stay those of the whole clip, so answers about a
# part can be compared with answers about all of it.

# %%
frames, at = load_video(f"{MEDIA}/blinks.mp4", fps=1, max_frames=None)
cut, cut_at = load_video(f"{MEDIA}/blinks.mp4", fps=1, max_frames=None, start_time=2, end_time=6)
places = [int(abs(at - time).argmin()) for time in cut_at]
assert (at[places] == cut_at).all() and (frames[places] == cut).all()
print(f"whole: {at.tolist()}\npart:  {cut_at.tolist()}")
for options in ({}, {"start_time": 2, "end_time": 6}):
    inputs = prompt(file("blinks.mp4", **options), "When is the triangle first seen?")
    show(f"{options or 'whole'}", *ask(inputs))

# %% [markdown]
# Frames of your own, a camera's say, go in as an array with their times. It is the same as the file.

# %%
given_frames = {"type": "video", "video": frames, "timestamps": at.tolist()}
from_array = prompt(given_frames, "When is the triangle first seen?")
from_file = prompt(file("blinks.mp4", fps=1), "When is the triangle first seen?")
assert torch.equal(from_array.input_ids, from_file.input_ids)
assert torch.equal(from_array.pixel_values, from_file.pixel_values)

# %% [markdown]
# ## A chat
#
# A chat keeps the cache: a new turn computes its own tokens, and neither the clip nor what was said before. The answers are those
# that the whole conversation, read from scratch, gives.

# %%
chat = Chat(model, processor, max_new_tokens=32)
first = None
for number, text in enumerate(("Describe the video.", "What colour is the star?", "When does the cross change?")):
    turn = chat.prepare(text, [file("turns.mp4")] if number == 0 else [])
    first = first or turn  # it alone has the clip
    print(f"{text}\n    {''.join(chat.answer(turn))}    ({len(turn.input_ids)} new tokens of prompt)")
    read = torch.tensor(chat.ids[: len(chat.ids) - len(chat.answer_ids)])
    from_scratch = replace(first, input_ids=read, lengths=torch.tensor([len(read)]))
    assert model.generate(from_scratch, max_new_tokens=32)[0].tolist() == chat.answer_ids
print(f"the conversation has {len(chat.ids)} tokens before pruning")

# %% [markdown]
# ## Many questions at once
#
# Conversations of any kinds are packed and answered together. Each gets what it would get alone: the same logits, the same answer.

# %%
QUESTIONS = [
    ("chart.png", "Which bar is the lowest?"),
    ("form.png", "Describe the picture."),
    ("sign.png", "What colour is the text?"),
    ("scene.png", "How many things are there?"),
    ("moves.mp4", "Where does the red circle move?"),
    ("appears.mp4", "Describe the video."),
]
conversations = [prompt(file(name), question) for name, question in QUESTIONS]
batch = join(conversations)
output = model(batch)
print(batch)
together = model.generate(batch, max_new_tokens=32)
rows = zip(conversations, output.logits.split(output.lengths.tolist()), together, QUESTIONS, strict=True)
for one, logits, ids, (name, question) in rows:
    assert close(logits, model(one).logits)
    assert torch.equal(ids, model.generate(one, max_new_tokens=32)[0])
    print(f"{name}: {question} {processor.decode(ids)}")

# %% [markdown]
# And transformers' model, with the same weights, on each of them.

# %%
theirs = reference_model(model)
for one, (name, _) in zip(conversations, QUESTIONS, strict=True):
    ours, logits = model(one).logits, theirs(**reference_inputs(model, one)).logits[0]
    assert close(ours, logits)
    print(f"{name}: largest difference {(ours - logits).abs().max():.1e}, of logits up to {logits.abs().max():.1f}")

# %% [markdown]
# ## Exercises
#
# Each has a cell to fill and a check that says at once whether it is right. Solutions: `solutions/n09.py`.
#
# **1.** Multiple choice. Given the log-probabilities of each option's tokens (its end included), return the number of the likeliest
# option, and its probability if one of these options has to be given.


# %%
def choose(options: list[torch.Tensor]) -> tuple[int, float]: ...


check("9.1", choose)

# %% [markdown]
# **2.** Answers about documents are judged by ANLS (DocVQA): one minus the edit distance of answer and right answer, divided by the
# length of the longer; the best over all right answers; and 0 where that is below a half. Letters' case makes no difference. The edit
# distance is the least number of letters put in, taken out or exchanged.


# %%
def anls(answer: str, right: list[str]) -> float: ...


check("9.2", anls)

# %% [markdown]
# **3.** From moments to an interval. Each sampled frame has a second and a value: how much log P falls without it, say. Return the
# interval (first second, last second) of neighbouring frames whose values, each less the mean of all, have the largest sum. One
# pass over the frames is enough. Why would it not work without taking the mean away?


# %%
def interval(times: list[float], values: list[float]) -> tuple[float, float]: ...


check("9.3", interval)
