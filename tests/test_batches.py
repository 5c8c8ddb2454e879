"""Which samples a step trains on: shuffled, packed, cut where they are long, left out where they are broken."""

import json
import pickle
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.media import noise, write_sound
from tests.small_runs import Mixed, processor, small_model
from vl3ref.errors import VL3Error
from vl3ref.inputs.processor import Processor
from vl3ref.inputs.template import SYSTEM_PROMPT
from vl3ref.model.diff_fp import keep_all
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import IGNORE_INDEX, ModelInputs, join
from vl3ref.tinyworld import PICTURES, TinyWorld
from vl3ref.tinyworld.samples import write
from vl3ref.training import batches as batches_module
from vl3ref.training.annotations import Annotations
from vl3ref.training.batches import Batch, Conversations, count_targets, cut, grey_frame, packed
from vl3ref.training.samples import AnnotationError

WORLD = {**PICTURES, "clip": 9}
HELLO = [{"role": "assistant", "content": "Hello."}]
ALL = 1 << 30
"""A budget that takes every conversation into one pack."""


def conversations(samples: Any, batch: int = 4, **options: Any) -> Conversations:
    return Conversations(samples, processor(), batch, **{"shuffle": False, "pack_tokens": ALL, **options})


def equal(one: ModelInputs, other: ModelInputs) -> bool:
    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b

    return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(ModelInputs))


@pytest.fixture(scope="module")
def model() -> VideoLLaMA3:
    return small_model()


@pytest.fixture(scope="module")
def singles() -> list[ModelInputs]:
    """Images, clips and text alone, each by itself."""
    return conversations(Mixed("sstsstss"), 8, pack_tokens=1)[0].packs


# ------------------------------------------------------------------------------------------------------- which samples


class Numbered:
    """Samples that note in which order they were asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.visited: list[int] = []

    def __len__(self) -> int:
        return self.count

    def conversation(self, index: int) -> list[dict[str, Any]]:
        self.visited.append(index)
        raise AnnotationError("only its number matters")

    def name(self, index: int) -> str:
        return f"sample {index}"


def visited(steps: Sequence[int], world: int = 1, batch: int = 4, count: int = 10, **options: Any) -> list[int]:
    """The samples of some steps in order, put together from what each of the processes asked for."""
    order = []
    for step in steps:
        by_rank = []
        for rank in range(world):
            samples = Numbered(count)
            made = conversations(samples, batch, rank=rank, world=world, **options)[step]
            assert made.packs == [] and made.samples == len(made.skipped)
            by_rank.append(samples.visited)
        order += [by_rank[place % world][place // world] for place in range(sum(map(len, by_rank)))]
    return order


def test_a_batch_depends_on_its_step_alone() -> None:
    samples = Mixed("sstsstsstb")
    first = conversations(samples, shuffle=True, pack_tokens=250)
    expected = [first[step] for step in range(6)]
    other = conversations(samples, shuffle=True, pack_tokens=250)
    for step in (5, 0, 3, 3, 4):  # back and forth over the epochs' ends, as a resumed run and its workers may ask
        again = other[step]
        assert again.skipped == expected[step].skipped
        assert len(again.packs) == len(expected[step].packs) > 1
        assert all(map(equal, again.packs, expected[step].packs))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_an_epoch_visits_every_sample_once_and_the_next_one_in_another_order(world: int) -> None:
    order = visited(range(5), world, shuffle=True)
    assert len(order) == 20
    epochs = order[:10], order[10:]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
    assert list(range(10)) not in epochs


@pytest.mark.parametrize("batch", [3, 4])
def test_two_processes_share_what_one_alone_would_see(batch: int) -> None:
    alone = visited(range(6), world=1, batch=batch, shuffle=True)
    assert visited(range(6), world=2, batch=batch, shuffle=True) == alone
    assert len(alone) == 6 * batch


def test_the_seed_decides_on_the_order_and_without_shuffling_it_is_the_files() -> None:
    assert visited(range(3), shuffle=True, seed=1) == visited(range(3), shuffle=True, seed=1)
    assert visited(range(3), shuffle=True, seed=1) != visited(range(3), shuffle=True, seed=2)
    assert visited(range(3)) == [*range(10), 0, 1]


def test_an_endless_world_is_not_counted_through() -> None:
    batch = conversations(TinyWorld(0, WORLD), 2)[10_000_000]
    assert not batch.skipped
    assert len(batch.packs[0].lengths) == 2


@pytest.mark.parametrize("samples", [TinyWorld(0, WORLD), Mixed("stst")], ids=["world", "mixed"])
def test_batches_can_be_made_by_workers_that_were_not_forked(samples: Any) -> None:
    ours = conversations(samples, 2)
    theirs = pickle.loads(pickle.dumps(ours))
    assert equal(ours[1].packs[0], theirs[1].packs[0])


# ------------------------------------------------------------------------------------------------------------- packing


def text(length: int, first: int = 0) -> ModelInputs:
    ids = torch.arange(first, first + length)
    return ModelInputs(ids, torch.tensor([length]), labels=ids.clone())


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([5, 3, 9, 2, 2, 30, 1], [[5, 3], [9], [2, 2], [30], [1]]),
        ([5, 5, 1], [[5, 5], [1]]),
        ([11, 12], [[11], [12]]),
        ([1, 30, 30, 1], [[1], [30], [30], [1]]),
        ([10], [[10]]),
        ([], []),
    ],
)
def test_a_pack_takes_neighbours_within_the_budget_and_a_longer_one_stands_alone(
    lengths: list[int], expected: list[list[int]]
) -> None:
    ones = [text(length, 100 * place) for place, length in enumerate(lengths)]
    packs = list(packed(ones, 10))
    assert [pack.lengths.tolist() for pack in packs] == expected
    for name in ("input_ids", "labels"):
        together = [x for pack in packs for x in getattr(pack, name).tolist()]
        assert together == [x for one in ones for x in getattr(one, name).tolist()]


def test_a_pack_holds_what_its_conversations_hold_in_their_order(singles: list[ModelInputs]) -> None:
    pack = join(singles)
    assert {"image", "video"} == set(pack.modals)
    assert any(one.pixel_values is None for one in singles)
    pack.check(small_model().config)
    seeing = [one for one in singles if one.pixel_values is not None]
    for name in ("input_ids", "lengths", "labels"):
        assert torch.equal(getattr(pack, name), torch.cat([getattr(one, name) for one in singles]))
    for name in ("pixel_values", "grid_sizes", "merge_sizes"):
        assert torch.equal(getattr(pack, name), torch.cat([getattr(one, name) for one in seeing]))
    assert pack.modals == [modal for one in singles for modal in one.modals]


def test_packing_changes_neither_the_loss_nor_the_gradients(model: VideoLLaMA3, singles: list[ModelInputs]) -> None:
    def total(packs: list[ModelInputs]) -> tuple[torch.Tensor, int, dict[str, torch.Tensor]]:
        model.zero_grad()
        losses = [model(pack, pack.labels).loss * count_targets(pack) for pack in packs]
        torch.stack(losses).sum().backward()
        gradients = {name: x.grad.clone() for name, x in model.named_parameters()}
        return torch.stack(losses).sum().detach(), sum(count_targets(pack) for pack in packs), gradients

    loss, count, gradients = total(singles)
    for pack_tokens in (600, ALL):
        packs = list(packed(singles, pack_tokens))
        assert 1 <= len(packs) < len(singles)
        other_loss, other_count, other_gradients = total(packs)
        assert other_count == count == sum(int((one.labels != IGNORE_INDEX).sum()) for one in singles)
        torch.testing.assert_close(other_loss, loss, rtol=1e-5, atol=0)
        for name, gradient in gradients.items():
            close = {"rtol": 1e-4, "atol": 1e-5 * float(gradient.abs().max())}
            torch.testing.assert_close(other_gradients[name], gradient, **close, msg=name)
    model.zero_grad()


# ---------------------------------------------------------------------------------------------- what the model is given


def test_labels_stand_on_the_assistants_words_alone(singles: list[ModelInputs]) -> None:
    samples = Mixed("sstsstss")
    for index, one in enumerate(singles):
        targets = one.labels != IGNORE_INDEX
        assert torch.equal(one.labels[targets], one.input_ids[targets])
        said = [m["content"] for m in samples.conversation(index) if m["role"] == "assistant"]
        assert said
        assert processor().decode(one.labels[targets], skip_special_tokens=False) == "".join(
            f"{words}<|im_end|>" for words in said
        )
        rest = processor().decode(one.input_ids[~targets], skip_special_tokens=True)
        assert SYSTEM_PROMPT in rest


@pytest.mark.parametrize(("image", "video"), [(1, 2), (2, 2)])
def test_the_processor_decides_how_finely_things_are_seen(image: int, video: int) -> None:
    sizes = replace(processor().config, image_merge_size=image, video_merge_size=video)
    own = Processor(processor().tokenizer, sizes)
    (pack,) = Conversations(Mixed("ssssssss"), own, 8, shuffle=False)[0].packs
    assert {"image", "video"} == set(pack.modals)
    wanted = {"image": image, "video": video}
    assert pack.merge_sizes.tolist() == [wanted[modal] for modal in pack.modals]
    grey = grey_frame(own)
    grey.check(small_model().config)
    assert grey.tokens_per_visual() == [1] and count_targets(grey) == 0


def test_a_batch_counts_what_is_in_it(model: VideoLLaMA3) -> None:
    for world in (1, 2):
        batches = [conversations(Mixed("tgtb"), 4, rank=rank, world=world, pack_tokens=1)[0] for rank in range(world)]
        assert sum(batch.samples for batch in batches) == 4
        alone = [conversations(Mixed("tgt"), 1)[step].packs[0] for step in range(3)]
        assert sum(batch.tokens for batch in batches) == sum(len(one.input_ids) for one in alone)
        assert sum(batch.targets for batch in batches) == sum(map(count_targets, alone))
        for batch in batches:
            if world > 1:  # each pack has something to see, and one stands by that counts if it is weighed
                assert all(pack.modals for pack in batch.packs) and count_targets(batch.filler) == 1
                dropped = model(batch.filler, batch.filler.labels, pruner=lambda *_: torch.zeros(1, dtype=torch.bool))
                assert bool(dropped.loss.isfinite())
            else:
                assert not any(pack.modals for pack in batch.packs) and batch.filler is None


def test_visuals_shrink_to_the_official_number_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [{"role": "user", "content": [{"type": "image", "image": noise(280, 280, 3)}]}, *HELLO]
    assert conversations(Mixed("g")).prepare(turns).tokens_per_visual() == [100]
    monkeypatch.setattr(batches_module, "MAX_VISUAL_TOKENS", 20)
    assert conversations(Mixed("g")).prepare(turns).tokens_per_visual() == [16]


# ------------------------------------------------------------------------------------------------------------- cutting


def frame_sizes(inputs: ModelInputs) -> list[int]:
    """Visual tokens of every frame, in order."""
    return [
        rows * columns // merge**2
        for (frames, rows, columns), merge in zip(inputs.grid_sizes.tolist(), inputs.merge_sizes.tolist(), strict=True)
        for _ in range(frames)
    ]


@pytest.fixture(scope="module")
def long() -> ModelInputs:
    """A clip, a picture and a clip in one conversation, with answers between them."""
    turns: list[dict[str, Any]] = []
    clips = (noise(3, 112, 168, 3), noise(2, 112, 140, 3, seed=1))
    for kind, data in (("video", clips[0]), ("image", noise(112, 112, 3, seed=2)), ("video", clips[1])):
        turns.append({"role": "user", "content": [{"type": kind, kind: data}, {"type": "text", "text": "What?"}]})
        turns.append({"role": "assistant", "content": "It is noise."})
    return conversations(Mixed("g")).prepare(turns)


def test_a_conversation_within_the_limit_is_not_touched(long: ModelInputs) -> None:
    assert cut(long, len(long.input_ids), processor()) is long
    assert cut(long, ALL, processor()) is long


def test_wherever_it_is_cut_the_rest_is_whole(long: ModelInputs, model: VideoLLaMA3) -> None:
    """Every length that it can be cut to."""
    assert long.modals == ["video", "image", "video"]
    visual = (long.input_ids == processor().config.image_token_id).tolist()
    frame_of, frames = [], iter(enumerate(frame_sizes(long)))
    while len(frame_of) < sum(visual):
        number, size = next(frames)
        frame_of += [number] * size
    places = [place for place, seen in enumerate(visual) if seen]
    seen_losses = set()
    for most in range(1, len(long.input_ids)):
        short = cut(long, most, processor())
        end = len(short.input_ids)
        short.check(model.config)
        assert torch.equal(short.input_ids, long.input_ids[:end])
        assert torch.equal(short.labels, long.labels[:end])
        assert short.lengths.tolist() == [end]

        whole = frame_of[places.index(most)] if visual[most] else None  # the frame that the cut goes through, if any
        split = whole is not None and visual[most - 1] and frame_of[places.index(most - 1)] == whole
        if split:  # the whole frame goes, and not a token more
            assert end == places[frame_of.index(whole)]
        else:
            assert end == most
        if short.pixel_values is None:
            assert not any(visual[:end]) and short.modals == [] and short.grid_sizes is None
        else:
            assert torch.equal(short.pixel_values, long.pixel_values[: len(short.pixel_values)])
            assert frame_sizes(short) == frame_sizes(long)[: len(frame_sizes(short))]
            assert sum(frame_sizes(short)) == sum(visual[:end])
            assert short.modals == long.modals[: len(short.modals)]
            assert torch.equal(short.merge_sizes, long.merge_sizes[: len(short.modals)])
        if count_targets(short) and (int(short.labels[-1]) != IGNORE_INDEX or (split and most % 5 == 0)):
            with torch.no_grad():
                seen_losses.add(round(float(model(short, short.labels).loss), 6))
    assert len(seen_losses) > 10


def test_what_comes_before_the_cut_is_computed_as_if_there_were_no_more(long: ModelInputs, model: VideoLLaMA3) -> None:
    visual = (long.input_ids == processor().config.image_token_id).nonzero().flatten().tolist()
    short = cut(long, visual[-1], processor())  # its last frame loses one token, and so goes
    assert len(short.input_ids) < visual[-1]
    assert int(short.grid_sizes[-1, 0]) == int(long.grid_sizes[-1, 0]) - 1
    with torch.no_grad():
        expected, ours = (model(x, pruner=keep_all).logits for x in (long, short))
    torch.testing.assert_close(ours, expected[: len(ours)], rtol=0, atol=2e-5)


def test_a_long_sample_is_cut_when_it_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = conversations(Mixed("t"), 1)[0].packs[0]
    last = int((whole.labels != IGNORE_INDEX).nonzero()[-1])
    monkeypatch.setattr(batches_module, "MAX_TOKENS", last)
    batch = conversations(Mixed("t"), 1)[0]
    assert not batch.skipped
    assert batch.packs[0].lengths.tolist() == [last]


def test_a_sample_that_is_cut_before_the_assistant_speaks_is_skipped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first target stands at `first`; cut there, one token short of it, and right after it."""
    whole = conversations(Mixed("s"), 1)[0].packs[0]
    first = int((whole.labels != IGNORE_INDEX).nonzero()[0])
    for most, targets in ((20, 0), (first, 0), (first + 1, 1)):
        monkeypatch.setattr(batches_module, "MAX_TOKENS", most)
        batch = conversations(Mixed("s"), 1)[0]
        if targets:
            assert not batch.skipped
            assert count_targets(batch.packs[0]) == batch.targets == targets
        else:
            said = "sample 0: nothing in it is trained on, or not within the longest length"
            assert batch == Batch(samples=1, skipped=[said])


# ------------------------------------------------------------------------------------------------------ broken samples


def line(answer: str = "A cat.", **media: Any) -> str:
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": answer}]
    return json.dumps({**media, "conversations": turns})


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, str]]:
    """An annotation file, and for each of its lines that is broken what should be said about it."""
    folder = tmp_path_factory.mktemp("broken")
    Image.fromarray(noise(56, 56, 3)).save(folder / "good.png")
    data = (folder / "good.png").read_bytes()
    (folder / "torn.png").write_bytes(data[: len(data) // 2])
    (folder / "words.jpg").write_bytes(b"no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "words.mp4").write_bytes(b"no video")
    write_sound(folder / "sound.mp4")
    (folder / "empty").mkdir()
    lines = [
        (line(), None),
        (line(image="gone.png"), r"gone\.png does not exist"),
        ('{"image": "good.png", "conversations": [', "cannot be read as JSON"),
        (line(image="torn.png"), r"torn\.png"),
        (line(image="words.jpg"), r"words\.jpg"),
        (line(image="empty.png"), r"empty\.png"),
        ("", None),
        (line(video="words.mp4"), r"words\.mp4 cannot be read as a video"),
        (line(video="sound.mp4"), r"sound\.mp4 cannot be read as a video"),
        (line(video="empty"), "empty holds no pictures"),
        (line(video="good.png/x.mp4"), "does not exist"),
        (line(" "), "the assistant says nothing"),
        ("[1, 2]", "should be an object"),
        ('{"id": "cat-7", "image": "good.png"}', r'"conversations" should be a list'),
        (line(image="good.png"), None),
        (line(image=["good.png", "gone.png"]), r"gone\.png does not exist"),
    ]
    path = folder / "data.jsonl"
    path.write_text("\n".join(one for one, _ in lines) + "\n", encoding="utf-8")
    return path, {number: reason for number, (_, reason) in enumerate(lines, start=1) if reason}


@pytest.mark.parametrize("several", [False, True])
def test_broken_samples_are_skipped_named_once_and_not_replaced(
    several: bool, broken: tuple[Path, dict[int, str]], tmp_path: Path
) -> None:
    path, reasons = broken
    (tmp_path / "other.jsonl").write_text(line() + "\n", encoding="utf-8")
    samples = Annotations([tmp_path / "other.jsonl", path] if several else path)
    batch = conversations(samples, len(samples))[0]
    assert len(batch.skipped) == len(reasons) == 13
    for said, (number, reason) in zip(batch.skipped, reasons.items(), strict=True):
        name = f"data.jsonl line {number}" + (" (id cat-7)" if number == 14 else "")
        assert said.startswith(name)
        assert said.count("data.jsonl") == 1 or path.name in said.removeprefix(name)
        assert "\n" not in said
        assert re.search(reason, said), said
    (pack,) = batch.packs
    assert len(pack.lengths) == len(samples) - len(reasons)
    good = [Annotations(path).conversation(index) for index in (0, 13)]
    expected = [conversations(samples).prepare(one) for one in ([good[0]] if several else []) + good]
    assert equal(pack, join(expected))


class Failing(Mixed):
    def conversation(self, index: int) -> list[dict[str, Any]]:
        if index == 1:
            raise OSError(5, "Input/output error")
        return super().conversation(index)


def test_a_file_that_cannot_be_read_at_all_is_named_by_its_sample() -> None:
    batch = conversations(Failing("ggg"), 3)[0]
    assert batch.skipped == ["sample 1: [Errno 5] Input/output error"]
    assert len(batch.packs[0].lengths) == 2


def test_a_reason_takes_a_line_of_the_log() -> None:
    class Chatty(Mixed):
        def conversation(self, index: int) -> list[dict[str, Any]]:
            raise RuntimeError("first\nsecond\n  third")

    assert conversations(Chatty("b"), 1)[0].skipped == ["sample 0: RuntimeError: first second third"]


def test_a_batch_of_broken_samples_alone_is_empty() -> None:
    assert conversations(Mixed("bbbb"))[0] == Batch(
        samples=4, skipped=[f"sample {index}: it is broken" for index in range(4)]
    )


@pytest.mark.parametrize("odd", [{"fps": 1e308}, {"fps": 10**30}, {"timestamps": {"0": 1.0}}], ids=str)
def test_values_that_nobody_means_do_not_end_the_run(odd: dict[str, Any], tmp_path: Path) -> None:
    video = Path(__file__).parents[1] / "docs" / "media" / "bunny.mp4"
    (tmp_path / "data.jsonl").write_text(line(video=str(video), **odd), encoding="utf-8")
    batch = conversations(Annotations(tmp_path / "data.jsonl"), 1)[0]
    assert [said.partition(":")[0] for said in batch.skipped] == ["data.jsonl line 1"]


def test_the_small_world_written_to_files_gives_the_same_batch(tmp_path: Path) -> None:
    world = TinyWorld(0, WORLD)
    files = Annotations(write([world[index] for index in range(8)], tmp_path))
    ours, expected = conversations(files, 8)[0], conversations(world, 8)[0]
    assert ours.skipped == []
    assert {"image", "video"} == set(ours.packs[0].modals)
    assert equal(*(replace(one.packs[0], sources=None) for one in (ours, expected)))  # but for their names


def test_samples_without_end_are_not_shuffled() -> None:
    world = TinyWorld(1, {"scene": 1.0})
    with pytest.raises(VL3Error, match=r"Plan\(shuffle=False, steps="):
        Conversations(world, processor(), 2)
    assert Conversations(world, processor(), 2, shuffle=False)[0].samples == 2
