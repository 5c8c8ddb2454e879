"""What tensors are called in the files of each layout.

Names below four prefixes are the same everywhere, so one table translates all layouts:

    ours                      official                hf
    vision_encoder.           model.vision_encoder.   model.vision_model.
    projector.                model.mm_projector.     model.projector.
    language_model.           model.                  model.language_model.
    language_model.lm_head.   lm_head.                lm_head.
"""

from vl3ref.config import Layout

VISION, PROJECTOR, LANGUAGE = "vision_encoder.", "projector.", "language_model."

TO_OURS = (
    ("model.vision_encoder.vision_encoder.", VISION),  # as the official trainer saves it
    ("model.vision_encoder.", VISION),
    ("model.vision_model.", VISION),
    ("vision_model.", VISION),  # google's SigLIP
    ("model.mm_projector.", PROJECTOR),
    ("model.projector.", PROJECTOR),
    ("model.language_model.", LANGUAGE),
    ("lm_head.", LANGUAGE + "lm_head."),
    ("model.", LANGUAGE),  # official, and plain Qwen2
)
"""Prefix in a file -> ours; the first that matches counts."""

FROM_OURS: dict[Layout, tuple[tuple[str, str], ...]] = {
    "official": (
        (VISION, "model.vision_encoder."),
        (PROJECTOR, "model.mm_projector."),
        (LANGUAGE + "lm_head.", "lm_head."),
        (LANGUAGE, "model."),
    ),
    "hf": (
        (VISION, "model.vision_model."),
        (PROJECTOR, "model.projector."),
        (LANGUAGE + "lm_head.", "lm_head."),
        (LANGUAGE, "model.language_model."),
    ),
}


def translate(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for prefix, replacement in table:
        if name.startswith(prefix):
            return replacement + name[len(prefix) :]
    return name
