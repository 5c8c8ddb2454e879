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
# # 7. Generation: from logits to an answer, and where it looks
#
# A decoder scores the next token, and no more. **After this notebook you can** make answers of these scores: greedy, sampled
# by temperature, top-k and top-p, and streamed as text; ask how likely a given answer is without generating anything; and see
# which frames and patches each word of an answer looks at, and whether it needs them. It takes an hour; the cells run in seconds.
#
# Everything is built from logits up, and compared with `vl3ref`, and `vl3ref` with transformers.

# %%
import sys
from dataclasses import replace

import torch
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import vl3ref
from vl3ref import plots, sampling
from vl3ref.generation import score, stream
from vl3ref.inspection import visuals_of
from vl3ref.parity.reference import reference_inputs, reference_model
from vl3ref.trace import trace
from vl3ref.watching import watch

sys.path.insert(0, ".")  # for check.py, beside this notebook
from check import check

MODEL = "vl3-tiny"  # or "2b", a folder, a name on the hub
MEDIA = "../docs/media/tinyworld"
model, processor = vl3ref.load(MODEL, "cpu")
decoder = model.language_model
torch.set_grad_enabled(False)  # nothing is trained here


def ask(clip, question):
    content = [{"type": "video", "video": f"{MEDIA}/{clip}"}, {"type": "text", "text": question}]
    return processor([{"role": "user", "content": content}])


def close(a, b):
    """Equal but for rounding: the largest difference is tiny beside the largest value."""
    return a.shape == b.shape and float((a - b).abs().max()) < 1e-4 * float(b.abs().max())


# %% [markdown]
# ## Logits
#
# A clip and a question, through the model once. Every token of the prompt gets a row of logits, a score for each token of the
# vocabulary; the last row is about the answer's first token. Softmax makes probabilities of them.

# %%
inputs = ask("appears.mp4", "Describe the video.")
output = model(inputs)
print(f"logits {tuple(output.logits.shape)}: tokens of the prompt after pruning, vocabulary")
figure = plots.frames(visuals_of(inputs, output.keep_mask)[0].pictures())


# %%
def likeliest(logits, count=6):
    probability, token = logits.softmax(-1).topk(count)
    return "   ".join(f"{processor.decode([t])!r} {p:.1%}" for t, p in zip(token, probability, strict=True))


print("the first token:", likeliest(output.logits[-1]))

# %% [markdown]
# ## Greedy: one token after another
#
# The likeliest token is the answer's first. It goes back in, and the model says what comes next. The prompt is computed once,
# into the KV cache (notebook 6); from then on each token is one short pass.
#
# The loop yields each token as soon as it is known. How it is chosen is left open: `choose` turns logits into a token.


# %%
def tokens(inputs, choose, most=64):
    spliced, cache = model.splice(inputs), decoder.new_cache(1)
    logits = decoder(spliced.embeddings, cache=cache, logits_to_keep=1)[0]
    for _ in range(most):
        token = choose(logits)
        yield token
        if token in decoder.config.eos_token_ids:
            return
        logits = decoder(torch.tensor([token]), cache=cache)[0]


def greedy(logits):
    return int(logits.argmax())


answer = torch.tensor(list(tokens(inputs, greedy)))
assert torch.equal(answer, model.generate(inputs, max_new_tokens=64)[0])
print(processor.decode(answer))

# %% [markdown]
# transformers' `generate`, with the same weights, gives the same tokens.

# %%
theirs = reference_model(model, "eager")
given = reference_inputs(model, inputs)
ends = list(decoder.config.eos_token_ids)
[row] = theirs.generate(**given, max_new_tokens=64, do_sample=False, eos_token_id=ends, pad_token_id=0)
assert torch.equal(row[given["input_ids"].shape[1] :], answer)  # they return the prompt too

# %% [markdown]
# With the answer known, one pass over prompt and answer gives the logits of every step again: a token never sees what comes
# after it. A row of logits is about the token **after** it, so the rows begin one before the answer.

# %%
with_answer = replace(inputs, input_ids=torch.cat([inputs.input_ids, answer]), lengths=inputs.lengths + len(answer))
steps = model(with_answer).logits[-len(answer) - 1 : -1]
seen_in_the_loop = []
list(tokens(inputs, lambda logits: seen_in_the_loop.append(logits) or greedy(logits)))
assert close(torch.stack(seen_in_the_loop), steps)

# %% [markdown]
# ## Temperature
#
# Always taking the likeliest makes the same answer every time. To sample, draw the token with its probability. Logits are first
# divided by a temperature: below one it favours the likely tokens more, above one less. Here is the step of the answer at which
# the model is least sure (its probabilities have the largest entropy).

# %%
entropy = -(steps.softmax(-1) * steps.log_softmax(-1)).sum(-1)
least_sure = int(entropy.argmax())
logits = steps[least_sure]
print(f"after {processor.decode(answer[:least_sure])!r} comes:  {likeliest(logits)}")
figure = plots.lines(
    {f"temperature {t:g}": (logits / t).softmax(-1).sort(descending=True).values[:40] for t in (0.5, 1, 2)},
    x="tokens, the likeliest first",
    y="probability",
    log_y=True,
)

# %% [markdown]
# ## Top-k and top-p
#
# A vocabulary is large, and its many unlikely tokens together are not that unlikely: sampled often enough, nonsense comes. So
# the tail is cut off. Top-k leaves the k likeliest; top-p leaves the fewest likeliest tokens that together reach probability
# p: few where the model is sure, many where it is not. A logit of minus infinity has probability zero.


# %%
def top_k(logits, k):
    kth = logits.sort(descending=True).values[..., k - 1 : k]
    return logits.masked_fill(logits < kth, -torch.inf)


def top_p(logits, p):
    order = logits.argsort(descending=True)
    probability = logits.gather(-1, order).softmax(-1)
    before = probability.cumsum(-1) - probability  # of all the likelier ones
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(dropped, -torch.inf)


def equal_choices(a, b):
    return torch.equal(a.isfinite(), b.isfinite()) and close(a.softmax(-1), b.softmax(-1))


for k in (1, 5, 40):
    assert equal_choices(top_k(steps, k), sampling.keep_top_k(steps, k))
    assert equal_choices(top_k(steps, k), TopKLogitsWarper(k)(None, steps))
for p in (0.1, 0.5, 0.9, 0.999):
    assert equal_choices(top_p(steps, p), sampling.keep_top_p(steps, p))
    assert equal_choices(top_p(steps, p), TopPLogitsWarper(p)(None, steps))
print("tokens that top-p 0.999 leaves at each step:", top_p(steps, 0.999).isfinite().sum(-1).tolist())

# %% [markdown]
# All three in a row, in the order that transformers has: temperature, top-k, top-p. The order matters: top-p counts
# probabilities after the temperature. `Sampler.adjust` is where `vl3ref` does it.


# %%
def adjust(logits, temperature, k, p):
    return top_p(top_k(logits / temperature, k), p)


rule = sampling.Sampling(temperature=1.5, top_k=20, top_p=0.9)
sampler = sampling.Sampler(rule, decoder.config.vocab_size, torch.tensor([]), 0, list(answer[:, None]))
mine = adjust(steps, 1.5, 20, 0.9)
theirs_adjusted = TopPLogitsWarper(0.9)(None, TopKLogitsWarper(20)(None, TemperatureLogitsWarper(1.5)(None, steps)))
assert equal_choices(mine, sampler.adjust(steps)) and equal_choices(mine, theirs_adjusted)

# %% [markdown]
# ## Drawing a token
#
# Two ways. The first lays the probabilities side by side on a line from 0 to 1 and looks where a uniform number falls. The
# second is a race: each token gets an exponential random number divided by its probability, and the smallest wins. The
# winner is token i with exactly probability i. The race needs no running sum, so `vl3ref` samples that way (and so does
# `torch.multinomial`).


# %%
def draw_on_a_line(probability, generator):
    place = torch.rand((), generator=generator)
    return min(int((probability.cumsum(-1) <= place).sum()), len(probability) - 1)


def draw_by_race(probability, generator):
    return int((torch.empty_like(probability).exponential_(generator=generator) / probability).argmin())


probability = (logits / 2).softmax(-1).sort(descending=True).values[:8]
probability = probability / probability.sum()
table = {"probability": probability}
for draw in (draw_on_a_line, draw_by_race):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([draw(probability, generator) for _ in range(5000)])
    table[draw.__name__] = drawn.bincount(minlength=len(probability)) / len(drawn)
    assert (table[draw.__name__] - probability).abs().sum() < 0.1
for name, values in table.items():
    print(f"{name:16}", " ".join(f"{value:6.3f}" for value in values))

# %% [markdown]
# From the same seed, `vl3ref`'s sampler draws the same tokens, and whole answers are the same.


# %%
def sampled(seed, temperature=1.0, k=50, p=1.0):
    generator = torch.Generator().manual_seed(seed)
    return lambda logits: draw_by_race(adjust(logits, temperature, k, p).softmax(-1), generator)


for seed in range(3):
    mine = list(tokens(inputs, sampled(seed, 1.5, 50, 0.95)))
    ours = model.generate(inputs, max_new_tokens=64, temperature=1.5, top_k=50, top_p=0.95, seed=seed)[0]
    assert mine == ours.tolist()
for temperature in (0.7, 1.5, 3.0):
    for seed in range(2):
        print(f"{temperature}: {processor.decode(list(tokens(inputs, sampled(seed, temperature), most=30)))}")

# %% [markdown]
# ## Streaming
#
# `tokens` yields ids as they come; a reader wants text. The tokenizer works on bytes, and a character can take several tokens:
# decoded one by one, its parts show as the replacement character.

# %%
text = "naïve café, 日本, 🎬"
ids = processor.tokenizer.encode(text)[0]
print([processor.decode([token]) for token in ids])


# %% [markdown]
# So a piece of text waits until it ends with a whole character.


# %%
def pieces(tokens):
    waiting = []
    for token in tokens:
        waiting.append(token)
        piece = processor.decode(waiting)
        if not piece.endswith("\ufffd"):
            yield piece
            waiting = []
    yield processor.decode(waiting)  # what was cut off


assert "".join(pieces(ids)) == processor.decode(ids) == text
ours = [piece for _, piece in processor.decode_stream((0, token) for token in ids)]
assert [piece for piece in pieces(ids) if piece] == ours
print(ours)

# %% [markdown]
# `vl3ref.generation.stream` yields (conversation, token) for any number of conversations side by side. `Chat` and
# `vl3ref chat` print what comes out of it.

# %%
print("|".join(piece for _, piece in processor.decode_stream(stream(model, inputs))))

# %% [markdown]
# ## How likely is a given answer?
#
# Probabilities of a token after a token multiply, so the logarithms of an answer's tokens add up to log P(answer | prompt).
# One pass over prompt and answer gives them all: multiple choice without generating anything, and without hoping that the
# model words its answer as expected.

# %%
question = ask("moves.mp4", "Where does the red circle move?")
options = ["right", "left", "up", "down", "right and then left"]


def log_probabilities(inputs, answer):
    """log P(token | prompt, tokens before it), (tokens,)"""
    both = replace(inputs, input_ids=torch.cat([inputs.input_ids, answer]), lengths=inputs.lengths + len(answer))
    rows = model(both).logits[-len(answer) - 1 : -1]
    return rows.log_softmax(-1).gather(1, answer[:, None])[:, 0]


by_hand = [log_probabilities(question, torch.tensor(processor.tokenizer.encode(option)[0])) for option in options]
assert close(torch.stack([x.sum() for x in by_hand]), score(model, question, options, processor))
for option, x in zip(options, by_hand, strict=True):
    print(f"{option:20} {len(x)} tokens, log P {float(x.sum()):7.2f}, per token {float(x.mean()):7.2f}")

# %% [markdown]
# Two things to know. A longer answer costs more tokens, so compare means where lengths differ. And "right" is at least as likely
# as "right and then left", since that begins with it, as long as nothing says that the answer ends there. The token that
# ends a turn does. `score` computes the prompt once for all options; it takes ids as well as text.

# %%
end = processor.tokenizer.special("<|im_end|>")
ended = [[*processor.tokenizer.encode(option)[0], end] for option in options]
whole = score(model, question, ended)
by_hand = torch.stack([log_probabilities(question, torch.tensor(ids)).sum() for ids in ended])
assert close(by_hand, whole)
for option, share in zip(options, whole.softmax(-1), strict=True):
    print(f"{option:20} {share:6.1%} among these")

# %% [markdown]
# ## Where the answer looks
#
# Attention weights say how much of each earlier token's value goes into a token. Hooks on the fused attention get queries and
# keys; the weights are computed beside it. First by hand, for the last block.

# %%
last = decoder.layers[-1].self_attn.attend
caught = {}
handle = last.register_forward_hook(lambda _, args, out: caught.update(q=args[0], k=args[1]))
output = model(with_answer)
handle.remove()
q, k = caught["q"], caught["k"].repeat_interleave(caught["q"].shape[1] // caught["k"].shape[1], dim=1)
scores = torch.einsum("n h d, m h d -> h n m", q, k) / q.shape[-1] ** 0.5
by_hand = scores.masked_fill(torch.ones(len(q), len(q), dtype=torch.bool).triu(1), -torch.inf).softmax(-1)

# %% [markdown]
# `watch` does this for every block of both towers. transformers returns them too, where its attention is not fused
# ("eager").

# %%
with watch(model) as seen:
    model(with_answer)
maps = torch.stack([of_conversation[0] for of_conversation in seen.language.attentions])  # one conversation
print(f"maps {tuple(maps.shape)}: blocks, heads, tokens that look, tokens looked at")
assert close(by_hand, maps[-1])
attentions = theirs(**reference_inputs(model, with_answer), output_attentions=True).attentions
assert close(torch.cat(list(attentions)), maps)

# %% [markdown]
# How much of the attention of the answer's rows goes to visual tokens, by block and head? `trace` says which rows of the
# sequence they are, after pruning, and what each of them shows.

# %%
where = trace(with_answer, output.keep_mask)
to_visuals = maps[:, :, -len(answer) - 1 : -1, where.position]  # the row before a token is the one that chooses it
blocks, heads, *_ = maps.shape
figure = plots.matrix(
    to_visuals.sum(-1).mean(-1),
    [f"block {n}" for n in range(blocks)],
    [f"head {n}" for n in range(heads)],
    title="share of the answer's attention on visual tokens",
)

# %% [markdown]
# Averaged over blocks and heads, and added up frame by frame: a row for each token of the answer. What goes to each
# frame is divided by what goes to all of them.

# %%
looks = to_visuals.mean((0, 1))  # (tokens of the answer, visual tokens)
frames = int(where.frame.max()) + 1
per_frame = torch.zeros(len(answer), frames).index_add(1, where.frame, looks)
per_frame = per_frame / per_frame.sum(1, keepdim=True)
words = [processor.decode([token]) or "end" for token in answer]
times = [f"{float(where.time[where.frame == frame][0]):g} s" for frame in range(frames)]
figure = plots.matrix(per_frame, words, times, title="which frame each word looks at")

# %% [markdown]
# Now on the frames. Weights of kept tokens go back to the places that these tokens had; what DiffFP dropped cannot be looked
# at, and has none.

# %%
[video] = visuals_of(with_answer, output.keep_mask)


def on_frames(weights):
    """One weight for each kept visual token -> drawn on the frames."""
    grid = torch.zeros(video.keep.numpy().shape)
    grid[video.keep] = weights
    return plots.heat(video.pictures(), grid, times)


word = int(looks.sum(1).argmax())
top = int(looks[word].argmax())
box = [round(value) for value in where.box[top].tolist()]
print(
    f"{words[word]!r} looks most at frame {int(where.frame[top])} ({float(where.time[top]):g} s), pixels {box} of the file"
)
figure = on_frames(looks[word])

# %% [markdown]
# ## Does it need what it looks at?
#
# Attention shows what is read, not what the answer depends on: a block reads values that earlier blocks have mixed already.
# A direct test takes something away. A pruner that drops one frame's tokens, and the log-probability that each word
# of the answer loses by it:


# %%
def without(frame):
    def pruner(inputs, features):
        return model.pruner(inputs, features) & (trace(inputs).frame != frame)

    return pruner


[complete] = score(model, inputs, [answer], per_token=True)
assert close(complete, log_probabilities(inputs, answer))
lost = torch.stack(
    [complete - score(model, inputs, [answer], per_token=True, pruner=without(f))[0] for f in range(frames)], 1
)
figure = plots.matrix(lost, words, times, title="log-probability lost without a frame", diverging=True)

# %%
word, frame = divmod(int(lost.argmax()), frames)
print(
    f"{words[word]!r} needs the frame at {times[frame]} most: without it, its log-probability falls by {lost[word, frame]:.2f}"
)
print(f"its attention to that frame: {per_frame[word, frame]:.0%} of what goes to frames")
figure = on_frames(looks[word])

# %% [markdown]
# ## Exercises
#
# Each has a cell to fill and a check that says at once whether it is right. Solutions: `solutions/n07.py`.
#
# **1.** Min-p (arXiv 2407.01082) keeps every token at least `p` times as likely as the likeliest one. Return the logits, those of
# all others minus infinity. `logits` may have any axes before the last.


# %%
def min_p(logits: torch.Tensor, p: float) -> torch.Tensor: ...


check("7.1", min_p)

# %% [markdown]
# **2.** An answer ends before the string `stop`, and is streamed: pieces of text come in, pieces go out. A piece, or its end, may be
# the beginning of the stop string; nobody knows yet. Return the pieces that go out, none of them empty: hold back what has to
# be, and nothing else, and at the end give out what was held back for nothing.


# %%
def until(pieces: list[str], stop: str) -> list[str]: ...


check("7.2", until)

# %% [markdown]
# **3.** Attention rollout (arXiv 2005.00928) follows the looks through all blocks. A block's map is averaged over its heads;
# half of what a token holds afterwards comes through it, and half from the token itself, by the residual connection. Given
# the maps of all blocks in order, each (heads, n, n), return (n, n): how much of each input (columns) is in each output
# (rows). Then draw it: `on_frames(rollout(list(maps))[-2, where.position])`.


# %%
def rollout(maps: list[torch.Tensor]) -> torch.Tensor: ...


check("7.3", rollout)
