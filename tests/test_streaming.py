"""A stream: frame by frame what the whole conversation gives at once, bounded, and undisturbed by what is asked."""

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import vl3ref
from tests.helpers import ROOT, run_page
from vl3ref.config import LanguageConfig, VisionConfig
from vl3ref.errors import InputError
from vl3ref.forgetting import Held, read_rule
from vl3ref.inputs.sources import frames_of
from vl3ref.inputs.videos import load_video
from vl3ref.model.diff_fp import keep_all
from vl3ref.model.initialise import random_model
from vl3ref.model.language_model import LanguageModel
from vl3ref.pruners import Above, cosine_change
from vl3ref.streaming import Stream

TINY = ROOT / "weights" / "vl3-tiny"
CLIP = ROOT / "docs" / "media" / "tinyworld" / "turns.mp4"
SIX = {"max_new_tokens": 6, "min_new_tokens": 6}
FRAME_TOKENS = 4096 // 180


@pytest.fixture(scope="module")
def loaded():
    """In float64: what is equal but for rounding differs by less than 1e-9 on any processor."""
    return vl3ref.load(TINY, device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def clip():
    """A clip in which most places stand still."""
    frames, times = load_video(CLIP)
    return list(zip(frames, times.tolist(), strict=True))


@pytest.fixture(scope="module")
def small(loaded):
    """A decoder of one block: keys and values do not depend on what else was in the cache."""
    config = replace(
        loaded[0].config,
        vision=VisionConfig(16, 16, 1, 2),
        language=LanguageConfig(1024, 16, 16, 1, 2, 1, eos_token_ids=(826,), tie_word_embeddings=True),
    )
    return random_model(config, seed=1, dtype=torch.float64), loaded[1]


def see_all(stream, clip):
    for frame, seconds in clip:
        stream.see(frame, seconds)
    return stream


def as_stream(clip):
    return [{"role": "stream", "content": [{"type": "image", "image": x, "timestamp": t}]} for x, t in clip]


def as_video(clip):
    return {"type": "video", "video": [frame for frame, _ in clip], "timestamps": [time for _, time in clip]}


def offline(processor, messages, frames, **options):
    """All at once. The frames of a stream are images to the processor, and one video to DiffFP."""
    inputs = processor(messages, max_tokens=FRAME_TOKENS * frames, **options)
    grid = torch.tensor([[frames, *inputs.grid_sizes[0, 1:].tolist()]])
    return replace(inputs, grid_sizes=grid, merge_sizes=inputs.merge_sizes[:1], modals=["video"], sources=None)


@pytest.fixture
def logits_of(monkeypatch):
    """Call something, and get its result and the logits that it computed."""

    def call(function, *arguments):
        rows, original = [], LanguageModel.head
        with monkeypatch.context() as patch:
            patch.setattr(LanguageModel, "head", lambda *given: rows.append(original(*given)) or rows[-1])
            return function(*arguments), torch.cat(rows)

    return call


# ------------------------------------------------------------------------------------------- equal to all of it at once


@pytest.mark.parametrize("pruner", [None, keep_all, Above(cosine_change, 0.02)], ids=["difffp", "all", "cosine"])
@pytest.mark.parametrize("layout", ["stream", "video"])
def test_an_answer_is_that_of_the_whole_conversation(loaded, clip, layout, pruner, logits_of):
    model, processor = loaded
    question = "When does the cross turn yellow?"
    stream = see_all(Stream(model, processor, layout=layout, pruner=pruner, **SIX), clip)
    said, ours = logits_of(lambda: "".join(stream.ask(question)))

    user = {"role": "user", "content": [as_video(clip), question] if layout == "video" else question}
    inputs = offline(processor, [user] if layout == "video" else [*as_stream(clip), user], len(clip))
    ids, theirs = logits_of(lambda: model.generate(inputs, pruner=pruner, **SIX)[0])
    assert said == processor.decode(ids)
    assert ours.argmax(1).tolist() == theirs.argmax(1).tolist() and (ours - theirs).abs().max() <= 1e-9
    kept = model(inputs, pruner=pruner, logits_to_keep=1).keep_mask
    assert pruner is keep_all or int(kept.sum()) < len(kept)
    last = len(processor.tokenizer.encode(f"\n{question}")[0]) + 5 if layout == "video" else None
    if last is not None:
        assert stream.cache.lengths[0] == len(inputs.input_ids) - int((~kept).sum()) - last


def test_a_conversation_goes_on_while_watching(loaded, clip):
    """What was told and said lies between the frames; to speak or to wait is decided after each."""
    model, processor = loaded
    stream = Stream(model, processor, "Be brief.", **SIX)
    stream.tell("Tell me when the cross turns yellow.")
    probabilities = []
    for frame, seconds in clip:
        stream.see(frame, seconds)
        probabilities.append(stream.speak_probability())
        assert stream.should_speak() == (probabilities[-1] > 0.5)
        if seconds == 2:
            said = "".join(stream.speak())
    assert stream.frames[2].tokens > stream.frames[1].tokens + 6  # it goes with its frame

    told = {"role": "user", "content": "Tell me when the cross turns yellow."}
    messages = [{"role": "system", "content": "Be brief."}, told, *as_stream(clip)]
    messages.insert(5, {"role": "assistant", "content": said})
    inputs = offline(processor, messages, len(clip), add_generation_prompt=False)
    output = model(inputs)
    special = processor.tokenizer.special
    kept = torch.ones_like(inputs.input_ids, dtype=torch.bool)
    kept[inputs.input_ids == 829] = output.keep_mask
    decided = inputs.input_ids[kept] == special("<|stream_end|>")
    rows = output.logits[decided][:, [special("<|im_start|>"), special("<|stream_start|>")]]
    assert rows.softmax(1)[:, 0].tolist() == pytest.approx(probabilities, abs=1e-9)
    assert stream.cache.lengths == output.lengths.tolist()


def test_what_is_asked_leaves_no_trace(loaded, clip):
    quiet = see_all(Stream(*loaded, **SIX), clip)
    asked, answers = Stream(*loaded, **SIX), []
    for frame, seconds in clip:
        asked.see(frame, seconds)
        answers.append(asked.ask("What is it?"))
        next(answers[-1])
    texts = ["".join(answer) for answer in answers]  # read on after all later frames
    assert texts[-1] in "".join(quiet.ask("What is it?"))
    for ours, theirs in zip(asked.cache.keys, quiet.cache.keys, strict=True):
        held = quiet.cache.lengths[0]
        assert asked.cache.lengths == [held] and torch.equal(ours[:, :, :held], theirs[:, :, :held])
    assert asked.speak_probability() == quiet.speak_probability()


def test_another_thread_reads_while_this_one_watches(loaded, clip):
    quiet, stream = (see_all(Stream(*loaded, **SIX), clip[:3]) for _ in range(2))
    expected = "".join(quiet.ask("What is it?"))
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit("".join, stream.ask("What is it?"))
        see_all(stream, clip[3:])
        assert answer.result(60) == expected
    see_all(quiet, clip[3:])
    assert stream.speak_probability() == quiet.speak_probability()


def test_what_is_heard_of_words_cut_short_stays(loaded, clip):
    stream = see_all(Stream(*loaded, **SIX), clip)
    before = stream.cache.lengths[0]
    words = stream.speak()
    next(words)
    words.close()
    whole = see_all(Stream(*loaded, **SIX), clip)
    list(whole.speak())
    assert before < stream.cache.lengths[0] < whole.cache.lengths[0]
    stream.speak()  # never read: never said
    assert stream.cache.lengths[0] < whole.cache.lengths[0]


# --------------------------------------------------------------------------------------------------------- forgetting


def test_positions_stay_when_slots_are_closed(small):
    """With one block, what is left gives what the same tokens give at the same positions, all at once."""
    decoder = small[0].language_model
    ids, kept = torch.arange(20), torch.tensor([0, 1, 2, 9, 10, 11, 12, 18])
    with torch.inference_mode():
        cache = decoder.new_cache(1)
        decoder(ids, cache=cache)
        fork = cache.fork(room=3)
        fork.forget(kept)
        assert fork.lengths == [8] and fork.next_positions == [20] and cache.lengths == [20]
        after = torch.arange(40, 45)
        ours = [decoder.hidden(x, [len(x)], fork) for x in (after[:4], after[4:])]  # several tokens, and one
        positions = torch.cat([kept, torch.arange(20, 25)])
        theirs = decoder.hidden(torch.cat([ids[kept], after]), [13], positions=positions)
        assert (torch.cat(ours) - theirs[8:]).abs().max() <= 1e-9
        assert fork.next_positions == [25]
        decoder(torch.arange(3), cache=cache)  # the original goes on by itself
        assert cache.next_positions == [23]


def test_a_stream_that_forgot_is_the_frames_that_are_left(small, clip, logits_of):
    model, processor = small
    frames = [(frame, float(second)) for second, (frame, _) in enumerate(clip * 4)]
    stream = see_all(Stream(model, processor, most_tokens=200, pruner=keep_all, **SIX), frames)
    assert 0 < len(stream.frames) < len(frames) and stream.cache.lengths[0] <= 200
    _, ours = logits_of(lambda: list(stream.ask("What is it?")))

    messages = [*as_stream(frames), {"role": "user", "content": "What is it?"}]
    inputs = offline(processor, messages, len(frames))
    starts = (inputs.input_ids == processor.tokenizer.special("<|stream_start|>")).nonzero()[:, 0]
    stays = torch.ones_like(inputs.input_ids, dtype=torch.bool)
    stays[starts[0] : starts[stream.frames[0].number]] = False
    with torch.inference_mode():
        x = model.splice(inputs, keep_all).embeddings[stays]
        hidden = model.language_model.hidden(x, [len(x)], positions=stays.nonzero()[:, 0])
        theirs = model.language_model.head(hidden[-1:])
    assert (ours[0] - theirs).abs().max() <= 1e-9


def test_what_left_with_a_frame_is_shown_again(small):
    """Of a picture that stands still DiffFP keeps one token a frame, until the first frame leaves."""
    still = np.full((56, 56, 3), 100, dtype=np.uint8)
    stream = Stream(*small, most_tokens=150)
    tokens = []
    for second in range(40):
        stream.see(still, second)
        tokens.append(stream.frames[-1].tokens)
        assert any(held.tokens >= 17 for held in stream.frames) and stream.cache.lengths[0] <= 150
    assert tokens[0] == 17 and tokens[1] == 14 and tokens.count(17) + tokens.count(18) > 2 and tokens[-1] in (15, 18)


@pytest.mark.parametrize("seconds", [60, pytest.param(3600, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", ["oldest", "every=4"])
def test_the_cache_stays_bounded(small, rule, seconds):
    picture = np.random.default_rng(0).integers(0, 256, (4, 56, 56, 3), dtype=np.uint8)
    stream = Stream(*small, most_tokens=300, forget=read_rule(rule), allow_long=True)
    for second in range(seconds):
        stream.see(picture[second % 4], second)
        assert stream.cache.lengths[0] == sum(held.tokens for held in stream._held) <= 300
        assert stream.cache.keys[0].shape[2] == stream.cache.capacity <= 600
    numbers = [held.number for held in stream.frames]
    assert 4 < len(numbers) < 20 and numbers[-1] == seconds - 1
    if rule == "oldest":
        assert numbers == [*range(numbers[0], seconds)]
    else:
        old = numbers[: len(numbers) // 3]
        assert numbers[0] < seconds - 20 and all(number % 4 == 0 for number in old)


def held(*tokens):
    return [Held(number, float(number), count) for number, count in enumerate(tokens)]


@pytest.mark.parametrize(
    ("rule", "tokens", "leave"),
    [
        ("oldest", 0, []),
        ("oldest", 1, [0]),
        ("oldest", 10, [0]),
        ("oldest", 11, [0, 1]),
        ("oldest", 80, [*range(8)]),
        ("every=2", 1, [1]),
        ("every=2", 20, [1, 3]),
        ("every=2", 21, [0, 1, 3]),
        ("every=2", 41, [0, 1, 2, 3, 4]),
        ("every=3", 20, [1, 2]),
        ("every=1", 20, [0, 1]),
    ],
)
def test_rules(rule, tokens, leave):
    assert sorted(frame.number for frame in read_rule(rule)(held(*[10] * 8), tokens)) == leave


def test_watching_past_the_trained_positions_is_said_once(small):
    model, processor = small
    config = replace(model.config.language, max_position_embeddings=100)
    picture = np.zeros((56, 56, 3), dtype=np.uint8)
    model.language_model.config, before = config, model.language_model.config
    try:
        stream = Stream(model, processor, most_tokens=90)
        with pytest.warns(UserWarning, match="100 positions have been watched") as seen:
            see_all(stream, [(picture, second) for second in range(20)])
        assert len(seen) == 1
    finally:
        model.language_model.config = before


# ------------------------------------------------------------------------------------------------------------- sources


def test_frames_of_a_file_come_as_they_are_sampled(clip):
    seen = list(frames_of(CLIP, 2, 1, 3))
    frames, times = load_video(CLIP, 2, None, 1, 3)
    assert [time for _, time in seen] == times.tolist()
    assert all(np.array_equal(frame, expected) for (frame, _), expected in zip(seen, frames, strict=True))
    assert list(frames_of(iter(clip))) == clip


def camera(monkeypatch, frames, opened=True):
    """Stands in for OpenCV, and for the clock: a frame every 0.4 seconds."""
    shown, clock, released = iter(frames), iter(range(1000)), []

    def now():
        return 5 + 0.4 * (next(clock) // 2)

    device = SimpleNamespace(
        isOpened=lambda: opened,
        set=lambda *_: None,
        read=lambda: (True, frame) if (frame := next(shown, None)) is not None else (False, None),
        release=lambda: released.append(True),
    )
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=lambda n: device, CAP_PROP_BUFFERSIZE=38))
    monkeypatch.setattr("vl3ref.inputs.sources.time.monotonic", now)
    return released


def test_a_camera_is_read_at_the_rate_asked_for(monkeypatch):
    blue_first = np.zeros((4, 4, 3), dtype=np.uint8) + np.array([1, 2, 3], dtype=np.uint8)
    released = camera(monkeypatch, [blue_first] * 9)
    frames = frames_of("camera:1", 1)
    taken = list(islice(frames, 2))
    assert taken[0][0][0, 0].tolist() == [3, 2, 1] and taken[0][1] == 0 and taken[1][1] >= 1
    with pytest.raises(InputError, match="camera 1 gives no more frames"):
        list(frames)
    assert released == [True]


def test_a_camera_that_is_not_there(monkeypatch):
    released = camera(monkeypatch, [], opened=False)
    with pytest.raises(InputError, match="camera 0 cannot be opened"):
        next(frames_of("camera"))
    assert released == [True]
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"pip install 'vl3ref\[camera\]'"):
        next(frames_of("camera"))


# -------------------------------------------------------------------------------------------------------------- watch


def test_watch_speaks_when_the_model_wants_to(loaded, clip, monkeypatch):
    wanted = iter([False, True, False, False, True, False])
    monkeypatch.setattr(Stream, "should_speak", lambda self, threshold: next(wanted))
    stream = Stream(*loaded, **SIX)
    said = list(stream.watch(CLIP, "Tell me when the cross turns yellow."))
    assert [seconds for seconds, _ in said] == [1, 4] and all(text for _, text in said)
    assert [held.number for held in stream.frames] == [*range(6)]


def test_watch_asks_every_so_often(loaded, clip):
    stream = Stream(*loaded, layout="video")
    said = list(stream.watch(iter(clip), "Which color is the cross?", every=2))
    assert [seconds for seconds, _ in said] == [0, 2, 4]
    shown = see_all(Stream(*loaded, layout="video"), clip[:3])
    assert said[1][1] == "".join(shown.ask("Which color is the cross?"))


# ------------------------------------------------------------------------------------------------------------- refusals

PICTURE = np.zeros((56, 56, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("made", "used", "message"),
    [
        ({"frame_tokens": 0}, None, "frame_tokens should be a whole number"),
        ({"most_tokens": 1.5}, None, "most_tokens should be a whole number"),
        ({"layout": "chat"}, None, "layout should be stream or video"),
        ({"forget": "oldest"}, None, "forget should be a function"),
        ({"most_tokens": 10}, None, "do not fit into most_tokens=10"),
        ({"most_tokens": 40}, lambda s: s.see(PICTURE, 0), "most_tokens=40, of which 26 are words that stay"),
        ({"most_tokens": 60}, lambda s: s.tell("much " * 50), "do not fit into most_tokens=60"),
        (
            {"most_tokens": 80, "forget": lambda frames, tokens: frames[:0]},
            lambda s: [s.see(PICTURE, t) for t in range(9)],
            "freed too little",
        ),
        ({}, lambda s: s.see("missing.png", 0), "does not exist"),
        ({}, lambda s: s.see(PICTURE, "now"), "seconds should be a number"),
        ({}, lambda s: s.see(PICTURE, float("nan")), "seconds should be a number"),
        ({}, lambda s: [s.see(PICTURE, t) for t in (1, 0.5)], "the frame at 0.5 s comes after one at 1 s"),
        ({}, lambda s: [s.see(x, 0) for x in (PICTURE, PICTURE[:28])], "is 28 x 56, those before are 56 x 56"),
        ({}, lambda s: s.should_speak(), "see one first"),
        ({}, lambda s: s.should_speak(1.5), "threshold should be a probability"),
        ({}, lambda s: [s.see(PICTURE, 0), s.tell("Hm."), s.should_speak()], "see one first"),
        ({"layout": "video"}, lambda s: s.ask("What?"), "see one first"),
        ({"layout": "video"}, lambda s: s.tell("Hm."), 'belong to layout="stream"'),
        ({"layout": "video"}, lambda s: s.speak(), 'belong to layout="stream"'),
        ({}, lambda s: list(s.watch(CLIP, "What?", every=0)), "every should be a number of seconds"),
        ({}, lambda s: list(s.watch("nowhere.mp4", "What?")), "does not exist"),
        ({}, lambda s: list(s.watch(CLIP, "What?", fps=-1)), "fps should be a number above 0"),
        ({}, lambda s: list(s.watch([PICTURE], "What?")), "should yield pairs"),
        ({}, lambda s: list(s.watch(7, "What?")), "should yield pairs"),
        ({}, lambda s: list(s.watch([(PICTURE, None)], "What?")), "seconds should be a number"),
    ],
)
def test_what_cannot_be_watched_is_said_in_a_sentence(small, made, used, message):
    with pytest.raises(InputError, match=message):
        used(Stream(*small, **made))


@pytest.mark.parametrize("text", ["", "newest", "every", "every=", "every=0", "every=-1", "every=x", "oldest=2"])
def test_rules_that_there_are_not(text):
    with pytest.raises(InputError, match=r"rule oldest, or every=N|every n-th frame"):
        read_rule(text)


def test_a_frame_that_is_refused_changes_nothing(loaded, clip):
    stream, expected = (see_all(Stream(*loaded, **SIX), clip[:3]) for _ in range(2))
    for frame, seconds in ((clip[3][0][:28], 3), (clip[3][0], 1), (clip[3][0].astype(float), 3)):
        with pytest.raises(InputError):
            stream.see(frame, seconds)
    for one in (stream, expected):
        see_all(one, clip[3:])
    assert stream.speak_probability() == expected.speak_probability() and stream.frames == expected.frames


def test_values_that_are_not_finite_do_not_pass_for_silence(small):
    stream = Stream(*small)
    stream.see(PICTURE, 0)
    stream._hidden = stream._hidden * torch.nan
    with pytest.raises(InputError, match="not finite"):
        stream.should_speak()


# ----------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def load_once(monkeypatch, loaded):
    monkeypatch.setattr(vl3ref, "load", lambda *_, **__: loaded)


def test_vl3ref_watch(vl3ref_main, load_once):
    out, err = vl3ref_main("watch", CLIP, "Which color is the cross?", "--every", "2")
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["0.0s", "2.0s", "4.0s"] and all(line[6:] for line in lines)
    assert "a synthetic world" in err
    out, _ = vl3ref_main("watch", CLIP, "What?", "--threshold", "0", "--max-tokens", "3", "--fps", "2", "--end", "2")
    assert [line.split("  ")[0] for line in out.splitlines()] == ["0.0s", "0.5s", "1.0s", "1.5s"]
    assert vl3ref_main("watch", CLIP, "What?", "--threshold", "1", "--forget", "every=2")[0] == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4", "What?"], "does not exist"),
        ([ROOT / "docs" / "media" / "cat.jpg", "What?"], "is a picture; watch a video, or a camera"),
        ([CLIP, " "], "the question is empty"),
        ([CLIP, "What?", "--forget", "newest"], "oldest, or every=N"),
        ([CLIP, "What?", "--every", "-1"], "every should be"),
        ([CLIP, "What?", "--most-tokens", "10"], "most_tokens=10"),
        ([CLIP, "What?", "--fps", "0"], "fps should be"),
        ([CLIP], "QUESTION"),
    ],
)
def test_vl3ref_watch_refuses_in_a_line(vl3ref_main, load_once, arguments, message):
    out, err = vl3ref_main("watch", *arguments, rc=2)
    assert out == "" and message in err and err.count("\n") <= 2


# --------------------------------------------------------------------------------------------------------------- docs


def test_the_recipe_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copy(CLIP, "clip.mp4")
    names = run_page("recipes/streaming.md")
    assert names["answer"] == "at 3.0 seconds" and names["stream"].cache.lengths[0] <= 2000
