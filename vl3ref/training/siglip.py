"""The vision encoder's own pre-training: SigLIP's sigmoid loss (Zhai et al. 2023, arXiv:2303.15343, algorithm 1).

    pictures -> encoder -> mean over patches -> linear --> unit vectors --\\
                                                                           dot product -> does this text tell of this
    texts ----> decoder -> last token --------> linear --> unit vectors --/               picture? (yes or no, per pair)

Every pair of a batch is a question of its own, so nothing is normalised over the batch. Only the encoder is kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.data import Dataset

from vl3ref.inputs.patches import patchify, target_sizes
from vl3ref.inputs.processor import Processor
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.vision import VisionEncoder
from vl3ref.training.batches import Batch


class SigLIP(nn.Module):
    """An encoder and a text tower that meet in one space.

    Args:
        vision_encoder: what is trained, and kept.
        text_tower: a decoder; its last token has read the whole text.
        dim: of the space they meet in.
    """

    def __init__(self, vision_encoder: VisionEncoder, text_tower: LanguageModel, dim: int = 128) -> None:
        super().__init__()
        self.vision_encoder = vision_encoder
        self.text_tower = text_tower
        self.vision_head = nn.Linear(vision_encoder.config.hidden_size, dim)
        self.text_head = nn.Linear(text_tower.config.hidden_size, dim)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def forward(self, pairs: "Pairs") -> Float[Tensor, "pictures texts"]:
        """The logit of every picture being the one that a text tells of."""
        counts = pairs.grid_sizes.prod(dim=1).tolist()
        features = self.vision_encoder(pairs.pixel_values, pairs.grid_sizes, torch.ones_like(pairs.grid_sizes[:, 0]))
        pictures = self.vision_head(torch.stack([rows.mean(dim=0) for rows in features.split(counts)]))
        hidden = self.text_tower.hidden(pairs.input_ids, pairs.lengths.tolist())
        texts = self.text_head(hidden[pairs.lengths.cumsum(0) - 1])
        return F.normalize(pictures, dim=-1) @ F.normalize(texts, dim=-1).T * self.log_scale.exp() + self.bias


@dataclass
class Pairs:
    """Pictures and a text for each.

    Attributes:
        pixel_values, grid_sizes: of the pictures, as in `ModelInputs`.
        input_ids: the texts, packed.
        lengths: tokens of each text.
        labels: which texts are the same: equal numbers, equal texts.
    """

    pixel_values: Float[Tensor, "patches values"]
    grid_sizes: Int[Tensor, "pictures 3"]
    input_ids: Int[Tensor, " tokens"]
    lengths: Int[Tensor, " pictures"]
    labels: Int[Tensor, " pictures"]

    def to(self, device: torch.device | str) -> "Pairs":
        move = {name: getattr(self, name).to(device) for name in ("pixel_values", "input_ids", "labels")}
        return replace(self, **move)


def pair_loss(model: SigLIP, pack: Pairs) -> Float[Tensor, ""]:
    """The sigmoid loss, summed over all pairs; the trainer divides by the pictures, as the paper does."""
    return sigmoid_loss(model(pack), pack.labels[:, None] == pack.labels)


def sigmoid_loss(logits: Float[Tensor, "pictures texts"], same: Bool[Tensor, "pictures texts"]) -> Float[Tensor, ""]:
    """Minus the log-likelihood of the right answer for each pair, summed over all pairs.

    Args:
        same: which text tells of which picture: the diagonal, and pictures that happen to have equal texts.
    """
    return -F.logsigmoid(torch.where(same, logits, -logits)).sum()


@dataclass
class PairBatches(Dataset[Batch]):
    """Batches of pictures with a text each.

    Attributes:
        pair: index -> a picture (H, W, 3) uint8 and its text.
        processor: whose tokenizer and sizes are used.
        batch_size: pairs in a step.
    """

    pair: Callable[[int], tuple[np.ndarray, str]]
    processor: Processor
    batch_size: int

    def __getitem__(self, step: int) -> Batch:
        first = step * self.batch_size
        pack = self.pack([self.pair(index) for index in range(first, first + self.batch_size)])
        return Batch([pack], targets=self.batch_size, tokens=len(pack.input_ids), samples=self.batch_size)

    @property
    def order(self) -> dict[str, int]:
        """See `Conversations.order`."""
        return {"batch_size": self.batch_size}

    def pack(self, pairs: Sequence[tuple[np.ndarray, str]]) -> Pairs:
        config = self.processor.config
        pixels, grids = [], []
        for picture, _ in pairs:
            shape = [(1, *picture.shape[:2])]
            [size] = target_sizes(shape, [2], config.max_tokens, config.min_tokens, config.patch_size)
            pixels.append(patchify(iter([picture]), 1, size, 1, config.patch_size))
            grids.append([1, size[0] // config.patch_size, size[1] // config.patch_size])
        ids = [self.processor.tokenizer.encode(text)[0] for _, text in pairs]
        number = {text: n for n, (_, text) in enumerate(pairs)}
        return Pairs(
            torch.cat(pixels),
            torch.tensor(grids),
            torch.tensor([token for text in ids for token in text]),
            torch.tensor([len(text) for text in ids]),
            torch.tensor([number[text] for _, text in pairs]),
        )
