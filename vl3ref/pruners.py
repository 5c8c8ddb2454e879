"""Other ways to choose which visual tokens the decoder reads, beside the model's own (DiffFP).

A rule scores every visual token: how much it differs from the frame before, or how much the question looks at it.
`Above` makes a pruner of a rule and a threshold, as papers have it; `Share` makes one of a rule and a budget, so that
rules can be compared at equal numbers of tokens. Every frame keeps at least one token, since its timestamp in the
prompt must be followed by something.

    model.pruner = Above(run_length_change, 0.1)
    model.pruner = Share(cosine_change, 0.25)
    model(inputs, pruner=read_pruner("question=0.25", model))

Rules about time give images and first frames an infinite score: `Above` keeps both whole, `Share` keeps images whole
and first frames as far as its budget goes. All compare with the frame just before, whether its tokens were kept or not.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from vl3ref.errors import InputError, quoted
from vl3ref.model.diff_fp import DiffFP, Pruner, frame_change, keep_all
from vl3ref.model.kv_cache import first_step
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs

Rule = Callable[[ModelInputs, Tensor | None], Tensor]
"""(inputs, vision features (tokens, dim)) -> a score for each visual token (tokens,), float. More is kept first."""

IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of the three channels in [0, 1], by which RLT's frames are normalised."""

GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Above:
    """Keeps the tokens whose score exceeds a threshold; of a frame that has none, the first token, as DiffFP does."""

    rule: Rule
    threshold: float

    def __call__(self, inputs: ModelInputs, features: Tensor | None = None) -> Bool[Tensor, " tokens"]:
        masks = []
        for scores in by_frame(inputs, self.rule(inputs, features)):
            keep = scores > self.threshold
            keep[:, 0] |= ~keep.any(dim=1)
            masks.append(keep.flatten())
        return torch.cat(masks) if masks else keep_all(inputs)


@dataclass(frozen=True)
class Share:
    """Keeps a share of each visual's tokens: the best of every frame, then the best of the rest.

    Args:
        share: above 0, at most 1. The number of tokens is rounded.

    Raises:
        InputError: the share is out of range.
    """

    rule: Rule
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"a share of visual tokens lies above 0 and is at most 1, not {quoted(self.share)}")

    def __call__(self, inputs: ModelInputs, features: Tensor | None = None) -> Bool[Tensor, " tokens"]:
        masks = []
        for scores in by_frame(inputs, self.rule(inputs, features)):
            best = scores.sort(dim=1, descending=True, stable=True).indices[:, :1]
            keep = scores.isposinf().all().expand_as(scores).scatter(1, best, True)
            rest = scores.masked_fill(keep, -torch.inf).flatten().sort(descending=True, stable=True).indices
            more = max(round(self.share * scores.numel()) - len(scores), 0)
            masks.append(keep.flatten().index_fill(0, rest[:more], True))
        return torch.cat(masks) if masks else keep_all(inputs)


def by_frame(inputs: ModelInputs, scores: Tensor) -> list[Float[Tensor, "frames tokens"]]:
    """The scores of each image and video."""
    frames = [] if inputs.grid_sizes is None else inputs.grid_sizes[:, 0].tolist()
    return [part.view(t, -1) for part, t in zip(scores.split(inputs.tokens_per_visual()), frames, strict=True)]


# ------------------------------------------------------------------------------------------------- what changes in time


def pixel_change(inputs: ModelInputs, features: Tensor | None = None) -> Float[Tensor, " tokens"]:
    """DiffFP (VideoLLaMA 3, arXiv 2501.13106, section 3.1; scale: the released code): the mean absolute difference of
    pixels in [-1, 1], times 255. `Above(pixel_change, 0.1)` keeps what the released `DiffFP()` keeps."""
    return _over_time(inputs, [pixels for pixels, *_ in inputs.visuals()], frame_change)


def run_length_change(inputs: ModelInputs, features: Tensor | None = None) -> Float[Tensor, " tokens"]:
    """RLT (Run-Length Tokenization, arXiv 2411.05222), which DiffFP's paper cites: the mean over a patch and its
    channels of |difference| between frames. A patch is static, and dropped, if that is at most tau.

    From its code (rccchoudhury/rlt: static_token_utils.py, tokenizer.py): frames in [0, 1] are normalised by ImageNet's
    mean and deviation before they are compared, and tau is 0.1. That is some 6 of 255 grey levels; the released
    DiffFP's threshold, also written 0.1, is a twentieth of one.

    Our reading: a token is one frame deep (RLT's are two, and the last frame of one is compared with the first of the
    one before; at a depth of one these are neighbouring frames) and as large as this model's, several patches where
    they are merged. The decoder is not told how long a run was, which RLT can add to a token's embedding.
    """
    return _over_time(inputs, [pixels for pixels, *_ in inputs.visuals()], _imagenet_change)


def _imagenet_change(pixels: Tensor, frames: int, merge: int) -> Float[Tensor, "later_frames tokens"]:
    by_channel = rearrange(pixels, "(t n m) (c p) -> t n c (m p)", t=frames, m=merge**2, c=3)
    per_channel = 0.5 / torch.tensor(IMAGENET_STD, device=pixels.device)  # ours are normalised by 0.5
    pairs = pairwise(by_channel)
    return torch.stack([((b.float() - a.float()).abs().mean(-1) * per_channel).mean(-1) for a, b in pairs])


def cosine_change(inputs: ModelInputs, features: Tensor | None) -> Float[Tensor, " tokens"]:
    """1 - cos(f_t, f_t-1), for the features of one place in two neighbouring frames: the similarity by which
    FrameFusion (arXiv 2501.01986) finds tokens to merge.

    From the paper: which tokens are compared, and the cosine. From its code: the default threshold of 0.6, here
    `Above(cosine_change, 0.4)`. Our reading: features of the vision encoder instead of hidden states of the decoder's
    first blocks, and a similar token is dropped instead of averaged with the one before it.

    Raises:
        InputError: there are no features.
    """
    parts = _needed(features).split(inputs.tokens_per_visual())
    return _over_time(inputs, list(parts), _one_minus_cosine)


def _one_minus_cosine(features: Tensor, frames: int, merge: int) -> Float[Tensor, "later_frames tokens"]:
    directions = torch.nn.functional.normalize(features.float(), dim=-1).view(frames, -1, features.shape[1])
    return 1 - (directions[1:] * directions[:-1]).sum(-1)


def _over_time(
    inputs: ModelInputs, parts: list[Tensor], change: Callable[[Tensor, int, int], Tensor]
) -> Float[Tensor, " tokens"]:
    """Infinity for images and first frames, change(part, frames, merge) for the frames after them."""
    scores = []
    for part, (_, (t, h, w), merge, modal) in zip(parts, inputs.visuals(), strict=True):
        score = torch.full((t, h * w // merge**2), torch.inf, device=part.device)
        if modal == "video" and t > 1:
            score[1:] = change(part, t, merge)
        scores.append(score.flatten())
    return torch.cat(scores) if scores else torch.zeros(0, device=inputs.input_ids.device)


# ----------------------------------------------------------------------------------------------- what does not ask when


def even_spread(inputs: ModelInputs, features: Tensor | None = None) -> Float[Tensor, " tokens"]:
    """Nothing of the content: any share of the tokens lies evenly over frames, rows and columns, images included.

    Token i of a visual scores 1 - frac(i g), where g is the golden ratio's fraction, 0.618. Gaps between the tokens of
    the highest scores have at most three lengths. (Every n-th token would be in one column where n divides a row.)
    """
    device = inputs.input_ids.device
    scores = [
        1 - (torch.arange(n, dtype=torch.float64, device=device) * GOLDEN) % 1 for n in inputs.tokens_per_visual()
    ]
    return torch.cat(scores).float() if scores else torch.zeros(0, device=device)


@dataclass(frozen=True)
class QuestionAttention:
    """The attention that visual tokens get from the question in one of the decoder's first blocks:

        score(j) = mean over heads h and question tokens i of softmax(q_i k / sqrt(d))_j

    From FastV (arXiv 2403.06764; code: pkunlp-icler/FastV): the second block, the mean over heads, the ranking, and
    half of the tokens as the budget. Its code reads the row of the prompt's last token; in SparseVLM (arXiv 2410.04417)
    those words of the question rate that look at the picture most. Our reading: all text behind a conversation's last
    visual rates. FastV drops tokens behind the second block; here they are dropped before the first, which costs the
    first blocks twice. It ranks a prompt's visual tokens together, `Share` ranks those of each visual. Images are
    pruned too.

    Args:
        model: whose projector and decoder are used.
        layer: the block whose attention counts, from 0.
    """

    model: VideoLLaMA3
    layer: int = 1

    @torch.no_grad()
    def __call__(self, inputs: ModelInputs, features: Tensor | None) -> Float[Tensor, " tokens"]:
        """
        Raises:
            InputError: there are no features, or no such block.
        """
        decoder, lengths = self.model.language_model, inputs.lengths.tolist()
        if not 0 <= self.layer < len(decoder.layers):
            raise InputError(f"layer should be from 0 to {len(decoder.layers) - 1}, not {quoted(self.layer)}")
        visual = inputs.is_visual(self.model.config.visual_token_ids)
        x = decoder.embed_tokens(inputs.input_ids)
        x = x.masked_scatter(visual[:, None], self.model.projector(_needed(features)).to(x.dtype))
        scheme = self.model.positions
        step = first_step(lengths, scheme and scheme(inputs, torch.ones_like(visual)), x.device)
        rotation = decoder.rotary(step.positions, x.dtype)
        seen: list[tuple[Tensor, ...]] = []
        attend = decoder.layers[self.layer].get_submodule("self_attn.attend")
        hook = attend.register_forward_pre_hook(lambda _, args: seen.append(args[:2]))
        try:
            for block in decoder.layers[: self.layer + 1]:
                x = block(x, rotation, step)
        finally:
            hook.remove()
        q, k, visuals = (part.split(lengths) for part in (*seen[0], visual))
        return torch.cat(list(map(_seen_by_the_question, q, k, visuals)))


def _seen_by_the_question(
    q: Float[Tensor, "tokens heads dim"], k: Float[Tensor, "tokens kv_heads dim"], visual: Bool[Tensor, " tokens"]
) -> Float[Tensor, " visual_tokens"]:
    """Within one conversation; only the question's rows of the attention map are computed."""
    if not visual.any():
        return torch.zeros(0, device=q.device)
    start = min(int(visual.nonzero()[-1]) + 1, len(q) - 1)
    rows, keys = q[start:].float(), k.float().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = torch.einsum("n h d, m h d -> h n m", rows, keys) * q.shape[-1] ** -0.5
    later = torch.ones_like(scores[0], dtype=torch.bool).triu(start + 1)
    return scores.masked_fill(later, -torch.inf).softmax(dim=-1).mean(dim=(0, 1))[visual]


def _needed(features: Tensor | None) -> Tensor:
    if features is None:
        raise InputError("this pruner reads the vision encoder's features, and there are none without weights")
    return features


# ------------------------------------------------------------------------------------------------- for the command line

RULES: Mapping[str, Callable[[VideoLLaMA3], Rule]] = {
    "difffp": lambda model: pixel_change,
    "rlt": lambda model: run_length_change,
    "cosine": lambda model: cosine_change,
    "uniform": lambda model: even_spread,
    "question": QuestionAttention,
}

PUBLISHED: Mapping[str, Callable[[Rule], Pruner]] = {
    "difffp": lambda rule: DiffFP(),
    "rlt": partial(Above, threshold=0.1),
    "cosine": partial(Above, threshold=0.4),
    "uniform": partial(Share, share=0.5),
    "question": partial(Share, share=0.5),
}
"""With the papers' numbers; uniform, which has no paper, has FastV's budget."""


def read_pruner(text: str, model: VideoLLaMA3) -> Pruner:
    """`NAME`, with its paper's number, or `NAME=SHARE`: that rule with a budget, 0.25 for a quarter of each visual's
    tokens. `all` keeps everything.

    Args:
        model: for pruners that compute with it.

    Raises:
        InputError: there is no such name, or the share is none.
    """
    name, budget, number = text.partition("=")
    if text == "all":
        return keep_all
    if name not in RULES:
        raise InputError(f"there is no pruner {quoted(name)}; there are {', '.join(RULES)} and all")
    rule = RULES[name](model)
    if not budget:
        return PUBLISHED[name](rule)
    try:
        share = float(number)
    except ValueError:
        raise InputError(f"behind {name}= stands the share of tokens that it keeps, not {quoted(number)}") from None
    return Share(rule, share)
