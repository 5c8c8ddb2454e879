"""The whole model (paper, figure 2).

    pixel_values --vision_encoder--> features --projector--> visual embeddings
    inputs, features --pruner--> which of them are kept
    input_ids --embed_tokens--> embeddings, the kept ones in place of visual tokens --language_model--> logits

Everything is packed: any number of conversations, each with any number of images and videos, in one tensor. Every
conversation gets what it would get alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from vl3ref.config import ModelConfig
from vl3ref.errors import InputError
from vl3ref.model.diff_fp import DiffFP, Pruner, keep_all
from vl3ref.model.language_model import LanguageModel, last_of_each
from vl3ref.model.loss import check_labels, next_token_loss
from vl3ref.model.outputs import ModelOutput, Spliced, check_logits_to_keep, check_parts, check_pruner
from vl3ref.model.projector import Projector
from vl3ref.model.vision import VisionEncoder
from vl3ref.model_inputs import ModelInputs

PositionScheme = Callable[[ModelInputs, Tensor], Tensor]
"""(inputs, which of the input_ids are kept) -> rotary positions (kept,) or (kept, axes), int64, from 0 in each
conversation. `language_model.rotary` has to take the same axes, and (tokens,): the positions of answers."""


class VideoLLaMA3(nn.Module):
    """
    Attributes:
        pruner: decides which visual tokens the decoder reads: (inputs, features) -> keep mask or scores.
        projector: any module (tokens, vision dim) -> (tokens, text dim).
        positions: rotary positions of the decoder; None counts 0, 1, 2, ... in each conversation, after pruning.
        recommended_sampling: the checkpoint's own, for `generate(inputs, **model.recommended_sampling)`.
        unsure_below: mean log-probability below which its answers are often wrong, if the checkpoint says so.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_encoder = VisionEncoder(config.vision)
        self.projector: nn.Module = Projector(
            config.vision.hidden_size, config.language.hidden_size, config.projector_depth
        )
        self.language_model = LanguageModel(config.language)
        self.pruner: Pruner = DiffFP() if config.use_token_compression else keep_all
        self.positions: PositionScheme | None = None
        self.recommended_sampling: dict[str, Any] = {}
        self.unsure_below: float | None = None

    def forward(
        self,
        inputs: ModelInputs,
        labels: Int[Tensor, " labels"] | None = None,
        return_logits: bool | None = None,
        logits_to_keep: int = 0,
        pruner: Pruner | None = None,
    ) -> ModelOutput:
        """
        Args:
            inputs: moved to the model's device if they are elsewhere.
            labels: (N,) before pruning, unshifted, -100 ignored. With labels the loss is computed, and the logits are
                left out unless `return_logits` asks for them.
            logits_to_keep: 0 for all logits, k for the last k of each conversation.
            pruner: in place of the model's, for this call.

        Raises:
            InputError: the inputs contradict each other or the model.
        """
        if not isinstance(inputs, ModelInputs):
            raise InputError(f"the model takes ModelInputs, not a {type(inputs).__name__}; make them with a processor")
        check_logits_to_keep(logits_to_keep)
        if labels is not None:
            check_labels(labels, len(inputs.input_ids), self.config.language.vocab_size)
        spliced = self.splice(inputs, pruner)
        hidden = self.language_model.hidden(spliced.embeddings, spliced.lengths, positions=spliced.positions)
        output = ModelOutput(torch.tensor(spliced.lengths), spliced.keep_mask)
        if labels is not None:
            kept_labels = labels.to(self.device)[spliced.kept]
            output.loss = next_token_loss(self.language_model.head, hidden, kept_labels, spliced.lengths)
        if return_logits or (return_logits is None and labels is None):
            output.logits = self.language_model.head(last_of_each(hidden, spliced.lengths, logits_to_keep))
        return output

    def splice(self, inputs: ModelInputs, pruner: Pruner | None = None) -> Spliced:
        """Encode, project and prune the visuals, and put them where the conversations have their visual tokens.

        Dropped tokens leave the sequence here: positions are counted afterwards, and the decoder never sees them.
        """
        inputs.check(self.config)
        inputs = inputs.to(self.device)
        visual = inputs.is_visual(self.config.visual_token_ids)
        kept = torch.ones_like(visual)
        keep_mask = visual[:0]
        embeddings = self.language_model.embed_tokens(inputs.input_ids)
        if inputs.pixel_values is not None:
            features = self.vision_encoder(inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)
            projected = self.projector(features)
            scores = check_pruner(self.pruner if pruner is None else pruner)(inputs, features)
            check_parts(features, projected, scores, (sum(inputs.tokens_per_visual()), embeddings.shape[1]))
            keep_mask = scores > 0
            if scores.is_floating_point():
                projected = projected * scores[:, None]
            kept = kept.masked_scatter(visual, keep_mask)
            embeddings = embeddings.masked_scatter(visual[:, None], projected.to(embeddings.dtype))
        lengths = torch.stack([part.sum() for part in kept.split(inputs.lengths.tolist())]).tolist()
        positions = None if self.positions is None else self.positions(inputs, kept)
        return Spliced(embeddings[kept], lengths, keep_mask, kept, positions)

    def gradient_checkpointing(self, on: bool = True) -> "VideoLLaMA3":
        """Trade time for memory in training, in both towers."""
        self.vision_encoder.gradient_checkpointing = self.language_model.gradient_checkpointing = on
        return self

    def generate(self, inputs: ModelInputs, *options: Any, **named: Any) -> Any:
        """Answer every conversation, each by a tensor of new ids. Options: see `vl3ref.generation.stream`."""
        from vl3ref.generation import generate  # generation is built on the model, not the other way round

        return generate(self, inputs, *options, **named)

    @property
    def device(self) -> torch.device:
        return self.language_model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.language_model.embed_tokens.weight.dtype
