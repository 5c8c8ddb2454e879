"""The four stages of the paper (section 3.2): what each trains, how fast, and how finely it sees.

1 vision encoder adaptation    2 vision-language alignment    3 multi-task fine-tuning    4 video-centric fine-tuning
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn

from vl3ref.inputs.processor import Processor
from vl3ref.model.diff_fp import DiffFP, keep_all
from vl3ref.model.videollama3 import VideoLLaMA3


@dataclass(frozen=True)
class Stage:
    """What is trained, and how.

    Attributes:
        name: of the stage; a checkpoint of one stage does not resume another.
        decoder_lr, projector_lr, vision_lr: peak learning rates; None freezes the part.
        image_merge_size, video_merge_size: patches along the side of one visual token.
        prune: whether the model's pruner (DiffFP, or a change's own) drops visual tokens; if not, all are kept.
        purpose: what the stage is for.
        added_lr: peak learning rate of what a change added outside the three parts (`pruner.*`, say), which always
            trains. None: the projector's.
    """

    name: str
    decoder_lr: float | None
    projector_lr: float | None
    vision_lr: float | None
    image_merge_size: int
    video_merge_size: int
    prune: bool
    purpose: str
    added_lr: float | None = None

    @property
    def learning_rates(self) -> Mapping[str, float | None]:
        """Peak learning rate by part of the model; None for a part that is frozen."""
        return {
            "vision_encoder": self.vision_lr,
            "projector": self.projector_lr,
            "language_model": self.decoder_lr,
            "added": self.projector_lr if self.added_lr is None else self.added_lr,
        }


OFFICIAL_2B = (
    Stage("stage-1", None, 1e-3, 1e-5, 1, 2, False, "vision encoder adaptation: any resolution, for this decoder"),
    Stage("stage-2", 1e-5, 1e-5, 2e-6, 1, 2, False, "vision-language alignment: detailed pictures, charts, documents"),
    Stage("stage-3", 1e-5, 1e-5, 2e-6, 1, 2, True, "multi-task fine-tuning: questions about pictures and videos"),
    Stage("stage-4", 1e-5, 1e-5, 2e-6, 2, 2, True, "video-centric fine-tuning: mostly videos, streaming, times"),
)
"""The official scripts' values. Stage 1 starts from SigLIP-NaViT (google's siglip-so400m-patch14-384 without its
position table and pooling head) and Qwen2.5-1.5B-Instruct."""

OFFICIAL_7B = OFFICIAL_2B
"""From the paper (section 4.1), for there are no scripts: the 2B's learning rates. Stage 1 starts from Qwen2.5-7B and
the vision encoder of the finished 2B."""

BATCH, WARM_UP, CLIP, BETAS, EPSILON = 128, 0.03, 1.0, (0.9, 0.999), 1e-8
"""Official: conversations per step, warm-up's share of the steps, largest gradient norm, AdamW's own numbers (without
weight decay)."""

MAX_VISUAL_TOKENS, MAX_TOKENS = 10240, 16384
"""Official: what the visuals of a conversation shrink to, and where a conversation is cut."""

TINY = (
    replace(OFFICIAL_2B[0], projector_lr=1e-3, vision_lr=1e-3, image_merge_size=2),
    replace(OFFICIAL_2B[1], decoder_lr=8e-4, projector_lr=8e-4, vision_lr=8e-4, image_merge_size=2),
    replace(OFFICIAL_2B[2], decoder_lr=8e-4, projector_lr=8e-4, vision_lr=8e-4, image_merge_size=2),
    replace(
        OFFICIAL_2B[3],
        decoder_lr=5e-4,
        projector_lr=5e-4,
        vision_lr=5e-4,
        purpose="video-centric fine-tuning: clips, and as many pictures",
    ),
)
"""For a model of five million parameters: a small network that has read little needs learning rates a hundred times
higher, and pictures of three cells by three need no more than a token to a cell."""

SMALL_MODEL, SMALL_LR = 50, 1e-4
"""Millions of parameters below which learning rates under the second number change next to nothing (see `TINY`)."""


def part_of(parameter: str) -> str:
    """The part of the model that a parameter belongs to, by its name: one of `Stage.learning_rates`."""
    part = parameter.partition(".")[0]
    return part if part in ("vision_encoder", "projector", "language_model") else "added"


def freeze(model: nn.Module, stage: Stage) -> None:
    """Let gradients reach the parts that the stage trains, and no others. What a change added outside the three parts
    always trains."""
    for name, parameter in model.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(part == "added" or stage.learning_rates[part] is not None)


def parameter_groups(model: nn.Module, stage: Stage) -> Iterator[dict[str, object]]:
    """AdamW's groups: one for each part that trains, with its peak learning rate."""
    for part, lr in stage.learning_rates.items():
        parameters = [x for name, x in model.named_parameters() if part_of(name) == part and x.requires_grad]
        if parameters:
            yield {"name": part, "params": parameters, "lr": lr}


def cautions(stage: Stage, model: VideoLLaMA3, processor: Processor) -> Iterator[str]:
    """What the stage will do to this model that its user may not expect, a sentence each."""
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    slow = {part: lr for part, lr in stage.learning_rates.items() if lr is not None and lr < SMALL_LR}
    if millions < SMALL_MODEL and slow:
        yield (
            f"{stage.name} trains {', '.join(f'{part} at {lr:g}' for part, lr in slow.items())}: learning rates for "
            f"billions of parameters, which change next to nothing in a model of {millions:.1f} million; vl3-tiny took "
            "8e-4 (--decoder-lr, --projector-lr, --vision-lr; or a stage of vl3ref.training.stages.TINY)"
        )
    for kind in ("image", "video"):
        before, now = getattr(processor.config, f"{kind}_merge_size"), getattr(stage, f"{kind}_merge_size")
        if before != now:
            yield f"{stage.name} trains with {kind}_merge_size {now}, and saves it; the checkpoint came with {before}"
    if not stage.prune and model.pruner is not keep_all and not isinstance(model.pruner, DiffFP):
        yield f"{stage.name} keeps every visual token: the model's own pruner does not run, and is saved as it is"
