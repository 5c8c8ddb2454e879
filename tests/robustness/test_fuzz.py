"""A small, fixed number of mutations; `make fuzz` tries new ones for an hour. Valid inputs are always taken."""

import subprocess
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vl3ref
from tests.helpers import ROOT
from tests.robustness import fuzz

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
SIDES = st.integers(1, 90)


@pytest.fixture(scope="module")
def tiny() -> tuple[vl3ref.VideoLLaMA3, vl3ref.Processor]:
    return vl3ref.load(ROOT / "weights" / "vl3-tiny", device="cpu")


def test_mutations_are_taken_or_refused() -> None:
    counts, findings = fuzz.run([*fuzz.targets()], seed=0, first=0, count=380)
    assert not findings and counts.total() == 380


def test_a_process_that_ends_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that crashes in case 1 is found, and case 2 begins a new process."""
    printed = ["0\tpng\ttaken\n1\tpng\t", "2\tpng\trefused\n"]
    begun: list[str] = []

    def ended(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        begun.append(command[-2])
        return subprocess.CompletedProcess(command, -11 if len(begun) == 1 else 0, printed[len(begun) - 1], "")

    monkeypatch.setattr(fuzz.subprocess, "run", ended)
    counts, findings = fuzz.run(["png"], seed=5, first=0, count=3)
    assert begun == ["0", "2"] and counts == {"png taken": 1, "png FOUND": 1, "png refused": 1}
    assert findings == ["--targets 'png' --seed 5 --first 1 --count 1: FOUND the process ended with -11: "]


@st.composite
def parts(draw: Any) -> dict[str, Any]:
    """A valid part of a message: text, a picture, or a video with or without times."""
    kind = draw(st.sampled_from(["text", "image", "video"]))
    if kind == "text":
        return {"type": "text", "text": draw(TEXTS)}
    chance = np.random.default_rng(draw(st.integers(0, 9)))
    if kind == "image":
        return {"type": "image", "image": chance.integers(0, 256, (draw(SIDES), draw(SIDES), 3), np.uint8)}
    frames = chance.integers(0, 256, (draw(st.integers(1, 4)), draw(SIDES), draw(SIDES), 3), np.uint8)
    times = draw(st.none() | st.lists(st.floats(0, 1e6), min_size=len(frames), max_size=len(frames), unique=True))
    return {"type": "video", "video": frames} | ({} if times is None else {"timestamps": sorted(times)})


CONVERSATIONS = st.lists(
    st.lists(parts(), max_size=3).map(lambda content: {"role": "user", "content": content}), min_size=1, max_size=3
)


@settings(max_examples=12)
@given(
    conversations=st.lists(CONVERSATIONS, min_size=1, max_size=3),
    budget=st.integers(8, 200),
    merge=st.integers(1, 3),
    temperature=st.sampled_from([0.0, 0.5, 3.0]),
    top_k=st.none() | st.integers(1, 2000),
    top_p=st.none() | st.floats(1e-6, 1),
    seed=st.integers(0, 2**62),
    new=st.integers(1, 4),
)
def test_valid_inputs_are_answered(
    tiny: tuple[vl3ref.VideoLLaMA3, vl3ref.Processor],
    conversations: list[list[dict[str, Any]]],
    budget: int,
    merge: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    new: int,
) -> None:
    model, processor = tiny
    inputs = processor(conversations, max_tokens=budget, image_merge_size=merge, video_merge_size=merge)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    answers = model.generate(inputs, max_new_tokens=new, **options)
    assert len(answers) == len(conversations) and all(1 <= len(answer) <= new for answer in answers)
    assert all(isinstance(processor.decode(answer), str) for answer in answers)
    again = model.generate(inputs, max_new_tokens=new, **options)
    assert all(one.equal(other) for one, other in zip(answers, again, strict=True))
