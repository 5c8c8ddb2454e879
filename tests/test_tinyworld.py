"""Every answer of the small world is measured again, from pixels and printed times alone (scene_reading.py)."""

import hashlib
import json
import pickle
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vl3ref
from tests import scene_reading
from tests.scene_reading import (
    CELL,
    CLIP_READERS,
    FIELDS,
    INK,
    PALETTE,
    PICTURE_READERS,
    Unclear,
    blob,
    board_size,
    darkness,
    find_reader,
    ideal_shapes,
    likeness,
    printed,
    sheet,
    things,
)
from vl3ref.errors import InputError
from vl3ref.inputs.images import load_image
from vl3ref.model_inputs import IGNORE_INDEX, ModelInputs
from vl3ref.tinyworld import PICTURE_SKILLS, SKILLS, TIME_SKILLS, TinyWorld, held_out
from vl3ref.tinyworld.examination import SEED as EXAMINATION_SEED
from vl3ref.tinyworld.recipe import PHASES
from vl3ref.tinyworld.samples import write
from vl3ref.training.annotations import Annotations
from vl3ref.training.samples import to_conversation

KINDS = ("scene", "sign", "label", "document", "chart", "clip")
ALL = {"scene": 3, "sign": 2, "document": 2, "chart": 2, "clip": 9}
AS_TEXT = dict.fromkeys(KINDS, 1.0)
SEED = 51
"""Of most tests; no phase of the recipe has it."""


@cache
def loaded() -> tuple[Any, Any]:
    """The model in the box, and its processor, which shows it the world as in its training."""
    return vl3ref.load("vl3-tiny", device="cpu")


@cache
def sample_of(index: int) -> Mapping[str, Any]:
    """Of a world with all kinds."""
    return TinyWorld(SEED, ALL)[index]


def frames_of(sample: Mapping[str, Any]) -> np.ndarray:
    return np.stack(sample["image"]) if "image" in sample else sample["video"][0]


def asked(sample: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Questions, without what stands in front of the first, and answers."""
    turns = sample["conversations"]
    assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
    for human, gpt in zip(turns[::2], turns[1::2], strict=True):
        yield human["value"].rpartition("\n")[2], gpt["value"]


def digest(sample: Mapping[str, Any]) -> str:
    """Of everything in a sample, pixels included."""
    rest = {key: value for key, value in sample.items() if key not in ("image", "video")}
    pixels = frames_of(sample).tobytes() if len(rest) < len(sample) else b""
    return hashlib.sha256(pixels + json.dumps(rest).encode()).hexdigest()


def skill_of(question: str, sample: Mapping[str, Any]) -> str:
    return find_reader(question, "video" in sample).skill


# ---------------------------------------------------------------------------------------------------------- determinism


def test_a_sample_is_always_the_same() -> None:
    world = TinyWorld(SEED, ALL, as_text=dict.fromkeys(KINDS, 0.2))
    forwards = [digest(world[i]) for i in range(40)]
    again = pickle.loads(pickle.dumps(world))
    assert [digest(again[i]) for i in reversed(range(40))] == forwards[::-1]
    assert len(set(forwards)) == 40


def test_the_samples_are_those_that_vl3_tiny_was_trained_on() -> None:
    """Their texts, times and sizes. Pixels of letters depend on Pillow's version."""
    world, text = TinyWorld(SEED, ALL, as_text=dict.fromkeys(KINDS, 0.2)), hashlib.sha256()
    for index in range(200):
        sample = world[index]
        sizes = [frames_of(sample).shape] if len(sample) > 1 else []
        rest = {key: value for key, value in sample.items() if key not in ("image", "video")}
        text.update(json.dumps([sizes, rest]).encode())
    assert text.hexdigest() == "301cf9bcc88c53ae71fcf3c39b979cad1336c57f729258d66e23cba3b09a9692"


def test_other_seeds_are_other_worlds() -> None:
    other = TinyWorld(SEED + 1, ALL)
    assert not {digest(sample_of(i)) for i in range(60)} & {digest(other[i]) for i in range(60)}


def test_the_order_of_the_mixture_does_not_matter() -> None:
    turned = dict(reversed(ALL.items()))
    assert [digest(TinyWorld(SEED, turned)[i]) for i in range(20)] == [digest(sample_of(i)) for i in range(20)]


# -------------------------------------------------------------------------------------------------------- what there is


NAMES = re.compile("|".join([*PALETTE, *ideal_shapes(), *FIELDS, "number", "word"]))


def test_every_skill_is_asked_for_in_several_wordings() -> None:
    wordings: dict[str, Counter[str]] = {skill: Counter() for skill in [*SKILLS, "inventory"]}
    readers = set()
    for index in range(600):
        sample = sample_of(index)
        for question, _ in asked(sample):
            reader = find_reader(question, "video" in sample)
            readers.add(reader)
            assert reader.skill == "inventory" or (reader.skill in TIME_SKILLS) == ("video" in sample)
            wordings[reader.skill][NAMES.sub("_", question)] += 1
    assert readers == {*PICTURE_READERS, *CLIP_READERS}
    assert set(SKILLS) == {*PICTURE_SKILLS, *TIME_SKILLS} and len(SKILLS) == 14
    for skill, counted in wordings.items():
        often = [wording for wording, times in counted.items() if times >= 5]
        assert len(often) >= 2, f"{skill}: {counted}"


def test_kinds_come_as_often_as_the_mixture_says() -> None:
    def kind(sample: Mapping[str, Any]) -> str:
        found = "clip" if "video" in sample else scene_reading.kind(frames_of(sample)[0])
        return "chart" if found in ("bars", "line") else found

    world = TinyWorld(SEED, {"scene": 2, "sign": 1, "chart": 0.5, "clip": 0.5})
    counted = Counter(kind(world[i]) for i in range(400))
    for name, share in {"scene": 0.5, "sign": 0.25, "document": 0.0, "chart": 0.125, "clip": 0.125}.items():
        assert counted[name] / 400 == pytest.approx(share, abs=0.07)


@pytest.mark.parametrize("turns", [1, 3, 6])
def test_no_answer_gives_another_away(turns: int) -> None:
    """A conversation is about details, or it asks for a description, or for everything; no answer was said before."""
    world = TinyWorld(SEED, ALL, turns=turns)
    forms: Counter[str] = Counter()
    longest = 0
    for index in range(150):
        sample = world[index]
        skills = [skill_of(question, sample) for question, _ in asked(sample)]
        wholes = [skill for skill in skills if skill == "inventory" or skill.endswith("caption")]
        assert skills and (not wholes or len(skills) == 1)
        longest = max(longest, len(skills))
        forms[wholes[0].split()[-1] if wholes else "details"] += 1
        said: set[str] = set()
        for question, answer in asked(sample):
            words = set(re.findall("[a-z]{3,}", answer.lower()))
            assert not words & said, f"{world.name(index)}: {answer}"
            said |= words | set(re.findall("[a-z]{3,}", question.lower()))
    assert longest == turns
    assert set(forms) == {"details", "caption", "inventory"} and forms["details"] > 75 and min(forms.values()) > 10


def test_sizes_and_proportions_differ() -> None:
    sizes = Counter(frames_of(sample_of(i)).shape[1:3] for i in range(400))
    assert len(sizes) > 50
    for height, width in sizes:
        assert 45 <= height <= 95 and 45 <= width <= 95
    ratios = [width / height for height, width in sizes]
    assert min(ratios) < 0.75 and max(ratios) > 1.33
    exact = sum(times for size, times in sizes.items() if size[0] % CELL == size[1] % CELL == 0)
    assert exact > 200  # but most fit the visual tokens


def test_no_two_backgrounds_are_alike_and_light_tells_the_place() -> None:
    world = TinyWorld(SEED, {"clip": 1})
    for index in range(30):
        frame = frames_of(world[index])[0].astype(float)
        free = (frame.min(axis=-1) > 150)[..., None]  # neither shapes nor anything else

        def light(part: tuple[slice, slice], frame: np.ndarray = frame, free: np.ndarray = free) -> np.ndarray:
            return (frame * free)[part].sum(axis=(0, 1)) / free[part].sum()

        half = [side // 2 for side in frame.shape[:2]]
        left, right = light(np.s_[:, : half[1]]), light(np.s_[:, half[1] :])
        top, bottom = light(np.s_[: half[0]]), light(np.s_[half[0] :])
        assert left[0] > right[0] + 5 and top[2] > bottom[2] + 5
    assert len({frames_of(world[i])[0, 0, :3].tobytes() for i in range(30)}) > 20


# -------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("easy", [0.0, 1.0], ids=["", "easy"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_true_of_the_pixels(kind: str, easy: float) -> None:
    world = TinyWorld(SEED, {kind: 1}, easy=easy)
    _, processor = loaded()
    right, unclear = 0, 0
    for index in range(50 if easy else 120):
        sample = world[index]
        times = None
        if kind == "clip":  # the seconds that the model reads
            times = [float(x) for x in re.findall(r"Time ([\d.]+)s:<image>", processor.prompt(to_conversation(sample)))]
            assert times == sample["timestamps"] and len(times) == len(frames_of(sample))
        for question, answer in asked(sample):
            try:
                assert scene_reading.answer(frames_of(sample), times, question) == answer, (
                    f"{world.name(index)}: {question}"
                )
                right += 1
            except Unclear:
                unclear += 1
    assert right > (75 if easy else 180) and unclear < (0.05 if kind == "clip" else 0.02) * right


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_of_a_picture_is_what_is_seen(kind: str) -> None:
    world = TinyWorld(SEED, {kind: 1})
    unclear = 0
    for index in range(60):
        picture, text = world.picture_and_text(index)
        try:
            assert scene_reading.as_text(picture) == text, world.name(index)
        except Unclear:
            unclear += 1
    assert unclear < (12 if kind == "clip" else 3)


def test_the_text_of_a_sign_is_whole() -> None:
    world = TinyWorld(SEED, {"sign": 1}, turns=2)
    texts, inks = set(), set()
    for index in range(200):
        [picture] = frames_of(world[index])
        words = re.fullmatch(r'sign "(\w+)", (\w+)', world.picture_and_text(index)[1])
        assert words is not None
        text, ink = words.groups()
        dark = darkness(sheet(picture), PALETTE[ink])
        left, top, *_ = blob("", np.argwhere(dark > 0.3)).box
        assert max(likeness(dark, text, size, (top, left), (1, 1)) for size in range(15, 19)) > 0.9
        texts.add(text)
        inks.add(ink)
    assert len(texts) > 60 and len(inks) == 4
    assert any(text.isdigit() for text in texts) and any(text.isalpha() for text in texts)


def test_keys_and_values_of_a_document_are_whole_and_do_not_touch() -> None:
    world = TinyWorld(SEED, {"document": 1})
    shares = []
    for index in range(80):
        picture, text = world.picture_and_text(index)
        dark = darkness(sheet(picture), INK)
        lines = text.split("; ")
        for line, part in zip(lines, np.array_split(dark, len(lines)), strict=True):
            key, value = line.split(" ")
            columns = np.nonzero((part > 0.3).any(axis=0))[0]
            for word, column in ((key, columns[0]), (value, columns[-1] + 1 - printed(value, 15).shape[1])):
                shares.append(likeness(part, word, 15, (len(part) // 2 - 5, int(column)), (9, 1)))
    assert len(shares) > 320 and min(shares) > 0.9


# ---------------------------------------------------------------------------------------------------------------- clips


def test_clips_have_clocks_of_their_own() -> None:
    world = TinyWorld(SEED, {"clip": 1})
    clocks = [world[i]["timestamps"] for i in range(200)]
    gaps = [set(np.diff(times).tolist()) for times in clocks]
    assert all(len(gap) == 1 for gap in gaps)
    per_second = Counter(1 / gap.pop() for gap in gaps)
    assert set(per_second) == {1.0, 2.0} and min(per_second.values()) > 50
    late = [times[0] for times in clocks if times[0]]
    assert 30 < len(late) < 90 and len(set(late)) > 10
    counts = {len(times) for times in clocks}
    assert min(counts) >= 3 and max(counts) <= 16 and len(counts) > 5


def test_diff_fp_drops_most_of_a_clip_and_nothing_that_changes() -> None:
    model, processor = loaded()
    world = TinyWorld(SEED, {"clip": 1})
    kept = []
    for index in range(50):
        frames = frames_of(world[index])
        same = (frames[1:] == frames[:-1]).all(axis=-1)
        assert same.mean() > 0.85
        inputs = processor(world.conversation(index))
        keep = model.pruner(inputs, None)
        kept.append(float(keep.float().mean()))
        if frames.shape[1] % CELL == frames.shape[2] % CELL == 0:  # a token is a cell
            cells = same.reshape(len(same), frames.shape[1] // CELL, CELL, -1, CELL).all(axis=(2, 4))
            own = keep.view(len(frames), -1)[1:].numpy()
            still = cells.reshape(len(same), -1)
            assert not (own & still)[:, 1:].any()  # but for the first: a frame without tokens keeps that one
            assert own[~still].mean() > 0.7  # a splinter of a neighbour may be too small
    assert np.mean(kept) < 0.45 and max(kept) < 0.75


# -------------------------------------------------------------------------------------------------------- the format


def targets(inputs: ModelInputs, processor: Any) -> list[str]:
    stretches: list[list[int]] = [[]]
    assert inputs.labels is not None
    for label, token in zip(inputs.labels.tolist(), inputs.input_ids.tolist(), strict=True):
        if label == IGNORE_INDEX:
            stretches.append([])
        else:
            assert label == token
            stretches[-1].append(label)
    return [processor.decode(stretch, skip_special_tokens=False) for stretch in stretches if stretch]


@pytest.mark.parametrize("as_text", [{}, AS_TEXT], ids=["pixels", "text"])
def test_the_targets_are_the_answers(as_text: dict[str, float]) -> None:
    _, processor = loaded()
    world = TinyWorld(SEED, ALL, as_text=as_text)
    for index in range(60):
        inputs = processor(world.conversation(index), add_generation_prompt=False, return_labels=True)
        assert targets(inputs, processor) == [f"{answer}<|im_end|>" for _, answer in asked(world[index])]
        assert inputs.modals == ([] if as_text else ["video" if "video" in world[index] else "image"])


def test_text_samples_say_what_the_others_show() -> None:
    shown, text = TinyWorld(SEED, ALL), TinyWorld(SEED, ALL, as_text=AS_TEXT)
    mentioned = Counter()
    for index in range(150):
        picture, words = sample_of(index), text[index]
        assert not {"image", "video", "timestamps"} & words.keys()
        assert list(asked(words)) == list(asked(picture))
        [front, *rest] = [turn["value"].rpartition("\n")[0] for turn in words["conversations"][::2]]
        assert not any(rest) and "<image>" not in front and "<video>" not in front
        if "image" in picture:
            assert front == shown.picture_and_text(index)[1]
        else:
            times = re.findall(r"(?:^|,)Time ([\d.]+)s:", front)
            assert [float(time) for time in times] == picture["timestamps"]
        for question, answer in asked(words):
            skill = skill_of(question, picture)
            if skill in ("colour", "shape", "reading", "document"):
                assert answer in re.findall(r"\w+", front)
                mentioned[skill] += 1
            if skill == "time":
                assert answer.split()[1] in times
                mentioned[skill] += 1
    assert len(mentioned) == 5 and min(mentioned.values()) > 5


def test_a_clip_as_text_says_each_frame_once() -> None:
    world, text = TinyWorld(SEED, {"clip": 1}), TinyWorld(SEED, {"clip": 1}, as_text=AS_TEXT)
    checked = 0
    for index in range(40):
        frames, before = frames_of(world[index]), None
        front = text[index]["conversations"][0]["value"].rpartition("\n")[0]
        for frame, words in zip(frames, re.split(r",?Time [\d.]+s:", front)[1:], strict=True):
            try:
                seen = scene_reading.as_text(frame)
            except Unclear:
                seen = None
            if words != "same" and seen is not None:
                assert seen == words
                checked += 1
            elif seen is not None and before is not None:
                assert seen == before
            before = seen
    assert checked > 80


def test_so_many_are_easy() -> None:
    """Easy scenes have four cells, and two things at most."""
    world = TinyWorld(SEED, {"scene": 1}, easy=0.5)
    shown = [frames_of(world[i])[0] for i in range(200)]
    small = [picture for picture in shown if board_size(picture) == (2, 2)]
    assert 200 * 0.5 < len(small) < 200 * 0.75  # a quarter of the others has four cells too
    for index in range(40):
        picture = frames_of(TinyWorld(SEED, {"scene": 1}, easy=1.0)[index])[0]
        assert board_size(picture) == (2, 2) and 1 <= len(things(picture)) <= 2


def test_so_many_of_each_kind_are_text() -> None:
    world = TinyWorld(SEED, {"scene": 1, "clip": 1, "sign": 1}, as_text={"scene": 0.3, "clip": 1.0, "document": 1.0})
    counted: Counter[str] = Counter()
    for index in range(300):
        sample = world[index]
        looks = "image" if "image" in sample else "video" if "video" in sample else "text"
        front = sample["conversations"][0]["value"]
        counted[f"{looks} {'clip' if front.startswith('Time') else 'sign' if front.startswith('sign') else ''}"] += 1
    assert set(counted) == {"image ", "text ", "text clip"}  # a clip never has pixels, a sign is never text
    assert 70 < counted["text clip"] < 130 and 15 < counted["text "] < 45


def test_it_is_endless_and_names_its_samples() -> None:
    world = TinyWorld(SEED, ALL)
    assert len(world) > 1e9 and len(TinyWorld(SEED, ALL, size=7)) == 7
    assert world.conversation(10**9)
    assert world.name(12) == f"tinyworld seed {SEED} sample 12"


# ------------------------------------------------------------------------------------------------------------ written


def same_inputs(one: ModelInputs, other: ModelInputs) -> bool:
    tensors = ("input_ids", "labels", "pixel_values", "grid_sizes", "merge_sizes")
    return one.modals == other.modals and all(torch.equal(getattr(one, x), getattr(other, x)) for x in tensors)


def written_and_read(samples: list, folder: Path) -> Iterator[tuple[ModelInputs, ModelInputs]]:
    _, processor = loaded()
    read = Annotations(write(samples, folder))
    assert len(read) == len(samples)
    for index, sample in enumerate(samples):
        yield tuple(
            processor(conversation, add_generation_prompt=False, return_labels=True)
            for conversation in (read.conversation(index), to_conversation(sample))
        )


def test_written_pictures_read_the_same(tmp_path: Path) -> None:
    world = TinyWorld(SEED, {kind: 1 for kind in KINDS if kind != "clip"})
    samples = [world[i] for i in range(12)]
    assert all(same_inputs(*pair) for pair in written_and_read(samples, tmp_path / "new" / "folder"))
    pictures = sorted(tmp_path.rglob("*.png"))
    assert len(pictures) == 12
    assert all(np.array_equal(load_image(path), frames_of(s)[0]) for path, s in zip(pictures, samples, strict=True))


def test_written_clips_read_the_same(tmp_path: Path) -> None:
    world = TinyWorld(SEED, {"clip": 1})
    samples = [world[i] for i in range(8)]
    assert len({sample["timestamps"][0] for sample in samples}) > 1
    assert all(same_inputs(*pair) for pair in written_and_read(samples, tmp_path))
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    assert [len(list(folder.glob("*.png"))) for folder in folders] == [len(frames_of(sample)) for sample in samples]


def test_text_samples_are_written_without_pictures(tmp_path: Path) -> None:
    samples = [TinyWorld(SEED, ALL, as_text=AS_TEXT)[i] for i in range(5)]
    path = write(samples, tmp_path)
    assert [path] == list(tmp_path.iterdir())
    assert list(Annotations(path)) == samples


# ------------------------------------------------------------------------------------------------------------ held out


@pytest.mark.parametrize("skill", SKILLS)
def test_held_out_questions(skill: str) -> None:
    samples = held_out(skill, 7, 12)
    assert [digest(sample) for sample in samples] == [digest(sample) for sample in held_out(skill, 7, 12)]
    assert [digest(sample) for sample in samples[:5]] == [digest(sample) for sample in held_out(skill, 7, 5)]
    assert len(samples) == 12 == len({digest(sample) for sample in samples})
    assert not {digest(sample) for sample in samples} & {digest(sample) for sample in held_out(skill, 8, 12)}
    for sample in samples:
        [(question, answer)] = asked(sample)
        assert ("video" in sample) == (skill in TIME_SKILLS)
        assert skill_of(question, sample) == skill
        with suppress(Unclear):
            assert scene_reading.answer(frames_of(sample), sample.get("timestamps"), question) == answer
    assert len({answer for sample in samples for _, answer in asked(sample)}) > 1


def test_an_unknown_skill() -> None:
    with pytest.raises(InputError, match=r"'juggling'.*motion"):
        held_out("juggling", 7, 1)


@pytest.mark.parametrize("samples", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_training_never_sees_the_examination(samples: int) -> None:
    def seen(sample: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
        pixels = hash(frames_of(sample).tobytes())
        yield from ((pixels, question) for question, _ in asked(sample))

    exam = {pair for skill in SKILLS for sample in held_out(skill, EXAMINATION_SEED, 8) for pair in seen(sample)}
    assert len(exam) == 8 * len(SKILLS)
    for seed, phase in enumerate(PHASES, start=1):
        world = TinyWorld(seed, phase.mixture, easy=phase.easy)
        assert not any(pair in exam for index in range(samples) for pair in seen(world[index]))
