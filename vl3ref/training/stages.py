"""The four stages of the paper (section 3.2): what each trains, how fast, and how finely it sees.

1 vision encoder adaptation    2 vision-language alignment    3 multi-task fine-tuning    4 video-centric fine-tuning
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn


@dataclass(frozen=True)
class Stage:
    """What is trained, and how.

    Attributes:
        decoder_rate, projector_rate, vision_rate: peak learning rates; None freezes the part.
        image_merge, video_merge: patches along the side of one visual token.
        diff_fp: whether DiffFP drops what a video repeats.
        purpose: what the stage is for.
    """

    name: str
    decoder_rate: float | None
    projector_rate: float | None
    vision_rate: float | None
    image_merge: int
    video_merge: int
    diff_fp: bool
    purpose: str

    @property
    def rates(self) -> Mapping[str, float | None]:
        """Peak learning rate by part of the model."""
        return {
            "vision_encoder": self.vision_rate,
            "projector": self.projector_rate,
            "language_model": self.decoder_rate,
        }


OFFICIAL_2B = (
    Stage("stage-1", None, 1e-3, 1e-5, 1, 2, False, "vision encoder adaptation: any resolution, for this decoder"),
    Stage("stage-2", 1e-5, 1e-5, 2e-6, 1, 2, False, "vision-language alignment: detailed pictures, charts, documents"),
    Stage("stage-3", 1e-5, 1e-5, 2e-6, 1, 2, True, "multi-task fine-tuning: questions about pictures and videos"),
    Stage("stage-4", 1e-5, 1e-5, 2e-6, 2, 2, True, "video-centric fine-tuning: mostly videos, streaming, times"),
)
"""The official scripts' values. Stage 1 starts from SigLIP (siglip-so400m-patch14-384) and Qwen2.5-1.5B-Instruct."""

OFFICIAL_7B = OFFICIAL_2B
"""From the paper (section 4.1), for there are no scripts: the 2B's rates. Stage 1 starts from Qwen2.5-7B and from the
vision encoder of the finished 2B."""

BATCH, WARM_UP, CLIP, BETAS, EPSILON = 128, 0.03, 1.0, (0.9, 0.999), 1e-8
"""Official: conversations per step, warm-up's share of the steps, largest norm of the gradient, AdamW's own numbers
(its weight decay is 0)."""

MAX_VISUAL_TOKENS, MAX_TOKENS = 10240, 16384
"""Official: what the visuals of a conversation shrink to, and where a conversation is cut."""

TINY = (
    replace(OFFICIAL_2B[0], projector_rate=1e-3, vision_rate=1e-3, image_merge=2),
    replace(OFFICIAL_2B[1], decoder_rate=8e-4, projector_rate=8e-4, vision_rate=8e-4, image_merge=2),
    replace(OFFICIAL_2B[2], decoder_rate=8e-4, projector_rate=8e-4, vision_rate=8e-4, image_merge=2),
    replace(
        OFFICIAL_2B[3],
        decoder_rate=5e-4,
        projector_rate=5e-4,
        vision_rate=5e-4,
        purpose="video-centric fine-tuning: clips, and as many pictures",
    ),
)
"""For a model of five million parameters: a small network that has read little learns at rates a hundred times higher,
and pictures of three cells by three need no more than a token to a cell."""


def freeze(model: nn.Module, stage: Stage) -> None:
    """Let gradients reach the parts that the stage trains, and no others."""
    for part, rate in stage.rates.items():
        model.get_submodule(part).requires_grad_(rate is not None)


def parameter_groups(model: nn.Module, stage: Stage) -> Iterator[dict[str, object]]:
    """AdamW's groups: one per trained part, with its peak learning rate."""
    for part, rate in stage.rates.items():
        if rate is not None:
            yield {"name": part, "params": list(model.get_submodule(part).parameters()), "lr": rate}
