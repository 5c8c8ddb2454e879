"""Every block of docs/parts.md runs, on small random checkpoints under the names it uses, and says what it should."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import vl3ref
from tests.helpers import ROOT
from tests.media import noise
from tests.parity.pairs import close, rounding_of
from vl3ref.checkpoints import convert, save_model
from vl3ref.hub import tiny_folder
from vl3ref.inputs.images import load_image
from vl3ref.inputs.patches import patchify

PAGE = (ROOT / "docs" / "parts.md").read_text(encoding="utf-8")
SECTIONS = {
    heading: re.findall(r"^```python\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
    for heading, body in (section.split("\n", 1) for section in PAGE.split("\n## ")[1:])
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the names on the page are folders and files."""
    place = tmp_path_factory.mktemp("parts")
    shutil.copy(ROOT / "docs" / "media" / "cat.jpg", place)
    shutil.copy(ROOT / "docs" / "media" / "bunny.mp4", place / "clip.mp4")
    Image.fromarray(noise(70, 133, 3)).save(place / "chart.png")
    model = vl3ref.load_model("vl3-tiny", device="cpu")
    save_model(model.vision_encoder, place / "DAMO-NLP-SG" / "VL3-SigLIP-NaViT")
    qwen = save_model(model.language_model, place / "Qwen" / "Qwen2.5-1.5B-Instruct")
    shutil.copy(tiny_folder() / "tokenizer.json", qwen)
    convert("vl3-tiny", place / "VideoLLaMA3-2B-HF", "hf")
    return place


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the blocks of a section one after another, as a reader would, and gives the names they leave."""
    monkeypatch.chdir(place)

    def run(section: str, blocks: int | None = None) -> dict[str, Any]:
        names: dict[str, Any] = {}
        (found,) = (code for heading, code in SECTIONS.items() if heading.startswith(section))
        for number, code in enumerate(found[:blocks]):
            exec(compile(code, f"docs/parts.md, {section}, block {number + 1}", "exec"), names)
        return names

    return run


def test_every_block_of_the_page_is_run() -> None:
    assert [(heading.split(":")[0], len(blocks)) for heading, blocks in SECTIONS.items()] == [
        ("The encoder", 1),
        ("DiffFP", 2),
        ("The decoder", 1),
        ("The processor alone", 2),
    ]
    assert PAGE.count("```python") == 6


@torch.no_grad()
def features(encoder, *given: torch.Tensor) -> torch.Tensor:
    return encoder(*given).last_hidden_state


def test_the_encoder_gives_transformers_features_of_each_image(run, place: Path) -> None:
    names = run("The encoder")
    whole = transformers.VideoLlama3ForConditionalGeneration.from_pretrained(
        place / "VideoLLaMA3-2B-HF", dtype="float32"
    )
    reference = whole.model.vision_model.eval()
    for part, image, size in zip((names["cat"], names["chart"]), names["images"], names["sizes"], strict=True):
        given = patchify([image], 1, size, 1), torch.tensor([[1, size[0] // 14, size[1] // 14]]), torch.tensor([1])
        close(part, features(reference, *given), rounding_of(reference, features, *given))
    assert len({tuple(size) for size in names["sizes"]}) == 2
    _, rows, columns = names["grids"][0].tolist()
    assert names["cat_map"].shape == (192, rows, columns)
    assert torch.equal(names["cat_map"][:, 2, 3], names["cat"][2 * columns + 3])
    assert names["chart_vector"].shape == (192,)


def test_diff_fp_keeps_the_first_frame_and_what_moved(run) -> None:
    names = run("DiffFP", blocks=1)
    keep, change = names["keep"], names["change"]
    assert len(keep) == len(names["frames"]) > 4
    assert keep[0].all() and keep.flatten(1).any(dim=1).all()
    moved = change > 0.1
    moved[:, 0] |= ~moved.any(dim=1)
    assert torch.equal(keep[1:].flatten(1), moved)
    still = np.repeat(names["frames"][:1], 3, axis=0)
    inputs = names["processor"]([{"role": "user", "content": [{"type": "video", "video": still}]}], max_tokens=96)
    kept = names["DiffFP"]()(inputs).reshape(3, -1).sum(dim=1).tolist()
    assert kept == [inputs.tokens_per_visual()[0] // 3, 1, 1]


def test_the_change_of_any_tensor_can_be_measured(run) -> None:
    moved = run("DiffFP")["moved"]
    assert moved.shape == (4, 6)
    assert not moved[:, 2].any() and moved[:, [0, 1, 3, 4, 5]].all()


@torch.no_grad()
def logits(model, ids: torch.Tensor) -> torch.Tensor:
    return model(ids[None]).logits[0]


@torch.no_grad()
def loss(model, ids: torch.Tensor) -> torch.Tensor:
    return model(ids[None], labels=ids[None]).loss


def test_the_decoder_is_transformers_qwen2(run, place: Path) -> None:
    names = run("The decoder")
    ids = names["ids"]
    qwen = transformers.Qwen2ForCausalLM.from_pretrained(
        place / "Qwen" / "Qwen2.5-1.5B-Instruct", dtype="float32"
    ).eval()
    for ours, text in zip(names["logits"].split([len(ids), 3]), (ids, ids[:3]), strict=True):
        close(ours, logits(qwen, text), rounding_of(qwen, logits, text))
    close(names["loss"], loss(qwen, ids), rounding_of(qwen, loss, ids))
    continued = qwen.generate(ids[None], max_new_tokens=8, do_sample=False)[0, len(ids) :]
    assert names["new_ids"].tolist() == continued.tolist()
    assert names["text"] == names["tokenizer"].decode(continued.tolist())


def test_the_processor_feeds_transformers_model_a_video(run, place: Path) -> None:
    names = run("The processor alone", blocks=1)
    ours, processor = vl3ref.load(place / "VideoLLaMA3-2B-HF", device="cpu")
    assert len(names["mask"]) > int(names["mask"].sum()) > 0
    (answer,) = ours.generate(names["inputs"], max_new_tokens=8)
    assert names["output"][0, names["prompt"].shape[1] :].tolist() == answer.tolist()
    assert names["answer"] == processor.decode(answer)


def test_the_processor_feeds_transformers_model_an_image(run, place: Path) -> None:
    names = run("The processor alone")
    ours = vl3ref.load_model(place / "VideoLLaMA3-2B-HF", device="cpu")
    inputs = names["inputs"]
    assert inputs.modals == ["image"] and inputs.sources[0].height == load_image(place / "cat.jpg").shape[0]
    (answer,) = ours.generate(inputs, max_new_tokens=8)
    assert names["output"][0, len(inputs.input_ids) :].tolist() == answer.tolist()
