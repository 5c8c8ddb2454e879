"""How a checkpoint wants its inputs: the sampling of videos, sizes, and the ids of visual tokens."""

from dataclasses import dataclass, fields, replace
from typing import Any

from vl3ref.errors import InputError, quoted
from vl3ref.inputs.videos import checked_cut

RANGES = {"token_id": (0, 2**31), "merge_size": (1, 16), "patch_size": (1, 1024), "tokens": (1, 10**9)}
"""The least and the most of an option, by the end of its name; far more than any model has."""


@dataclass(frozen=True)
class ProcessorConfig:
    """The defaults are what the released checkpoints' files say.

    Attributes:
        image_token_id, video_token_id: the model's own ids for visual tokens.
        fps, max_frames: frames taken of a second of video (None: all), and of a video at most (None: no limit).
        image_merge_size, video_merge_size: patches along the side of one visual token.
        min_tokens, max_tokens: visual tokens of an image at least, and of a conversation at most.
        patch_size: in pixels.

    Raises:
        InputError: a value is out of range; says which.
    """

    image_token_id: int
    video_token_id: int
    fps: int | float | None = 1
    max_frames: int | None = 180
    image_merge_size: int = 1
    video_merge_size: int = 2
    min_tokens: int = 16
    max_tokens: int = 16384
    patch_size: int = 14

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            _check_option(name, value)
        if self.min_tokens > self.max_tokens:
            raise InputError(f"min_tokens ({self.min_tokens}) should not be above max_tokens ({self.max_tokens})")

    def override(self, **options: Any) -> "ProcessorConfig":
        """A copy with some fields changed, to values from a user or a file.

        Raises:
            InputError: an option is not known or out of range; says which.
        """
        known = [field.name for field in fields(self)]
        for name, value in options.items():
            if name not in known:
                raise InputError(f"the processor has no option {quoted(name)}; there are {', '.join(known)}")
            _check_option(name, value)
        return replace(self, **options)

    def token_id_for(self, modal: str) -> int:
        return self.video_token_id if modal == "video" else self.image_token_id


def _check_option(name: str, value: Any) -> None:
    if name in ("fps", "max_frames"):
        checked_cut(**{name: value})
        return
    least, most = next(limits for end, limits in RANGES.items() if name.endswith(end))
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{name} should be a whole number from {least} to {most:,}, not {quoted(value)}")
