"""Annotation files become conversations, of which the assistant's words are trained on."""

import gc
import json
import math
import os
import pickle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vl3ref
from tests.helpers import ROOT
from tests.media import noise, write_video
from vl3ref.errors import InputError
from vl3ref.inputs.videos import load_video
from vl3ref.model_inputs import IGNORE_INDEX
from vl3ref.training.annotations import Annotations
from vl3ref.training.samples import AnnotationError, to_conversation

BUNNY = ROOT / "docs" / "media" / "bunny.mp4"
ANSWER = {"from": "gpt", "value": "A cat."}


def human(text: str) -> dict:
    return {"from": "human", "value": text}


def sample(*turns: str | dict, **media: Any) -> dict:
    """Plain text is the user's; the answer follows unless a turn is the assistant's."""
    turns_ = [human(turn) if isinstance(turn, str) else turn for turn in turns]
    answered = any(turn["from"] == "gpt" for turn in turns_)
    return {**media, "conversations": turns_ if answered else [*turns_, ANSWER]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(("a.png", "b.png", "c.jpg")):
        Image.fromarray(noise(40 + 20 * index, 60, 3, seed=index)).save(tmp_path / name)
    times = np.arange(8) / 2
    write_video(tmp_path / "v.mp4", [np.full((56, 56, 3), 30 * i, np.uint8) for i in range(8)], times)
    return tmp_path


def write(path: Path, samples: list, gap: str = "\n") -> Path:
    lines = path.suffix == ".jsonl"
    path.write_text(gap.join(json.dumps(x) for x in samples) if lines else json.dumps(samples))
    return path


# --------------------------------------------------------------------------------------------------------------- tags


def users(conversation: list[dict]) -> list:
    """The users' contents: an image or video by its file's name or its data, text as it is."""
    shown = []
    for message in conversation:
        if message["role"] == "user":
            parts = [part.get(part["type"]) for part in message["content"]]
            shown.append([Path(x).name if isinstance(x, str) and "/" in x else x for x in parts])
    return shown


@pytest.mark.parametrize(
    ("turns", "shown"),
    [
        (["<image>\nWhat?"], [["a.png", "What?"]]),
        (["What? <image>"], [["What?", "a.png"]]),
        (["Is <image>\n\n a cat? "], [["Is", "a.png", "a cat?"]]),
        (["What?"], [["a.png", "What?"]]),
        (["Hi.", "What is <image>?"], [["Hi."], ["What is", "a.png", "?"]]),
        (["<image>"], [["a.png"]]),
        ([""], [["a.png"]]),
    ],
)
@pytest.mark.parametrize("as_list", [True, False])
def test_an_image_stands_where_its_tag_is_or_in_front(
    turns: list[str], shown: list, as_list: bool, folder: Path
) -> None:
    one = sample(*turns, image=["a.png"] if as_list else "a.png")
    assert users(to_conversation(one, folder)) == shown


def test_each_tag_takes_the_next_of_its_own_list(folder: Path) -> None:
    both = sample("<video> and <image>", ANSWER, "<image>?", ANSWER, image=["a.png", "b.png"], video="v.mp4")
    assert users(to_conversation(both, folder)) == [["v.mp4", "and", "a.png"], ["b.png", "?"]]
    kinds = [part["type"] for part in to_conversation(both, folder)[0]["content"]]
    assert kinds == ["video", "text", "image"]


def test_what_no_tag_stands_for_goes_in_front_of_the_users_first_turn(folder: Path) -> None:
    three = sample("One.", ANSWER, "Two <image>.", image=["a.png", "b.png", "c.jpg"], video=["v.mp4"])
    assert users(to_conversation(three, folder)) == [["a.png", "b.png", "v.mp4", "One."], ["Two", "c.jpg", "."]]


def test_text_alone_needs_no_media() -> None:
    expected = [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "A cat."},
    ]
    for nothing in ({}, {"image": None}, {"image": [], "video": []}):
        assert to_conversation(sample(" Hi\n", **nothing)) == expected


def test_the_assistants_words_are_kept_to_the_letter() -> None:
    words = " Write <image> or <video>.\n"
    assert to_conversation(sample("How?", {"from": "gpt", "value": words}))[1]["content"] == words


def test_turns_before_the_users_first_are_dropped_with_their_tags_but_system_turns_stay(folder: Path) -> None:
    system = {"from": "system", "value": "Be brief."}
    turns = [{"from": "gpt", "value": "<image> Welcome."}, system, human("What?"), ANSWER, system]
    conversation = to_conversation({"image": "a.png", "conversations": turns}, folder)
    assert [message["role"] for message in conversation] == ["system", "user", "assistant", "system"]
    assert conversation[0]["content"] == "Be brief."
    assert users(conversation) == [["a.png", "What?"]]


def test_roles_go_by_either_name() -> None:
    turns = [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Ho"}]
    assert [message["role"] for message in to_conversation({"conversations": turns})] == ["user", "assistant"]


# --------------------------------------------------------------------------------------------------------------- media


def test_relative_paths_start_at_the_root_and_absolute_ones_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def path_of(name: Any, root: Any) -> Any:
        return to_conversation(sample("What?", image=name), root)[0]["content"][0]["image"]

    assert path_of("a.png", folder) == path_of(Path("a.png"), str(folder)) == str(folder / "a.png")
    assert path_of(str(folder / "a.png"), "/elsewhere") == str(folder / "a.png")
    monkeypatch.chdir(folder)
    assert path_of("a.png", None) == "a.png"


def test_a_videos_options_go_with_files_and_its_times_with_data(folder: Path) -> None:
    frames = noise(3, 56, 56, 3)
    options = {"fps": 2, "start_time": 0.5, "end_time": 2.5}
    of_file, of_data = to_conversation(
        sample("<video><video>", video=["v.mp4", frames], timestamps=[None, [0.5, 2, 9]], **options), folder
    )[0]["content"]
    assert of_file == {"type": "video", "video": str(folder / "v.mp4"), **options}
    assert of_data["video"] is frames
    assert {key: of_data[key] for key in of_data if key != "video"} == {"type": "video", "timestamps": [0.5, 2, 9]}
    unset = to_conversation(sample("Hi", video="v.mp4", fps=None, start_time=None), folder)
    assert unset[0]["content"][0].keys() == {"type", "video"}


@pytest.mark.parametrize("times", [[0.5, 2, 9], [[0.5, 2, 9]], np.array([0.5, 2, 9])])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_single_videos_times_may_be_a_flat_list(times: Any, wrapped: bool) -> None:
    frames = noise(3, 56, 56, 3)
    conversation = to_conversation(sample("Hi", video=[frames] if wrapped else frames, timestamps=times))
    prompt = vl3ref.load_processor("vl3-tiny").prompt(conversation, add_system_prompt=False)
    assert "Time 0.5s:<image>,Time 2.0s:<image>,Time 9.0s:<image>\nHi" in prompt


def test_data_stands_for_itself() -> None:
    picture, array = Image.fromarray(noise(30, 30, 3)), noise(30, 30, 3)
    assert users(to_conversation(sample("<image>", image=picture))) == [[picture]]
    shown = users(to_conversation(sample("<image><image>", image=[array, picture])))[0]
    assert shown[0] is array
    assert shown[1] is picture


def test_a_list_of_pictures_is_one_video_and_a_list_of_arrays_of_frames_are_several() -> None:
    clip = noise(3, 56, 56, 3)
    for pictures in ([Image.fromarray(frame) for frame in clip], list(clip)):
        assert len(to_conversation(sample("<video>", video=pictures))[0]["content"]) == 1
        assert len(to_conversation(sample("<video><video>", video=[pictures, clip]))[0]["content"]) == 2
    assert len(to_conversation(sample("<video><video>", video=[clip, clip]))[0]["content"]) == 2


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, '"conversations" should be a list of at least one turn'),
        ({"conversations": []}, "at least one turn"),
        ({"conversations": "Hi"}, "at least one turn, not 'Hi'"),
        ({"conversations": ["Hi"]}, "turn 0 of conversations should be an object"),
        ({"conversations": [{"from": "human"}]}, 'turn 0 of conversations .*"value"'),
        ({"conversations": [human("Hi"), {"from": "gpt", "value": 3}]}, 'turn 1 .*"value" should be text, not 3'),
        ({"conversations": [human("Hi"), {"from": "bot", "value": "Ho"}]}, "turn 1 .* is from 'bot'; there are human"),
        ({"conversations": [human("Hi"), {"from": ["gpt"], "value": "Ho"}]}, "is from \\['gpt'\\]"),
        ({"conversations": [human("Hi")]}, "the assistant says nothing"),
        ({"conversations": [human("Hi"), {"from": "gpt", "value": " \n"}]}, "the assistant says nothing"),
        ({"conversations": [ANSWER, human("Hi")]}, "the assistant says nothing"),
        ({"conversations": [ANSWER]}, "no turn from human"),
        (sample("<image>"), "has 1 <image> but the sample lists 0"),
        (sample("<image><image>", image="a.png"), "has 2 <image> but the sample lists 1"),
        (sample("<image>", video="v.mp4"), "has 1 <image> but the sample lists 0"),
        (sample("<video>", "<video>", video="v.mp4"), "has 2 <video> but the sample lists 1"),
        (sample("Hi", image="gone.png"), r"gone\.png does not exist"),
        (sample("Hi", image=["a.png", "gone.png"]), r"gone\.png does not exist"),
        (sample("Hi", video="gone.mp4"), r"gone\.mp4 does not exist"),
        (sample("Hi", image="x" * 5000), "does not exist"),
        (sample("Hi", image=""), "path of an image or video is empty"),
        (sample("Hi", video=["v.mp4", "v.mp4"], timestamps=[0, 1]), "a list of seconds for each of the 2 videos"),
        (sample("Hi", video=["v.mp4", "v.mp4"], timestamps=[[0]]), "a list of seconds for each of the 2 videos"),
        (sample("Hi", video="v.mp4", timestamps=5), '"timestamps" should be a list of seconds, not 5'),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(wrong: dict, message: str, folder: Path) -> None:
    with pytest.raises(AnnotationError, match=message):
        to_conversation(wrong, folder)


def stream(*turns: tuple, **rest: Any) -> dict:
    keys = ("role", "content", "time")
    return {"stream": True, "video": "v.mp4", "conversation": [dict(zip(keys, t, strict=False)) for t in turns], **rest}


KEYS = [
    ({"imgae": "a.png"}, "no key 'imgae'; is 'image' meant"),
    ({"Image": "a.png"}, "no key 'Image'; is 'image' meant"),
    ({"images": ["a.png"]}, "no key 'images'; is 'image' meant"),
    ({"vidoe": "v.mp4"}, "is 'video' meant"),
    ({"fsp": 2}, "is 'fps' meant"),
    ({"startTime": 2}, "is 'start_time' meant"),
    ({"timestamp": [1]}, "is 'timestamps' meant"),
    ({"conversation": []}, "is 'conversations' meant"),
    ({"strem": True}, "is 'stream' meant"),
    ({"qqq": 1}, "no key 'qqq'; there are image, video"),
    ({"x" * 10**6: 1}, "no key 'xxx"),
    ({"stream": "yes"}, '"stream" should be true or false'),
    ({"fps": "abc"}, "fps should be a number above 0"),
    ({"fps": -1}, "fps should be a number above 0"),
    ({"fps": True}, "fps should be a number above 0"),
    ({"fps": 10**400}, "fps should be a number above 0 and at most 1000"),
    ({"start_time": "a"}, "start_time should be a number of seconds"),
    ({"end_time": math.nan}, "end_time should be a number of seconds"),
    ({"end_time": 10**400}, "end_time should be a number of seconds"),
]


@pytest.mark.parametrize(("extra", "message"), KEYS, ids=range(len(KEYS)))
def test_what_would_be_passed_over_is_refused(extra: dict, message: str) -> None:
    with pytest.raises(AnnotationError, match=message) as error:
        to_conversation({**sample("Hi"), **extra})
    assert len(str(error.value)) < 300


def test_keys_that_are_for_people_are_let_through() -> None:
    people = {"id": 5, "source": "a", "dataset": "b", "data_source": "c", "metadata": {}, "_own": 1, "image": None}
    assert to_conversation({**sample("Hi"), **people}) == to_conversation(sample("Hi"))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("content", [b'{"a": ' + b"9" * 5000 + b"}", b"[" * 100_000, b"\xff\xfe", "pipe"])
def test_an_annotation_file_that_nobody_can_read_is_refused(content: Any, name: str, tmp_path: Path) -> None:
    if content == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AnnotationError, match=f"{name}.* (cannot be read as JSON|is no regular file)") as error:
        Annotations(tmp_path / name).conversation(0)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (stream(("user", "Hi", 0)), "the assistant says nothing"),
        (stream(("assistant", "Hi")), "the time of turn 0 .* seconds, not None"),
        (stream(("assistant", "Hi", "now")), "the time of turn 0 .* seconds, not 'now'"),
        (stream(("assistant", "Hi", float("nan"))), "the time of turn 0"),
        (stream(("assistant", "Hi", 0), start_time="0"), "start_time should be a number of seconds, not '0'"),
        (stream(("bot", "Hi", 0)), "is from 'bot'"),
        (stream(("assistant", "Hi", 0), video=["v.mp4", "v.mp4"]), 'one file under "video", not 2'),
        (stream(("assistant", "Hi", 0), video=None), 'one file under "video", not 0'),
        (stream(("assistant", "Hi", 0), video="gone.mp4"), r"gone\.mp4 does not exist"),
        (stream(("assistant", "Hi", 5), start_time=1, end_time=2), "nothing to train on; widen"),
        (
            {"stream": True, "video": "v.mp4", "conversations": [human("Hi"), ANSWER]},
            "'conversations'; is 'conversation' meant",
        ),
        ({"stream": True, "video": "v.mp4", "conversation": []}, '"conversation" should be a list'),
    ],
)
def test_streams_that_cannot_be_used_are_refused_with_a_reason(wrong: dict, message: str, folder: Path) -> None:
    with pytest.raises(AnnotationError, match=message):
        to_conversation(wrong, folder)


# -------------------------------------------------------------------------------------------------------------- streams


def spoken(conversation: list[dict]) -> list:
    """Frames as their printed times, what is said as text."""
    return [
        m["content"][0]["timestamp"] if m["role"] == "stream" else f"{m['role'][0]}:{m['content']}"
        for m in conversation
    ]


def test_what_is_said_follows_the_frames_up_to_its_time(folder: Path) -> None:
    turns = [("user", "Q", -1), ("assistant", "A", 1), ("user", "R", 1.5), ("assistant", "B", 7)]
    assert spoken(to_conversation(stream(*turns), folder)) == ["u:Q", 0, 1, "a:A", "u:R", 2, 3, "a:B"]


def test_times_are_printed_from_the_start_and_what_is_said_outside_the_cut_is_dropped(folder: Path) -> None:
    turns = [("user", "Q", 0.9), ("user", "R", 1), ("assistant", "A", 3.0), ("assistant", "B", 3.1)]
    cut = to_conversation(stream(*turns, start_time=1, end_time=3), folder)
    assert spoken(cut) == ["u:R", 0, 1, "a:A"]
    frames, _ = load_video(folder / "v.mp4", 1, None, 1, 3)
    assert np.array_equal(np.stack([m["content"][0]["image"] for m in cut if m["role"] == "stream"]), frames)


def test_what_is_said_keeps_its_order_and_system_turns_go_in_front(folder: Path) -> None:
    turns = [("user", "Q", 2), ("assistant", "A", 1), ("system", "S")]
    assert spoken(to_conversation(stream(*turns), folder)) == ["s:S", 0, 1, 2, "u:Q", "a:A", 3]


def test_a_stream_is_sampled_at_its_own_rate_and_thinned_to_400_frames(folder: Path) -> None:
    assert spoken(to_conversation(stream(("assistant", "A", 0.5), fps=2, end_time=2), folder)) == [
        0,
        0.5,
        "a:A",
        1,
        1.5,
    ]
    shown = spoken(to_conversation(stream(("assistant", "A", 9), fps=1000), folder))
    assert len(shown) == 401
    assert shown[0] == 0
    assert shown[-2] == pytest.approx(4, abs=0.1)


def test_a_cut_below_a_second_prints_no_time_before_its_start(folder: Path) -> None:
    cut = spoken(to_conversation(stream(("assistant", "A", 0.5), fps=2, start_time=0.5, end_time=0.9), folder))
    assert all(time == "a:A" or time >= 0 for time in cut)


def test_a_cut_in_which_nothing_is_said_still_teaches_to_wait(folder: Path) -> None:
    assert spoken(to_conversation(stream(("assistant", "A", 9), end_time=3), folder)) == [0, 1, 2]


# -------------------------------------------------------------------------------------------------------------- labels


def targets(one: dict, root: Path) -> list[str]:
    """The stretches of the prompt that are trained on."""
    processor = vl3ref.load_processor("vl3-tiny")
    inputs = processor(to_conversation(one, root), add_generation_prompt=False, return_labels=True)
    stretches: list[list[int]] = []
    for before, label in zip([IGNORE_INDEX, *inputs.labels.tolist()], inputs.labels.tolist(), strict=False):
        if label != IGNORE_INDEX:
            if before == IGNORE_INDEX:
                stretches.append([])
            stretches[-1].append(label)
    return [processor.decode(stretch, skip_special_tokens=False) for stretch in stretches]


@pytest.mark.parametrize(
    "media",
    [
        {},
        {"image": "a.png"},
        {"image": ["a.png", "c.jpg", "b.png"]},
        {"video": str(BUNNY), "fps": 1, "end_time": 2},
        {"video": [noise(2, 56, 56, 3)], "timestamps": [0, 1.5], "image": noise(30, 30, 3)},
    ],
    ids=["text", "image", "images", "video", "data"],
)
def test_the_assistants_words_are_the_targets_and_nothing_else(media: dict, folder: Path) -> None:
    system = {"from": "system", "value": "Be brief."}
    turns = [system, human("What?"), {"from": "gpt", "value": "A rabbit, I think."}, human("Sure?"), ANSWER]
    assert targets({**media, "conversations": turns}, folder) == ["A rabbit, I think.<|im_end|>", "A cat.<|im_end|>"]


def test_in_a_stream_going_on_and_speaking_are_targets_too(folder: Path) -> None:
    turns = [("user", "Tell me when.", 0), ("assistant", "Now.", 2), ("user", "Thanks.", 3), ("assistant", "Yes.", 3)]
    one = stream(*turns, video=str(BUNNY), start_time=0, end_time=5)
    assert spoken(to_conversation(one)) == ["u:Tell me when.", 0, 1, 2, "a:Now.", 3, "u:Thanks.", "a:Yes.", 4]
    assert targets(one, folder) == [
        "<|stream_start|>",  # frame 0 -> go on
        "<|stream_start|>",  # frame 1 -> go on
        "<|im_start|>",  # frame 2 -> speak
        "Now.<|im_end|>",
        "Yes.<|im_end|>",
    ]


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_either_kind_of_file_gives_its_samples(name: str, folder: Path) -> None:
    samples = [sample(f"Zwölf {i}? 你好", image="a.png", id=f"s{i}") for i in range(3)]
    annotations = Annotations(write(folder / name, samples))
    assert len(annotations) == 3
    assert list(annotations) == samples
    assert annotations[-1] == annotations[2] == samples[2]
    assert annotations.conversation(1) == to_conversation(samples[1], folder)
    assert annotations.name(2) == f"{name} {'line' if name.endswith('l') else 'entry'} 3 (id s2)"
    with pytest.raises(IndexError):
        annotations[3]


def test_several_files_are_one_after_another_each_with_its_own_root(folder: Path, tmp_path: Path) -> None:
    one = write(folder / "one.json", [sample("1", image="a.png"), sample("2")])
    other = write(tmp_path / "other.jsonl", [sample("3"), sample("4", image="a.png")])
    annotations = Annotations([one, other])
    assert len(annotations) == 4
    assert [annotations.name(i) for i in (1, 2, -1)] == ["one.json entry 2", "other.jsonl line 1", "other.jsonl line 2"]
    assert annotations.roots == [folder, tmp_path]
    assert users(annotations.conversation(0)) == [["a.png", "1"]]


@pytest.mark.parametrize("gap", ["\n", "\r\n", "\n\n  \n"])
def test_empty_lines_do_not_count_but_keep_the_lines_numbers_right(gap: str, tmp_path: Path) -> None:
    annotations = Annotations(write(tmp_path / "data.jsonl", [{"a": 1}, {"a": 2}, {"a": 3}], gap))
    assert [one["a"] for one in annotations] == [1, 2, 3]
    assert annotations.name(1) == f"data.jsonl line {1 + gap.count(chr(10))}"


def test_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    for name in ("data.json", "data.jsonl"):
        path = write(tmp_path / name, [{"a": 1}])
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert Annotations(path)[0] == {"a": 1}


def test_a_root_of_its_own(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("elsewhere") / "data.json", [sample("Hi", image="a.png")])
    assert users(Annotations(path, folder).conversation(0)) == [["a.png", "Hi"]]
    with pytest.raises(AnnotationError, match=r"elsewhere.*a\.png does not exist"):
        Annotations(path).conversation(0)


def read_in_child(annotations: Annotations) -> list:
    return list(annotations)


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_it_travels_to_workers(name: str, tmp_path: Path) -> None:
    samples = [{"a": i} for i in range(50)]
    annotations = Annotations(write(tmp_path / name, samples))
    assert list(pickle.loads(pickle.dumps(annotations))) == samples
    gc.collect()  # decoders that other tests left would wait for threads that are not in the worker
    with get_context("fork").Pool(2) as pool:
        assert pool.map(read_in_child, [annotations] * 2) == [samples] * 2


def test_lines_are_not_parsed_before_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n\n[1]\n{"a": "\xff"}\n{"a": 2}')
    annotations = Annotations(path)
    assert (annotations[0], annotations[4]) == ({"a": 1}, {"a": 2})
    with pytest.raises(AnnotationError, match=r"data\.jsonl line 2 cannot be read as JSON"):
        annotations[1]
    with pytest.raises(AnnotationError, match=r"data\.jsonl line 4 should be an object .* not \[1\]"):
        annotations.conversation(2)
    with pytest.raises(AnnotationError, match=r"data\.jsonl line 5 cannot be read as JSON"):
        annotations[3]
    assert annotations.name(1) == "data.jsonl line 2"
    path.unlink()
    with pytest.raises(AnnotationError, match=r"data\.jsonl line 1 cannot be read.*No such file"):
        annotations[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.json", None, r"gone\.json' does not exist"),
        ("gone.jsonl", None, r"gone\.jsonl' does not exist"),
        ("data.txt", "[]", r"data\.txt' should be \.json"),
        ("data.json", "[]", "holds no samples"),
        ("data.jsonl", "\n \n", "holds no samples"),
        ("data.jsonl", "", "holds no samples"),
        ("data.json", "", r"cannot be read as JSON: .* name it \.jsonl"),
        ("data.json", '{"a": 1}\n{"a": 2}', r"cannot be read as JSON: .* name it \.jsonl"),
        ("data.json", '{"a": 1}', "should be a list of samples, not {'a': 1}"),
    ],
)
def test_files_that_hold_no_samples_are_refused_at_once(
    name: str, content: str | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(AnnotationError, match=message):
        Annotations(tmp_path / name)


def test_errors_of_a_conversation_say_what_is_wrong(folder: Path) -> None:
    (folder / "damaged.mp4").write_bytes(b"no video")
    samples = [sample("<image>", id=7), stream(("assistant", "A", 0), video="damaged.mp4")]
    annotations = Annotations(write(folder / "data.jsonl", samples))
    with pytest.raises(AnnotationError, match="the user's text has 1 <image>"):
        annotations.conversation(0)
    with pytest.raises(InputError, match=r"damaged\.mp4 cannot be read as a video"):
        annotations.conversation(1)
    with pytest.raises(InputError, match=r"damaged\.mp4 cannot be read as a video"):
        to_conversation(samples[1], folder)
