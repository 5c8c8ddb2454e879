"""The whole `ask`: a video file to an answer."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vl3ref.bench.clips import write_clip
from vl3ref.bench.decoding import generate_theirs, same_ids
from vl3ref.bench.measure import in_turn, timed
from vl3ref.bench.result import Check, Row
from vl3ref.bench.settings import DRAWN, Pair, Settings
from vl3ref.errors import InputError
from vl3ref.hub import tiny_folder
from vl3ref.inputs.processor import Processor, load_processor
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity.reference import twin_inputs

QUESTION = "What happens in the video?"
SHARED = (
    "transformers' processor needs torchvision, so both sides are fed by our processor, and its time is in both; "
    "transformers begins with the pixels and the keep mask it makes"
)


def ask(pair: Pair) -> list[Row]:
    """Each of the settings' videos: open, sample, resize, encode, prune, prefill and decode."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for video in pair.settings.videos or (str(example()),):
            path = write_clip(Path(folder) / "drawn.mp4", 30, pair.settings.clip_height) if video == DRAWN else video
            rows.append(_about(pair, Path(path), "a drawn clip of 30 s" if video == DRAWN else Path(path).name))
        return rows


def example() -> Path:
    """The clip that a clone brings along.

    Raises:
        InputError: an installed package has none.
    """
    path = Path(__file__).parents[2] / "docs" / "media" / "bunny.mp4"
    if not path.exists():
        raise InputError("this installation has no clip to ask about: give one with --video, or --video drawn")
    return path


def question(path: str | Path) -> list[dict[str, Any]]:
    """A conversation about one video."""
    content = [{"type": "video", "video": str(path)}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": content}]


def any_processor(settings: Settings) -> Processor:
    """vl3-tiny's processor, for other geometries with their visual ids and the released budget of visual tokens.

    Drawn weights have no tokenizer, and with which words one asks does not change the work.
    """
    processor = load_processor(tiny_folder())
    if settings.geometry == "tiny":
        return processor
    config = settings.config
    ids = {"image_token_id": config.image_token_id, "video_token_id": config.video_token_id}
    return Processor(processor.tokenizer, replace(processor.config, **ids, max_tokens=16384))


def _about(pair: Pair, path: Path, name: str) -> Row:
    settings, model = pair.settings, pair.ours
    processor = any_processor(settings)
    ends, new = list(model.config.language.eos_token_ids), settings.new_tokens
    found: dict[str, list[int]] = {}

    def prepare() -> ModelInputs:
        return processor(question(path))

    def ours() -> None:
        found["ours"] = model.generate(prepare(), max_new_tokens=new, min_new_tokens=new)[0].tolist()

    def theirs() -> None:
        given = twin_inputs(model, prepare())
        found["theirs"] = generate_theirs(pair.theirs, given, new, ends).ids[given["input_ids"].shape[1] :]

    pair.theirs  # noqa: B018 (made before the clock runs)
    samples = in_turn(
        {
            "ours": timed(ours, pair.device),
            "theirs": timed(theirs, pair.device),
            "preparing": timed(prepare, pair.device),
        },
        settings.repeats,
        settings.budget,
    )
    inputs = prepare()
    grid = inputs.grid_sizes
    assert grid is not None
    frames, rows, columns = grid[0].tolist()
    return Row(
        "ask",
        f"{name}: {frames} frames of {rows}×{columns} patches, {len(inputs.input_ids)} tokens, {new} new ones",
        samples["ours"],
        samples["theirs"],
        checks=[_same_answer(pair, inputs, found)],
        notes=[SHARED, f"{samples['preparing'].median:.3f} s of both are our processor's"],
        numbers={"preparing": samples["preparing"].values, "answer": found["ours"]},
    )


@torch.no_grad()
def _same_answer(pair: Pair, inputs: ModelInputs, found: dict[str, Any]) -> Check:
    """As `same_ids`, with the visual tokens' embeddings in the prompt."""
    if found["ours"] == found["theirs"]:
        return Check(f"all {len(found['ours'])} ids equal", True)
    spliced = pair.ours.splice(inputs)
    return same_ids(pair.ours.language_model, spliced.embeddings, found["ours"], found["theirs"])
