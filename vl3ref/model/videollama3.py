"""The whole model: encode, prune, splice, decode (paper, figure 2).

    pixel_values --vision_encoder--> features --DiffFP--> kept --projector--> embeddings
    input_ids ----embed_tokens--------------------------------> embeddings      | spliced in place of visual tokens
                                                                     language_model --> logits

Everything is packed: any number of conversations, each with any number of pictures and videos, in one tensor. Every
conversation gets what it would get alone.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vl3ref.config import ModelConfig
from vl3ref.errors import InputError
from vl3ref.model.diff_fp import DiffFP, Pruner, keep_all
from vl3ref.model.language_model import MLP_CHUNK, LanguageModel, learnt_after
from vl3ref.model.projector import Projector
from vl3ref.model.recording import Recording
from vl3ref.model.vision import VisionEncoder
from vl3ref.model_inputs import IGNORED, ModelInputs


@dataclass
class Spliced:
    """What the decoder reads: packed embeddings after DiffFP.

    Attributes:
        embeddings: (N_kept, dim).
        lengths: tokens of each conversation after the drop.
        keep_mask: (visual tokens,) bool: which visual tokens stayed.
        kept: (N,) bool: which of the input_ids stayed.
    """

    embeddings: Float[Tensor, "kept dim"]
    lengths: list[int]
    keep_mask: Bool[Tensor, " visual_tokens"]
    kept: Bool[Tensor, " tokens"]


@dataclass
class ModelOutput:
    """What a forward pass gives. Attributes that were not asked for are None.

    Attributes:
        logits: (N_kept, vocab), packed, in the model's dtype.
        lengths: (B,) int64, tokens of each conversation after DiffFP.
        keep_mask: (visual tokens,) bool.
        loss: scalar float32.
        hidden_states: the decoder's residual stream, layers + 1 tensors (N_kept, dim).
        attentions: per decoder layer, a list of (heads, n, n) per conversation.
        vision_hidden_states, vision_attentions: the same of the vision encoder; (patches, dim), and a list per frame.
    """

    logits: Float[Tensor, "kept vocab"] | None
    lengths: Int[Tensor, " conversations"]
    keep_mask: Bool[Tensor, " visual_tokens"]
    loss: Float[Tensor, ""] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[list[Tensor], ...] | None = None
    vision_hidden_states: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[list[Tensor], ...] | None = None


class VideoLLaMA3(nn.Module):
    """VideoLLaMA 3.

    Attributes:
        projector: any module (tokens, vision dim) -> (tokens, text dim).
        pruner: any callable pixel_values, grid_sizes, merge_sizes, modals -> keep mask; see `diff_fp.Pruner`.
        recommended_sampling: what the checkpoint's generation_config.json suggests (temperature, top_k, top_p,
            repetition_penalty); empty if nothing. Used when asked for:
            `model.generate(inputs, **model.recommended_sampling)`.
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
        self.recommended_sampling: dict[str, Any] = {}
        self.project_before_pruning = False

    @property
    def device(self) -> torch.device:
        return self.language_model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.language_model.embed_tokens.weight.dtype

    def forward(
        self,
        inputs: ModelInputs,
        labels: Int[Tensor, " labels"] | None = None,
        return_logits: bool | None = None,
        logits_to_keep: int = 0,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> ModelOutput:
        """
        Args:
            inputs: moved to the model's device if they are elsewhere.
            labels: (N,) before DiffFP, unshifted, -100 ignored. With labels the loss is computed, and the logits are
                left out unless asked for.
            return_logits: whether to compute logits; by default, when there are no labels.
            logits_to_keep: 0 for all logits, k for the last k of each conversation.

        Raises:
            InputError: the inputs contradict each other or the model.
        """
        if not isinstance(inputs, ModelInputs):
            raise InputError(f"the model takes ModelInputs, not a {type(inputs).__name__}; make them with a processor")
        if labels is not None:
            _check_labels(labels, inputs, self.config.language.vocab_size)
        text_record = Recording(output_hidden_states, output_attentions)
        vision_record = Recording(output_hidden_states, output_attentions)
        inputs = inputs.to(self.device)
        spliced = self.splice(inputs, vision_record if output_hidden_states or output_attentions else None)
        hidden = self.language_model.hidden(spliced.embeddings, spliced.lengths, recording=text_record)

        loss = logits = None
        if labels is not None:
            labels = labels.to(self.device)[spliced.kept]
            if not bool(learnt_after(labels, spliced.lengths).any()):
                raise InputError(f"nothing is learnt: every label is {IGNORED}, or stands first in its conversation")
            loss = self.language_model.loss(hidden, labels, spliced.lengths)
        if labels is None if return_logits is None else return_logits:
            if logits_to_keep:
                hidden = torch.cat([segment[-logits_to_keep:] for segment in hidden.split(spliced.lengths)])
            logits = self.language_model.head(hidden)
        return ModelOutput(
            logits=logits,
            lengths=torch.tensor(spliced.lengths),
            keep_mask=spliced.keep_mask,
            loss=loss,
            hidden_states=text_record.all_hidden(),
            attentions=text_record.all_attentions(),
            vision_hidden_states=vision_record.all_hidden(),
            vision_attentions=vision_record.all_attentions(),
        )

    def splice(self, inputs: ModelInputs, recording: Recording | None = None) -> Spliced:
        """Encode, prune and project the visuals, and put them where the conversations have their visual tokens.

        Dropped tokens leave the sequence here: positions are counted after the drop, and neither the projector nor the
        decoder ever sees them.
        """
        config = self.config
        inputs = inputs.to(self.device)
        inputs.check(config.visual_token_ids, config.language.vocab_size, config.vision.patch_values)
        visual = inputs.visual_positions(config.visual_token_ids)
        keep_mask = self.keep_mask(inputs)
        if keep_mask.dtype != torch.bool or tuple(keep_mask.shape) != (sum(inputs.tokens_per_visual()),):
            raise InputError(
                f"the pruner's mask is {keep_mask.dtype} {tuple(keep_mask.shape)}; it should be bool, one for each of "
                f"{sum(inputs.tokens_per_visual())} visual tokens"
            )

        kept = torch.ones_like(visual)
        kept[visual] = keep_mask
        embeddings = self.language_model.embed_tokens(inputs.input_ids[kept])
        if inputs.pixel_values is not None:
            features = self.vision_encoder(inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes, recording)
            if self.project_before_pruning:
                projected = self.projector(features)[keep_mask]
            else:
                projected = self.projector(features[keep_mask])
            if tuple(projected.shape) != (int(keep_mask.sum()), embeddings.shape[1]):
                raise InputError(
                    f"the projector made {tuple(projected.shape)} of {int(keep_mask.sum())} visual tokens; "
                    f"the decoder needs {embeddings.shape[1]} numbers for each"
                )
            embeddings = embeddings.masked_scatter(visual[kept][:, None], projected.to(embeddings.dtype))
        lengths = [int(segment.sum()) for segment in kept.split(inputs.lengths.tolist())]
        return Spliced(embeddings, lengths, keep_mask, kept)

    def keep_mask(self, inputs: ModelInputs) -> Bool[Tensor, " visual_tokens"]:
        """Which visual tokens stay: by the inputs' own wish (`ModelInputs.diff_fp`), else by the model's pruner."""
        if inputs.pixel_values is None or inputs.grid_sizes is None or inputs.merge_sizes is None:
            return torch.ones(0, dtype=torch.bool, device=self.device)
        pruner = self.pruner
        if inputs.diff_fp is False:
            pruner = keep_all
        elif inputs.diff_fp is not None:
            pruner = DiffFP() if inputs.diff_fp is True else DiffFP(inputs.diff_fp)
        return pruner(inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes, inputs.modals)

    def exact(self, on: bool = True) -> "VideoLLaMA3":
        """Compute in the order of transformers' implementation, or in the fast order (the default) again.

        The same kernels on the same shapes give the same bits. Four things are ordered differently here for speed, and
        this puts them back: the patch embedding is a matrix product instead of a convolution, frames are encoded in
        chunks instead of all at once, dropped tokens are not projected, and the decoder's MLPs compute long prompts in
        pieces. With `exact()`, on a CPU in float32, features, embeddings and logits of one conversation equal those of
        transformers (sdpa) bit for bit.
        """
        self.vision_encoder.embeddings.as_convolution = on
        self.vision_encoder.chunk_patches = None if on else "auto"
        self.project_before_pruning = on
        self.language_model.chunk_mlps(None if on else MLP_CHUNK)
        return self

    def recompute(self, on: bool = True) -> "VideoLLaMA3":
        """Trade time for memory in training: hold only what passes between layers for the backward pass, and compute
        the rest again in it (gradient checkpointing)."""
        self.vision_encoder.encoder.recompute = on
        self.language_model.recompute = on
        return self

    def generate(
        self,
        inputs: ModelInputs,
        max_new_tokens: int = 128,
        min_new_tokens: int = 0,
        temperature: int | float = 0.0,
        top_p: int | float | None = None,
        top_k: int | None = None,
        repetition_penalty: int | float = 1.0,
        seed: int | None = None,
        **options: Any,
    ) -> list[Tensor]:
        """Answer every conversation.

        Args:
            options: penalty_scope and end_token_ids; see `vl3ref.generation.generate`, which also explains the rest.

        Returns:
            One int64 tensor per conversation: the new ids alone, the end-of-text id included when it came.
        """
        from vl3ref.generation import generate  # generation is built on the model, not the other way round

        sampling = (temperature, top_p, top_k, repetition_penalty, seed)
        return generate(self, inputs, max_new_tokens, min_new_tokens, *sampling, **options)


def _check_labels(labels: Tensor, inputs: ModelInputs, vocab_size: int) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
        raise InputError("labels should be a 1-D int64 tensor")
    if len(labels) != len(inputs.input_ids):
        raise InputError(f"{len(labels)} labels for {len(inputs.input_ids)} input_ids")
    if int(labels.max()) >= vocab_size or bool(((labels < 0) & (labels != IGNORED)).any()):
        raise InputError(
            f"labels should be {IGNORED} or lie between 0 and {vocab_size - 1}; these run from "
            f"{int(labels.min())} to {int(labels.max())}"
        )
