"""Folders in one layout -> complete folders in the other, and transformers on the result."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
import transformers
from tokenizers import Tokenizer as Backend
from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import VideoLlama3ImageProcessorPil

import vl3ref
from tests.helpers import GOLDENS, ROOT, room_for
from vl3ref import CheckpointError, ConfigError
from vl3ref.checkpoints import check_saveable, convert, read_config, save
from vl3ref.checkpoints import hf as hf_layout

CAT = ROOT / "docs" / "media" / "cat.jpg"
CLIP = GOLDENS / "frames" / "v10_3s.mp4"
PROMPTS = json.loads((GOLDENS / "prompts.json").read_text())


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert("vl3-tiny", tmp_path_factory.mktemp("hf") / "vl3-tiny-hf", "hf")


def user(*parts: dict) -> list[dict]:
    return [{"role": "user", "content": list(parts)}]


QUESTION = {"type": "text", "text": "What is the picture about?"}


def test_there_and_back_gives_the_same_files(hf: Path, tmp_path: Path) -> None:
    back = convert(hf, tmp_path / "back", "official")
    first, second = vl3ref.load("vl3-tiny", device="cpu", dtype="bfloat16"), vl3ref.load(back, "cpu", "bfloat16")
    assert first[0].config == second[0].config and first[1].config == second[1].config
    ours, theirs = first[0].state_dict(), second[0].state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_hf_folder_marks_images_and_videos_apart(hf: Path) -> None:
    model, processor = vl3ref.load(hf, device="cpu")
    image, video = model.config.image_token_id, model.config.video_token_id
    assert (
        processor.tokenizer.special("<|image_pad|>") == image != video == processor.tokenizer.special("<|video_pad|>")
    )
    inputs = processor(user({"type": "image", "image": CAT}, {"type": "video", "video": CLIP}), max_tokens=64)
    counts = [(inputs.input_ids == token).sum().item() for token in (image, video)]
    assert counts == inputs.tokens_per_visual()


def test_both_layouts_answer_alike(hf: Path) -> None:
    conversation = user({"type": "video", "video": CLIP}, {"type": "image", "image": CAT}, QUESTION)
    answers = []
    for folder in ("vl3-tiny", hf):
        model, processor = vl3ref.load(folder, device="cpu")
        inputs = processor(conversation, max_tokens=128)
        with torch.no_grad():
            answers.append(model(inputs, logits_to_keep=1).logits)
    assert (answers[0] - answers[1]).abs().max() < 1e-5


def test_transformers_answers_as_we_do_on_the_converted_folder(hf: Path) -> None:
    """Its own weights, tokenizer, chat template and image processor, from the folder alone."""
    reference = transformers.VideoLlama3ForConditionalGeneration.from_pretrained(hf, dtype="float32").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(hf)
    images = VideoLlama3ImageProcessorPil.from_pretrained(hf)
    model, processor = vl3ref.load(hf, device="cpu")

    seen = images(vl3ref.inputs.images.load_image(CAT), return_tensors="pt")
    text = tokenizer.apply_chat_template(user({"type": "image"}, QUESTION), tokenize=False, add_generation_prompt=True)
    tokens = int(seen["image_grid_thw"].prod()) // images.merge_size**2
    ids = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * tokens), return_tensors="pt").input_ids
    inputs = processor(user({"type": "image", "image": CAT}, QUESTION))
    assert torch.equal(inputs.pixel_values, seen["pixel_values"])
    assert inputs.input_ids.tolist() == ids[0].tolist()

    with torch.no_grad():
        expected = reference(input_ids=ids, **seen).logits[0]
        assert (model(inputs).logits - expected).abs().max() < 2e-5
    generated = reference.generate(input_ids=ids, **seen, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    assert model.generate(inputs, 12, 12)[0].tolist() == generated[0, ids.shape[1] :].tolist()


def test_transformers_auto_processor_takes_the_folder(hf: Path) -> None:
    pytest.importorskip("torchvision", reason="transformers' video processor needs torchvision")
    processor = transformers.AutoProcessor.from_pretrained(hf)
    ours = vl3ref.load_processor(hf)
    assert processor.video_processor.merge_size == ours.config.video_merge_size
    assert processor.image_token_id == ours.config.image_token_id


def test_the_settings_of_the_processors_say_the_same(hf: Path) -> None:
    ours = vl3ref.load_processor("vl3-tiny").config
    nested = json.loads((hf / "processor_config.json").read_text())
    for file, key in (
        ("preprocessor_config.json", "image_processor"),
        ("video_preprocessor_config.json", "video_processor"),
    ):
        single = json.loads((hf / file).read_text())
        assert {name: single[name] for name in nested[key]} == nested[key]
    for kind, merge in (("image", ours.image_merge_size), ("video", ours.video_merge_size)):
        token = (14 * merge) ** 2  # pixels
        size = {"shortest_edge": ours.min_tokens * token, "longest_edge": ours.max_tokens * token}
        assert nested[f"{kind}_processor"]["size"] == size
    assert nested["video_processor"]["fps"] == ours.fps and nested["video_processor"]["use_token_compression"] is True


@pytest.mark.parametrize("row", [row for row in PROMPTS if '"type": "video"' not in json.dumps(row)])
def test_the_chat_template_renders_the_official_prompt(row: dict) -> None:
    template = jinja2.Environment().from_string(hf_layout.CHAT_TEMPLATE)
    flags = {name: row[name] for name in ("add_system_prompt", "add_generation_prompt")}
    rendered = template.render(messages=row["conversation"], **flags)
    assert rendered.replace("<|image_pad|>", "<image>") == row["prompt"]


def test_the_chat_template_leaves_a_videos_times_to_the_processor() -> None:
    template = jinja2.Environment().from_string(hf_layout.CHAT_TEMPLATE)
    rendered = template.render(messages=user({"type": "video"}, QUESTION), add_system_prompt=False)
    assert rendered == "<|im_start|>user\n<|video_pad|>\nWhat is the picture about?<|im_end|>\n"


def test_a_tokenizer_without_the_layouts_tokens_gets_them(hf: Path, tmp_path: Path) -> None:
    lacking = Path(shutil.copytree(hf, tmp_path / "hf"))
    content = (lacking / "tokenizer.json").read_text().replace('"<image>"', '"<nothing>"')
    (lacking / "tokenizer.json").write_text(content)
    official = convert(lacking, tmp_path / "official", "official")
    added = Backend.from_file(str(official / "tokenizer.json")).token_to_id("<image>")
    assert vl3ref.load(official, device="cpu")[0].config.visual_token_ids == (added,)


def test_saving_leaves_the_model_and_the_processor_as_they_are(hf: Path, tmp_path: Path) -> None:
    lacking = Path(shutil.copytree(hf, tmp_path / "hf"))
    content = (lacking / "tokenizer.json").read_text().replace('"<image>"', '"<nothing>"')
    (lacking / "tokenizer.json").write_text(content)
    model, processor = vl3ref.load(lacking, device="cpu")
    config, words = model.config, len(processor.tokenizer)
    again, same = vl3ref.load(save(model, processor, tmp_path / "saved"), device="cpu")
    assert (model.config, len(processor.tokenizer)) == (config, words)
    assert again.config.layout == "official" and len(same.tokenizer) == words + 1


def test_a_model_that_does_not_prune_says_so_in_both_layouts(tmp_path: Path) -> None:
    model, processor = vl3ref.load("vl3-tiny", device="cpu")
    model.config = replace(model.config, use_token_compression=False)
    for layout in ("official", "hf"):
        assert not read_config(save(model, processor, tmp_path / layout, layout)).use_token_compression


def test_a_vocabulary_without_room_for_them_is_refused(hf: Path, tmp_path: Path) -> None:
    lacking = Path(shutil.copytree(hf, tmp_path / "hf"))
    backend = Backend.from_file(str(lacking / "tokenizer.json"))
    backend.add_tokens([f"filler {n}" for n in range(1024 - backend.get_vocab_size())])
    backend.save(str(lacking / "tokenizer.json"))
    content = (lacking / "tokenizer.json").read_text().replace('"<image>"', '"<nothing>"')
    (lacking / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match="leaves none for <image>"):
        convert(lacking, tmp_path / "official", "official")
    assert not (tmp_path / "official").exists()
    model, processor = vl3ref.load(lacking, device="cpu")
    check_saveable(model, "hf", processor)
    with pytest.raises(CheckpointError, match="leaves none for <image>"):
        check_saveable(model, "official", processor)


def test_files_that_are_there_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="not empty"):
        convert("vl3-tiny", tmp_path, "hf")
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_without_a_tokenizer_is_converted_without_one(tmp_path: Path) -> None:
    target = convert(GOLDENS / "official-tiny", tmp_path / "hf", "hf")
    assert sorted(f.name for f in target.iterdir()) == ["config.json", "generation_config.json", "model.safetensors"]


TARGETS = {
    "file": "exists and is not empty",
    "full": "exists and is not empty",
    "link to a file": "exists and is not empty",
    "dangling link": "exists and is not empty",
    "file/under": "cannot be written: Not a directory",
    "/proc/x": "cannot be written",
}


@pytest.mark.parametrize("target", TARGETS)
def test_where_nothing_can_be_converted_to(target: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("precious")
    (tmp_path / "link to a file").symlink_to("file")
    (tmp_path / "dangling link").symlink_to("nowhere")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=TARGETS[target]):
        convert(GOLDENS / "official-tiny", tmp_path / target, "hf")
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("target", ["new", "deep/er", "empty", "link", "source/inside"])
def test_where_a_folder_can_be_converted_to(target: str, tmp_path: Path) -> None:
    source = Path(shutil.copytree(GOLDENS / "official-tiny", tmp_path / "source"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "link").symlink_to("linked")
    assert read_config(convert(source, tmp_path / target, "hf")).layout == "hf"
    assert read_config(source).layout == "official" and not [*tmp_path.rglob(".*")]


@pytest.mark.parametrize("room", [100, 50_000])
def test_a_full_disk_leaves_no_target(room: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="hf cannot be written: File too large; make room"), room_for(room):
        convert(GOLDENS / "official-tiny", tmp_path / "hf", "hf")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("layout", ["official", "hf"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("image_mean", [0.48, 0.46, 0.41]), ("image_std", 0.25), ("rescale_factor", 1), ("resample", 2)),
        *(("do_normalize", False), ("image_mean", "grey"), ("image_std", [0.5, 0.5])),
    ],
)
def test_pixels_prepared_in_another_way_are_refused(layout: str, key: str, value: Any, tmp_path: Path) -> None:
    model, processor = vl3ref.load("vl3-tiny", "cpu")
    folder = vl3ref.save(model, processor, tmp_path / "model", layout)
    path = folder / ("preprocessor_config.json" if layout == "official" else "processor_config.json")
    settings = json.loads(path.read_text())
    (settings if layout == "official" else settings["video_processor"])[key] = value
    path.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=f"{key} is .* pixels are prepared with"):
        vl3ref.load_processor(folder)
