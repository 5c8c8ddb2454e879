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
# # 6. Qwen2.5 from scratch
#
# The decoder of VideoLLaMA 3 is a plain Qwen2.5. **After this notebook you can** write it yourself: RMSNorm, rotary
# positions, grouped-query attention, the gated MLP and the KV cache; say why each is there; and load a checkpoint into what
# you wrote. It takes an hour; the cells run in seconds.
#
# Every part is compared with `vl3ref`'s in the cell that builds it. At the end the whole decoder reads a video, beside `vl3ref`
# and transformers.

# %%
import sys

import torch
from torch import nn

import vl3ref
from vl3ref import plots
from vl3ref.config import preset
from vl3ref.model.kv_cache import first_step
from vl3ref.model.rope import rotate
from vl3ref.parity.reference import reference_inputs, reference_model
from vl3ref.watching import watch

sys.path.insert(0, ".")  # for check.py, beside this notebook
from check import check

MODEL = "vl3-tiny"  # or "2b", a folder, a name on the hub
MEDIA = "../docs/media"
model, processor = vl3ref.load(MODEL, "cpu")
decoder = model.language_model
config = decoder.config
torch.set_grad_enabled(False)  # nothing is trained here


def close(mine, theirs):
    """Equal but for rounding: the largest difference is tiny beside the largest value."""
    return mine.shape == theirs.shape and float((mine - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())


# %% [markdown]
# ## What there is to build
#
# The numbers below define the decoder. The released models differ from the small one in these numbers, and
# the largest in that its head is a table of its own.

# %%
released = {"2B": preset("2b").language, "7B": preset("7b").language}
rows = "hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size vocab_size rope_theta"
print(f"{'':24}" + "".join(f"{name:>14}" for name in (MODEL, *released)))
for row in (*rows.split(), "parameters"):
    print(f"{row:24}" + "".join(f"{getattr(x, row):14,.0f}" for x in (config, *released.values())))

# %% [markdown]
# A text to work on, as the processor writes it for the model: a system prompt, the question, and where the answer begins.

# %%
ids = processor([{"role": "user", "content": [{"type": "text", "text": "Where does the red circle move?"}]}]).input_ids
print(f"{len(ids)} tokens\n\n{processor.decode(ids, skip_special_tokens=False)}")

# %% [markdown]
# ## Tokens become rows of a table
#
# The embedding is a table with a row for each token of the vocabulary, and looking a row up is all that it does. The rows of
# a text are the **residual stream**: every block below reads it, and adds something to it.

# %%
x = decoder.embed_tokens.weight[ids]
assert torch.equal(x, decoder.embed_tokens(ids))
print(f"x {tuple(x.shape)}: tokens, numbers for each. There is no batch axis: see notebook 4")

# %% [markdown]
# ## RMSNorm
#
# Blocks only ever add to the stream, so its values grow on the way. Here is their size (root mean square) where each block
# begins, and what leaves that block's first norm.

# %%
with watch(model) as seen:
    decoder(ids)
streams = seen.language.hidden_states[:-1]  # what enters each block


def size(x):
    return float(x.square().mean().sqrt())


normed = [layer.input_layernorm(stream) for layer, stream in zip(decoder.layers, streams, strict=True)]
figure = plots.lines(
    {"the residual stream": [size(s) for s in streams], "after the block's norm": [size(s) for s in normed]},
    x="block",
    y="root mean square",
    log_y=True,
)

# %% [markdown]
# The norm divides each token's row by its root mean square, and multiplies every column by a learned weight. LayerNorm would
# subtract the mean first and add a bias; Qwen, like Llama, found that neither is missed. The small epsilon guards against a
# row of zeros.


# %%
class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self.weight


def with_weights_of(part, mine):
    """Mine, with the weights of vl3ref's part. load_state_dict refuses a name or a shape that does not fit."""
    mine.load_state_dict(part.state_dict(), assign=True)  # assign: the same tensors, not copies
    return mine


block = decoder.layers[0]
norm = with_weights_of(block.input_layernorm, RMSNorm(config.hidden_size, config.rms_norm_eps))
assert close(norm(x), block.input_layernorm(x))
assert close(norm(x * 1000), norm(x)), "the size of a row does not matter to what follows"

# %% [markdown]
# ## Rotary positions
#
# Attention compares a query with keys by dot products, which do not know where a token stands. RoPE turns queries and keys
# by an angle proportional to their position. A head's numbers form pairs, number i with number i + half, and each pair is
# turned in its plane, each at a speed of its own: pair j by `position * theta^(-2j / head_dim)`.


# %%
def rope(x, positions):
    """x (tokens, heads, head_dim) -> the same, turned."""
    pairs = x.shape[-1] // 2
    speeds = config.rope_theta ** (-torch.arange(pairs) / pairs)
    angles = positions[:, None] * speeds
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # the same for every head
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


positions = torch.arange(len(ids))
q = block.self_attn.q_proj(block.input_layernorm(x)).view(len(ids), -1, config.head_dim)
assert close(rope(q, positions), rotate(q, decoder.rotary(positions, q.dtype)))

# %% [markdown]
# Turning two vectors by the same angle does not change their dot product. So only the distance between a query and a key
# counts, not where the two stand, and the length of no vector changes.

# %%
one, other = q[:1], q[-1:]
near = (rope(one, torch.tensor([5])) * rope(other, torch.tensor([2]))).sum()
far = (rope(one, torch.tensor([1005])) * rope(other, torch.tensor([1002]))).sum()
assert abs(near - far) < 1e-3 * one.norm() * other.norm()
assert close(rope(q, positions).norm(dim=-1), q.norm(dim=-1))

# %% [markdown]
# The first pairs turn fast and tell neighbours apart; the last turn slowly and tell near from far. The picture has the cosine
# of every angle.

# %%
pairs = config.head_dim // 2
angles = torch.arange(128)[:, None] * config.rope_theta ** (-torch.arange(pairs) / pairs)
figure = plots.matrix(
    angles.cos(), title="cosine of each pair's angle: positions downwards, pairs across", diverging=True
)

# %% [markdown]
# A query that equals a key scores highest at distance zero, and less the farther away the key is. A larger theta, as the
# released models have, makes this reach farther: that is how Qwen2.5 was prepared for long contexts.

# %%
distances = torch.arange(0, 4096)
fall = {}
for theta in sorted({config.rope_theta, *(x.rope_theta for x in released.values())}):
    fall[f"theta {theta:,.0f}"] = (distances[:, None] * theta ** (-torch.arange(64) / 64)).cos().mean(1)
figure = plots.lines(fall, x="distance in tokens", y="score of a vector with itself", title="heads of 128 numbers")

# %% [markdown]
# ## Grouped-query attention
#
# Keys and values have fewer heads than queries: several query heads share one. Nothing is gained in the attention itself, but
# while an answer is generated, the keys and values of every token so far are kept in memory. Here is what that takes in the
# larger released model, and what it would take with a key head for each query head.


# %%
def cache_gibibytes(config, key_heads, tokens):
    return 2 * config.num_hidden_layers * key_heads * config.head_dim * tokens * 2 / 2**30  # 2 bytes: bfloat16


large, tokens = released["7B"], [2**k for k in range(10, 16)]
heads = {
    f"multi-head ({large.num_attention_heads} key heads)": large.num_attention_heads,
    f"grouped ({large.num_key_value_heads})": large.num_key_value_heads,
    "multi-query (1)": 1,
}
figure = plots.lines(
    {name: (tokens, [cache_gibibytes(large, count, n) for n in tokens]) for name, count in heads.items()},
    x="tokens of one conversation",
    y="GiB of keys and values",
    log_x=True,
    log_y=True,
)

# %% [markdown]
# Attention itself: each query head reads the key head of its group, and a token sees itself and what came before it. The
# queries are taken to be the last ones of the keys; without a cache, which comes below, they are all of them.


# %%
def attend(q, k, v):
    """q (new, heads, head_dim), k and v (all, kv_heads, head_dim) -> (new, heads, head_dim)"""
    new, total, group = len(q), len(k), q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)  # 0 0 0 1 1 1: neighbours share
    scores = torch.einsum("n h d, m h d -> h n m", q, k) / q.shape[-1] ** 0.5
    later = torch.ones(new, total, dtype=torch.bool).triu(total - new + 1)
    weights = scores.masked_fill(later, -torch.inf).softmax(-1)
    return torch.einsum("h n m, m h d -> n h d", weights, v)


# %% [markdown]
# Around it stand four projections. Qwen2.5 gives those of queries, keys and values a bias, and the output none. Only queries
# and keys are turned: positions decide where a token looks, not what it finds there.


# %%
class SelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        dim, self.head_dim = config.hidden_size, config.head_dim
        q_dim, kv_dim = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(dim, q_dim), nn.Linear(dim, kv_dim), nn.Linear(dim, kv_dim)
        self.o_proj = nn.Linear(q_dim, dim, bias=False)

    def forward(self, x, positions, cache=None):
        q, k, v = (part(x).view(len(x), -1, self.head_dim) for part in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rope(q, positions), rope(k, positions)
        if cache is not None:  # the keys and values of earlier tokens, and now of these; see below
            k, v = cache.add(self, k, v)
        return self.o_proj(attend(q, k, v).flatten(1))


attention = with_weights_of(block.self_attn, SelfAttention(config))
step = first_step([len(ids)], None, ids.device)  # vl3ref's plan of a pass: one conversation, nothing cached
theirs = block.self_attn(norm(x), decoder.rotary(positions, x.dtype), step)
assert close(attention(norm(x), positions), theirs)
print(f"q_proj {tuple(attention.q_proj.weight.shape)}, k_proj {tuple(attention.k_proj.weight.shape)}")

# %% [markdown]
# Which query heads share a key head is part of the checkpoint. Another order than neighbours has the same shapes and raises
# no error, and it is wrong.

# %%
q, k, v = (
    part(norm(x)).view(len(x), -1, config.head_dim) for part in (attention.q_proj, attention.k_proj, attention.v_proj)
)
group = q.shape[1] // k.shape[1]
dealt = attend(q, k.repeat(1, group, 1), v.repeat(1, group, 1))  # 0 1 2 0 1 2: dealt out like cards
print(
    f"largest value {attend(q, k, v).abs().max():.2f}; dealt out, it is off by up to {(dealt - attend(q, k, v)).abs().max():.2f}"
)
if group > 1 and k.shape[1] > 1:
    assert not close(dealt, attend(q, k, v))

# %% [markdown]
# ## The gated MLP
#
# Attention moves information between tokens; the MLP works on each token alone. It has two projections up, one of which,
# through SiLU, opens and closes the other; then one down. `silu(z) = z * sigmoid(z)`.


# %%
class GatedMLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        dim, wide = config.hidden_size, config.intermediate_size
        self.gate_proj, self.up_proj = nn.Linear(dim, wide, bias=False), nn.Linear(dim, wide, bias=False)
        self.down_proj = nn.Linear(wide, dim, bias=False)

    def forward(self, x):
        gate = self.gate_proj(x)
        return self.down_proj(gate * gate.sigmoid() * self.up_proj(x))


mlp = with_weights_of(block.mlp, GatedMLP(config))
assert close(mlp(norm(x)), block.mlp(norm(x)))
shares = {name: sum(p.numel() for p in part.parameters()) for name, part in (("attention", attention), ("MLP", mlp))}
print(", ".join(f"{name} {count / sum(shares.values()):.0%}" for name, count in shares.items()), "of a block's weights")

# %% [markdown]
# ## The block, and the decoder
#
# A block norms, attends and adds; norms, computes and adds. The decoder is a stack of them, one more norm, and a head that
# scores every token of the vocabulary as the next one. Small models use the embedding table as the head (tied weights).


# %%
class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config)

    def forward(self, x, positions, cache=None):
        x = x + self.self_attn(self.input_layernorm(x), positions, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, x, cache=None):
        """ids (tokens,) or embeddings (tokens, dim) -> logits (tokens, vocab)"""
        x = x if x.is_floating_point() else self.embed_tokens(x)
        past = 0 if cache is None else len(cache)
        positions = torch.arange(past, past + len(x))
        for block in self.layers:
            x = block(x, positions, cache)
        head = self.lm_head if hasattr(self, "lm_head") else self.embed_tokens
        return self.norm(x) @ head.weight.T


assert close(with_weights_of(block, Block(config))(x, positions), block(x, decoder.rotary(positions, x.dtype), step))

# %% [markdown]
# The names are the checkpoint's own, so its weights load by name, all of them, with nothing left over. On torch's "meta" device a
# module has shapes but no memory; with `assign` it gets `vl3ref`'s tensors, and the weights are there once.

# %%
with torch.device("meta"):
    qwen = Qwen(config)
with_weights_of(decoder, qwen)
logits = qwen(ids)
assert close(logits, decoder(ids))
print(f"logits {tuple(logits.shape)}, from {sum(p.numel() for p in qwen.parameters()):,} weights")

# %% [markdown]
# ## The KV cache
#
# To generate, the newest token's logits give the next token, which is appended, and so on. Computing everything again each
# time would be a waste: a token looks only back, so keys and values of earlier tokens never change. They are kept.


# %%
class Cache:
    """Keys and values of every token so far, of each attention that adds some."""

    def __init__(self):
        self.held = {}

    def __len__(self):
        return max((len(k) for k, _ in self.held.values()), default=0)

    def add(self, attention, k, v):
        if attention in self.held:
            k, v = (torch.cat(pair) for pair in zip(self.held[attention], (k, v), strict=True))
        self.held[attention] = k, v
        return k, v


# %% [markdown]
# `Qwen.forward` asks the cache for the first position before the blocks run, since they add to it. Whatever pieces a text is
# read in, the logits are the same.

# %%
for pieces in ([len(ids)], [len(ids) - 1, 1], [3, 1, 1, len(ids) - 5], [1] * len(ids)):
    cache = Cache()
    assert close(torch.cat([qwen(piece, cache) for piece in ids.split(pieces)]), logits)
print("read whole, in pieces, and token by token: the same logits")

# %% [markdown]
# `vl3ref`'s cache holds the same numbers. Its memory is allocated ahead, and has a row for each of several conversations.

# %%
theirs = decoder.new_cache(1)
decoder(ids, cache=theirs)
for layer, block in enumerate(qwen.layers):
    k, v = cache.held[block.self_attn]
    assert close(k.transpose(0, 1), theirs.keys[layer][0, :, : len(ids)])
    assert close(v.transpose(0, 1), theirs.values[layer][0, :, : len(ids)])

# %% [markdown]
# What it saves: tokens that pass through the blocks until an answer is complete, after a prompt of a thousand tokens.

# %%
prompt, lengths = 1000, list(range(1, 513))
again = [sum(prompt + n for n in range(length)) for length in lengths]
once = [prompt + length - 1 for length in lengths]
print(f"an answer of {lengths[-1]} tokens: {again[-1] / once[-1]:.0f} times as much without a cache")
figure = plots.lines(
    {"everything again": again, "with a cache": once}, x="tokens of the answer", y="tokens computed", log_y=True
)

# %% [markdown]
# ## A video through the decoder
#
# Visual tokens are embeddings like any others. `model.splice` encodes the clip, projects it, drops what did not change, and
# puts the rest in its place in the prompt. From there on it is the decoder alone: ours, `vl3ref`'s and transformers'.

# %%
content = [
    {"type": "video", "video": f"{MEDIA}/tinyworld/moves.mp4"},
    {"type": "text", "text": "Where does the red circle move?"},
]
inputs = processor([{"role": "user", "content": content}])
spliced = model.splice(inputs)
mine, ours = qwen(spliced.embeddings), model(inputs).logits
logits = reference_model(model)(**reference_inputs(model, inputs)).logits[0]
assert close(mine, ours) and close(mine, logits)
for name, other in (("vl3ref", ours), ("transformers", logits)):
    print(f"largest difference from {name}: {(mine - other).abs().max():.1e}, of logits up to {other.abs().max():.1f}")

# %% [markdown]
# And an answer. `generate` of notebook 7 does the same, for several conversations at once.


# %%
def answer(qwen, embeddings, most=32):
    cache, ids = Cache(), []
    logits = qwen(embeddings, cache)[-1]
    while len(ids) < most:
        ids.append(int(logits.argmax()))
        if ids[-1] in config.eos_token_ids:
            break
        logits = qwen(torch.tensor(ids[-1:]), cache)[-1]
    return ids


ids = answer(qwen, spliced.embeddings)
[theirs] = model.generate(inputs, max_new_tokens=32)
assert ids == theirs.tolist()
print(processor.decode(ids))

# %% [markdown]
# ## Exercises
#
# Each has a cell to fill and a check that says at once whether it is right. Solutions: `solutions/n06.py`.
#
# **1.** How many bytes does the KV cache of one conversation take? `config` is a decoder's, such as `config` above; a number
# takes `width` bytes.


# %%
def cache_bytes(config, tokens: int, width: int) -> int: ...


check("6.1", cache_bytes)

# %% [markdown]
# **2.** A checkpoint with a key head for each query head is turned into a grouped one by averaging the heads of a group, and
# training a little (arXiv 2305.13245). Average the rows of `weight`, (heads x head_dim, dim), to (kv_heads x head_dim, dim), so that
# `attend` above has to guess as little as possible.


# %%
def grouped(weight: torch.Tensor, heads: int, kv_heads: int) -> torch.Tensor: ...


check("6.2", grouped)

# %% [markdown]
# **3.** Some implementations pair number 2j with number 2j + 1, not i with i + half. Their rotation, on our checkpoint, gives
# nonsense without an error. Reorder the rows of a query or key projection, (heads x head_dim, dim), so that their rotation of the
# reordered head has the numbers that ours has, in another order. (Dot products do not care about order. Why may the values
# stay as they are?)


# %%
def for_interleaved_pairs(weight: torch.Tensor, head_dim: int) -> torch.Tensor: ...


check("6.3", for_interleaved_pairs)
