"""Conversations with pictures and videos become packed tensors, each conversation as it would be alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import vl3ref
from tests.helpers import GOLDENS
from tests.media import IMAGE_ID, noise, qwen_processor, qwen_tokenizer
from vl3ref.checkpoints import load_processor
from vl3ref.checkpoints.layouts import read_config
from vl3ref.errors import CheckpointError, ConfigError, InputError
from vl3ref.inputs.processor import Processor
from vl3ref.inputs.processor_config import ProcessorConfig
from vl3ref.model_inputs import ModelInputs
from vl3ref.trace import trace

CLIP = GOLDENS / "frames" / "v10_3s.mp4"
MODEL = read_config(GOLDENS / "configs" / "VideoLLaMA3-2B")


def user(*content: Any) -> list[dict]:
    return [{"role": "user", "content": list(content)}]


def image(height: int = 60, width: int = 90, **rest: Any) -> dict:
    return {"type": "image", "image": noise(height, width, 3, seed=height * width), **rest}


def video(frames: int = 3, height: int = 60, width: int = 90, **rest: Any) -> dict:
    return {"type": "video", "video": noise(frames, height, width, 3, seed=height + width), **rest}


def parts_of(packed: ModelInputs) -> list[tuple]:
    """Ids, pixels, grids, merges, modals and sources of each conversation."""
    conversations = packed.input_ids.split(packed.lengths.tolist())
    owners = [source.conversation for source in packed.sources or []]
    patches = [] if packed.grid_sizes is None else packed.grid_sizes.prod(dim=1).tolist()
    pixels = [] if packed.pixel_values is None else packed.pixel_values.split(patches)
    out = []
    for index, ids in enumerate(conversations):
        mine = [i for i, owner in enumerate(owners) if owner == index]
        out.append(
            (
                ids.tolist(),
                [pixels[i].numpy().tobytes() for i in mine],
                [packed.grid_sizes[i].tolist() for i in mine],
                [packed.merge_sizes[i].item() for i in mine],
                [packed.modals[i] for i in mine],
                [(packed.sources[i].height, packed.sources[i].width, packed.sources[i].timestamps) for i in mine],
            )
        )
    return out


# ------------------------------------------------------------------------------------------------------------- packing


def test_a_mix_of_images_and_videos_keeps_its_order_and_counts() -> None:
    inputs = qwen_processor()(user("a", image(), "b", video(), image(100, 30), "c"))
    assert inputs.modals == ["image", "video", "image"]
    assert inputs.merge_sizes.tolist() == [1, 2, 1]
    assert inputs.grid_sizes.tolist() == [[1, 4, 6], [3, 4, 6], [1, 7, 2]]
    assert inputs.tokens_per_visual() == [24, 18, 14]
    assert int((inputs.input_ids == IMAGE_ID).sum()) == 56
    assert inputs.pixel_values.shape == (24 + 72 + 14, 588)
    assert inputs.pixel_values.dtype == torch.float32
    assert inputs.input_ids.dtype == inputs.lengths.dtype == inputs.grid_sizes.dtype == torch.int64
    text = qwen_tokenizer().decode(inputs.input_ids.tolist(), skip_special_tokens=True)
    assert "user\na\nbTime 0.0s:,Time 1.0s:,Time 2.0s:\n\nc\n" in text
    inputs.check(MODEL)


def test_text_alone_has_no_visuals() -> None:
    inputs = qwen_processor()(user("Hi"))
    assert inputs.pixel_values is inputs.grid_sizes is inputs.merge_sizes is None
    assert inputs.modals == inputs.sources == []
    inputs.check(MODEL)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
sides = st.integers(1, 120)
media = st.one_of(
    texts,
    st.builds(image, sides, sides),
    st.builds(video, st.integers(1, 4), sides, sides, fps=st.sampled_from([0.5, 1, 3]), max_frames=st.integers(1, 4)),
)
turns = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.lists(media, max_size=3)})


@given(
    st.lists(st.lists(turns, min_size=1, max_size=3), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
    st.sampled_from([16384, 40]),
    st.sampled_from([1, 2]),
)
@settings(max_examples=30)
def test_several_conversations_packed_equal_each_alone(
    conversations: list, system: bool, generation: bool, max_tokens: int, merge: int
) -> None:
    processor = qwen_processor(max_tokens=max_tokens, image_merge_size=merge)
    packed = processor(conversations, system, generation)
    alone = [processor(conversation, system, generation) for conversation in conversations]
    assert parts_of(packed) == [parts_of(one)[0] for one in alone]
    packed.check(MODEL)


def test_the_token_budget_is_one_conversations_not_the_calls() -> None:
    processor = qwen_processor(max_tokens=40, min_tokens=1)
    big = user(image(280, 280))
    assert processor(big).tokens_per_visual() == [36]
    assert processor([big, big, big]).tokens_per_visual() == [36, 36, 36]
    assert processor(user(image(280, 280), image(280, 280))).tokens_per_visual() == [16, 16]


def test_a_call_may_give_one_conversation_as_a_list_or_a_tuple_and_several_too() -> None:
    one = qwen_processor()(user("Hi"))
    for given_as in (tuple(user("Hi")), [user("Hi")], (tuple(user("Hi")),)):
        assert torch.equal(qwen_processor()(given_as).input_ids, one.input_ids)


# ------------------------------------------------------------------------------------------------------------- options


def test_options_of_a_call_override_those_of_the_checkpoint_for_that_call() -> None:
    processor = qwen_processor()
    conversation = user(video(10), image())
    plain = processor(conversation)
    assert plain.grid_sizes[:, 0].tolist() == [10, 1]
    assert processor(conversation, max_frames=4).grid_sizes[:, 0].tolist() == [4, 1]
    assert processor(conversation, fps=2).sources[0].timestamps == [i / 2 for i in range(10)]
    assert processor(conversation, image_merge_size=2).merge_sizes.tolist() == [2, 2]
    assert processor(conversation, video_merge_size=1).merge_sizes.tolist() == [1, 1]
    assert sum(processor(conversation, max_tokens=30).tokens_per_visual()) <= 30 < sum(plain.tokens_per_visual())
    assert processor(conversation, image_merge_size=2, min_tokens=100).tokens_per_visual()[1] >= 100
    again = processor(conversation)
    assert torch.equal(again.pixel_values, plain.pixel_values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_token": 5}, "no option 'max_token'; there are .*max_tokens"),
        ({"max_tokens": 0}, "max_tokens should be a whole number from 1"),
        ({"max_tokens": 1.5}, "max_tokens should be a whole number"),
        ({"max_tokens": "many"}, "max_tokens should be a whole number"),
        ({"max_tokens": True}, "max_tokens should be a whole number"),
        ({"max_tokens": None}, "max_tokens should be a whole number"),
        ({"image_merge_size": 0}, "image_merge_size should be"),
        ({"video_merge_size": -2}, "video_merge_size should be"),
        ({"fps": 0}, "fps should be a number above 0"),
        ({"fps": float("nan")}, "fps should be a number above 0"),
        ({"fps": "1"}, "fps should be a number above 0"),
        ({"max_frames": 0}, "max_frames should be a whole number"),
        ({"diff_fp": False}, "no option 'diff_fp'"),
        ({"min_tokens": 20000}, r"min_tokens \(20000\) should not be above max_tokens \(16384\)"),
    ],
)
def test_options_that_are_unknown_or_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        qwen_processor()(user("Hi"), **options)


def test_a_videos_own_options_come_before_the_calls() -> None:
    def timestamps(**options: Any) -> list[float]:
        part = {"type": "video", "video": str(CLIP), **options}
        return qwen_processor()(user(part), fps=5, max_frames=2).sources[0].timestamps

    assert timestamps() == pytest.approx([0, 2.8])
    assert timestamps(fps=1, max_frames=None) == pytest.approx([0, 1, 2])
    assert timestamps(fps=1, max_frames=9, start_time=1.0) == pytest.approx([1, 2])
    assert len(timestamps(fps=None, max_frames=None)) == 30


def test_the_official_nested_form_is_understood() -> None:
    nested = {"type": "video", "video": {"video_path": str(CLIP), "fps": 2, "max_frames": 4, "start_time": 1.0}}
    flat = {"type": "video", "video": str(CLIP), "fps": 2, "max_frames": 4, "start_time": 1.0}
    ours, theirs = qwen_processor()(user(flat)), qwen_processor()(user(nested))
    assert ours.sources == theirs.sources
    assert torch.equal(ours.pixel_values, theirs.pixel_values)
    picture = GOLDENS / "processing" / "a_91x37.png"
    inputs = qwen_processor()(user({"type": "image", "image": {"image_path": str(picture)}}))
    assert inputs.sources[0].name == str(picture)


@pytest.mark.parametrize("options", [{"fps": -1}, {"max_frames": 0}, {"start_time": "x"}, {"end_time": float("nan")}])
def test_a_videos_own_options_are_checked(options: dict) -> None:
    for part in ({"video": str(CLIP), **options}, {"video": {"video_path": str(CLIP), **options}}):
        with pytest.raises(InputError, match=next(iter(options))):
            qwen_processor()(user({"type": "video", **part}))


def test_frames_given_with_their_times_keep_them() -> None:
    clip = video(4, timestamps=[0.5, 2, 3.25, 10])
    assert qwen_processor()(user(clip)).sources[0].timestamps == [0.5, 2, 3.25, 10]
    assert "Time 3.2s:<image>,Time 10.0s:<image>" in qwen_processor().prompt(user(clip))
    assert qwen_processor()(user({**clip, "max_frames": 2})).sources[0].timestamps == [0.5, 10]
    assert qwen_processor()(user({**clip, "start_time": 1, "end_time": 4})).sources[0].timestamps == [2, 3.25]
    as_tensor = {**clip, "timestamps": torch.tensor([0.5, 2, 3.25, 10])}
    assert qwen_processor()(user(as_tensor)).sources[0].timestamps == [0.5, 2, 3.25, 10]


def test_times_have_to_fit_the_frames() -> None:
    with pytest.raises(InputError, match="there are 2 timestamps for 3 frames"):
        qwen_processor()(user(video(3, timestamps=[0, 1])))
    with pytest.raises(InputError, match=r"timestamps go with an array or a list of frames; those of .*v10_3s\.mp4"):
        qwen_processor()(user({"type": "video", "video": str(CLIP), "timestamps": [0, 1]}))


# --------------------------------------------------------------------------------------------------------------- trace


def test_every_visual_token_is_traced_to_its_source_frame_time_and_box() -> None:
    inputs = qwen_processor()(
        [
            user(video(3, 61, 93, fps=2), image(50, 40)),
            user(
                image(33, 77, timestamp=3.5), {"type": "image", "image": str(GOLDENS / "processing" / "c_320x240.png")}
            ),
        ]
    )
    seen = trace(inputs)
    assert len(seen) == sum(inputs.tokens_per_visual())
    assert [source.conversation for source in inputs.sources] == [0, 0, 1, 1]
    assert [source.name for source in inputs.sources][:3] == ["video 1", "image 2", "image 1"]
    assert inputs.sources[3].name.endswith("c_320x240.png")
    assert [(s.height, s.width) for s in inputs.sources] == [(61, 93), (50, 40), (33, 77), (240, 320)]
    assert torch.bincount(seen.visual).tolist() == inputs.tokens_per_visual()
    first = seen.visual == 0
    assert seen.frame[first].tolist() == sorted(seen.frame[first].tolist())
    assert seen.time[first].tolist() == [frame / 2 for frame in seen.frame[first].tolist()]
    assert seen.time[seen.visual == 1].isnan().all()
    assert (seen.time[seen.visual == 2] == 3.5).all()


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 3), st.booleans())
@settings(max_examples=40)
def test_the_boxes_of_a_frame_tile_the_original_exactly(height: int, width: int, frames: int, still: bool) -> None:
    part = image(height, width) if still else video(frames, height, width)
    inputs = qwen_processor()(user(part))
    seen, (t, rows, columns) = trace(inputs), inputs.grid_sizes[0].tolist()
    merge = int(inputs.merge_sizes)
    boxes = seen.box.reshape(t, rows // merge, columns // merge, 4)
    left, top, right, bottom = boxes.unbind(dim=-1)
    assert (left[:, :, 0] == 0).all()
    assert (right[:, :, -1] == width).all()
    assert (top[:, 0] == 0).all()
    assert (bottom[:, -1] == height).all()
    assert torch.equal(left[:, :, 1:], right[:, :, :-1])
    assert torch.equal(top[:, 1:], bottom[:, :-1])
    assert (right > left).all()
    assert (bottom > top).all()


def test_a_token_shows_what_is_in_its_box() -> None:
    picture = np.zeros((140, 280, 3), np.uint8)
    picture[42:56, 70:84] = 255
    inputs = qwen_processor()(user({"type": "image", "image": picture}))
    bright = (inputs.pixel_values > 0.9).all(dim=1)
    assert trace(inputs).box[bright].tolist() == [[70, 42, 84, 56]]


def test_a_keep_mask_leaves_the_kept_tokens_rows() -> None:
    inputs = qwen_processor()(user(video(3), image()))
    whole = trace(inputs)
    keep = torch.rand(len(whole), generator=torch.Generator().manual_seed(0)) > 0.5
    kept = trace(inputs, keep)
    assert len(kept) == int(keep.sum())
    for name in ("visual", "frame", "box"):
        assert torch.equal(getattr(kept, name), getattr(whole, name)[keep])


# ----------------------------------------------------------------------------------------------------------- decoding


def test_decode_takes_a_tensor_or_a_list_and_skips_special_tokens() -> None:
    ids = qwen_processor()(user("Hi"), False, False).input_ids
    assert qwen_processor().decode(ids) == qwen_processor().decode(ids.tolist()) == "user\nHi\n"
    assert qwen_processor().decode(ids, skip_special_tokens=False) == "<|im_start|>user\nHi<|im_end|>\n"


@pytest.mark.parametrize("ids", [5, None, [[1, 2]], [torch.tensor([1, 2])], [-100], ["a"], torch.zeros(2, 2)])
def test_decode_refuses_what_is_not_one_row_of_ids(ids: Any) -> None:
    with pytest.raises(InputError, match="decode takes the ids of one conversation"):
        qwen_processor().decode(ids)


def test_the_streams_of_several_conversations_do_not_mix() -> None:
    texts = ["Der Bär 🐻 tanzt.", "한국어 문장", "𓀀𓀁"]
    ids = [qwen_tokenizer().encode(text)[0] for text in texts]
    longest = max(map(len, ids))
    tokens = [(c, row[i]) for i in range(longest) for c, row in enumerate(ids) if i < len(row)]
    pieces = list(qwen_processor().decode_stream(tokens))
    assert ["".join(piece for c, piece in pieces if c == index) for index in range(3)] == texts
    assert all(piece and "\ufffd" not in piece for _, piece in pieces)


# ------------------------------------------------------------------------------------------------------------- folders


def put(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def with_tokenizer(folder: Path) -> Path:
    """A small one: what is read from the other files does not depend on it."""
    (folder / "tokenizer.json").symlink_to(vl3ref.find_checkpoint("vl3-tiny") / "tokenizer.json")
    return folder


def with_qwen_tokenizer(folder: Path) -> Path:
    for name in ("merges.txt", "added_tokens.json"):
        if not (folder / name).exists():
            (folder / name).symlink_to(GOLDENS / "tokenizer" / name)
    return folder


@pytest.mark.parametrize("size", ["2B", "7B"])
def test_an_official_folder_is_read(size: str, tmp_path: Path) -> None:
    for path in (GOLDENS / "configs" / f"VideoLLaMA3-{size}").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    published = json.loads((tmp_path / "processor_config.json").read_text())
    processor = load_processor(with_qwen_tokenizer(tmp_path) if size == "2B" else with_tokenizer(tmp_path))
    assert processor.config == ProcessorConfig(
        IMAGE_ID, IMAGE_ID, fps=published["fps"], max_frames=published["max_frames"], max_tokens=16384, min_tokens=16
    )
    if size == "2B":
        case = json.loads((GOLDENS / "prompts.json").read_text())[0]
        ids = processor(case["conversation"], case["add_system_prompt"], case["add_generation_prompt"]).input_ids
        assert ids.tolist() == case["input_ids"]


def test_a_folder_without_processor_files_has_the_published_defaults(tmp_path: Path) -> None:
    config = json.loads((GOLDENS / "configs" / "VideoLLaMA3-2B" / "config.json").read_text())
    processor = load_processor(with_tokenizer(put(tmp_path, config=config)))
    assert processor.config == ProcessorConfig(IMAGE_ID, IMAGE_ID)


HF_IMAGE = {
    "image_processor_type": "VideoLlama3ImageProcessor",
    "patch_size": 14,
    "merge_size": 2,
    "size": {"shortest_edge": 20 * 28**2, "longest_edge": 500 * 28**2},
}
HF_VIDEO = {
    "video_processor_type": "VideoLlama3VideoProcessor",
    "merge_size": 4,
    "fps": 2,
    "max_frames": 64,
    "use_token_compression": False,
}
HF_EXPECTED = {
    "fps": 2,
    "max_frames": 64,
    "image_merge_size": 2,
    "video_merge_size": 4,
    "min_tokens": 20,
    "max_tokens": 500,
}


def hf_config(image_id: int, video_id: int) -> dict:
    config = json.loads((GOLDENS / "hf-tiny" / "config.json").read_text())
    config["text_config"]["vocab_size"] = 151936
    return config | {"image_token_id": image_id, "video_token_id": video_id}


@pytest.mark.parametrize("version", [4, 5, "4 with pixel limits"])
def test_an_hf_folder_of_either_transformers_is_read(version: int | str, tmp_path: Path) -> None:
    if version == 5:
        put(tmp_path, processor_config={"image_processor": HF_IMAGE, "video_processor": HF_VIDEO})
    else:
        image_file = dict(HF_IMAGE)
        if version != 4:
            limits = image_file.pop("size")
            image_file |= {"min_pixels": limits["shortest_edge"], "max_pixels": limits["longest_edge"]}
        put(tmp_path, preprocessor_config=image_file, video_preprocessor_config=HF_VIDEO)
    processor = load_processor(with_tokenizer(put(tmp_path, config=hf_config(151655, 151656))))
    assert processor.config == ProcessorConfig(151655, 151656, **HF_EXPECTED)


def test_a_model_with_two_visual_ids_gets_its_own(tmp_path: Path) -> None:
    folder = with_qwen_tokenizer(put(tmp_path, config=hf_config(151655, 151656)))
    inputs = load_processor(folder)(user(image(), video(), image()))
    placed = inputs.input_ids[(inputs.input_ids == 151655) | (inputs.input_ids == 151656)].tolist()
    assert placed == [151655] * 24 + [151656] * 18 + [151655] * 24
    assert IMAGE_ID not in inputs.input_ids
    official = qwen_processor()(user(image(), video(), image())).input_ids
    other = torch.where((inputs.input_ids == 151655) | (inputs.input_ids == 151656), IMAGE_ID, inputs.input_ids)
    assert torch.equal(other, official)
    inputs.check(read_config(folder))


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        load_processor(put(tmp_path, config=hf_config(151655, 151656)))


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_processor(tmp_path)


@pytest.mark.parametrize("settings_", [{"fps": "fast"}, {"max_frames": 0}, {"image_merge_size": 1.5}])
def test_processor_files_that_say_what_cannot_be_are_an_error_that_names_the_folder(
    settings_: dict, tmp_path: Path
) -> None:
    config = json.loads((GOLDENS / "configs" / "VideoLLaMA3-2B" / "config.json").read_text())
    put(tmp_path, config=config, processor_config=settings_)
    with pytest.raises(ConfigError, match=f"{tmp_path}.*{next(iter(settings_))}"):
        load_processor(with_tokenizer(tmp_path))


def test_files_of_the_command_lines_user_work_as_paths_too(tmp_path: Path) -> None:
    Image.fromarray(noise(60, 90, 3)).save(tmp_path / "x.png")
    as_path = qwen_processor()(user({"type": "image", "image": tmp_path / "x.png"}))
    as_text = qwen_processor()(user({"type": "image", "image": str(tmp_path / "x.png")}))
    assert torch.equal(as_path.pixel_values, as_text.pixel_values)
    assert as_path.sources == as_text.sources


def test_a_prompt_can_be_read_without_decoding_a_video() -> None:
    text = qwen_processor().prompt(user({"type": "video", "video": str(CLIP)}, "What?"), add_system_prompt=False)
    assert text == (
        "<|im_start|>user\nTime 0.0s:<image>,Time 1.0s:<image>,Time 2.0s:<image>\nWhat?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_processors_are_made_of_their_parts() -> None:
    config = ProcessorConfig(IMAGE_ID, IMAGE_ID, max_frames=2)
    assert Processor(qwen_tokenizer(), config)(user(video(5))).grid_sizes[0, 0] == 2
