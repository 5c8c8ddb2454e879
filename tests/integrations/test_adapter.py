"""The lmms-eval adapter's own logic, beside a stand-in of the few names of lmms-eval that it uses.

The real lmms-eval drives it in test_lmms_eval.py, in an environment of its own.
"""

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import ROOT
from tests.media import write_numbered, write_sound
from vl3ref.errors import InputError
from vl3ref.generation import score
from vl3ref.integrations.lmms_requests import as_conversation, as_part, generation_options

MEDIA = ROOT / "docs" / "media" / "tinyworld"
PICTURE, CLIP, OTHER_CLIP = (str(MEDIA / name) for name in ("chart.png", "moves.mp4", "turns.mp4"))
OWN = "vl3ref.integrations.lmms_eval"
GREEDY = {"max_new_tokens": 12, "temperature": 0, "do_sample": False, "until": ["\n\n"]}

DOCS: list[dict[str, Any]] = [
    {"question": "How high is the green bar?", "image": PICTURE},
    {"question": "Where does the red circle move?", "video": CLIP},
    {"question": "When does the cross turn yellow?", "video": OTHER_CLIP},
    {"question": "What changed?", "image": PICTURE, "video": CLIP, "more": PICTURE},
    {"question": "Which colours are there?"},
]


class StandIn:
    """lmms_eval.api.model.lmms, as far as an adapter sees it."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size, self.task_dict = 0, 1, {}

    @property
    def rank(self) -> int:
        return self._rank

    def clean(self) -> None:
        for name in [name for name, value in vars(self).items() if isinstance(value, torch.nn.Module)]:
            delattr(self, name)


@dataclass
class TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class GenerationResult:
    text: str
    token_counts: TokenCounts | None = None


@pytest.fixture(scope="module")
def adapter_module() -> Any:
    """vl3ref.integrations.lmms_eval on top of the stand-in; both are forgotten afterwards."""
    names = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {
            "GenerationResult": GenerationResult,
            "TokenCounts": TokenCounts,
            "Instance": object,
        },
        "lmms_eval.api.model": {"lmms": StandIn},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": SimpleNamespace},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, OWN, raising=False)
        for name, members in names.items():
            module = ModuleType(name)
            module.__dict__.update(members)
            patch.setitem(sys.modules, name, module)
        yield import_module(OWN)
        sys.modules.pop(OWN, None)


@pytest.fixture(scope="module")
def model(adapter_module: Any) -> Any:
    lm = adapter_module.VL3Ref(device="cpu", batch_size=3)
    lm.task_dict = {"task": {"test": DOCS}}
    return lm


def messages_of(doc: dict[str, Any]) -> list[dict[str, Any]]:
    content = [
        {"type": "video" if name == "video" else "image", "url": doc[name]}
        for name in ("image", "video", "more")
        if name in doc
    ]
    return [{"role": "user", "content": [*content, {"type": "text", "text": doc["question"]}]}]


def chat(number: int, options: dict[str, Any] = GREEDY) -> Any:
    return SimpleNamespace(args=("", messages_of, options, number, "task", "test"))


def own_answer(model: Any, number: int, **options: Any) -> str:
    """What `generate` answers to a document by itself."""
    inputs = model.processor(as_conversation(messages_of(DOCS[number])), add_system_prompt=False)
    return str(model.processor.decode(model.model.generate(inputs, max_new_tokens=12, **options)[0]))


def texts(results: Any) -> list[str]:
    return [result.text for result in results]


def test_lmms_eval_finds_it() -> None:
    entry = '[project.entry-points."lmms_eval.models"]\nvl3ref = "vl3ref.integrations.lmms_eval:manifest"\n'
    assert entry in (ROOT / "pyproject.toml").read_text("utf-8")


def test_the_manifest_names_its_classes(adapter_module: Any) -> None:
    manifest = adapter_module.manifest
    for path, simple in ((manifest.chat_class_path, False), (manifest.simple_class_path, True)):
        home, _, name = path.rpartition(".")
        assert home == adapter_module.__name__ and getattr(adapter_module, name).is_simple is simple


def test_without_lmms_eval_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, OWN, raising=False)
    monkeypatch.setitem(sys.modules, "lmms_eval.api.instance", None)
    with pytest.raises(ImportError, match=r"needs lmms-eval 0\.7"):
        import_module(OWN)


@pytest.mark.parametrize("size", [1, 3])
def test_answers_are_generates_in_the_order_of_the_requests(model: Any, size: int) -> None:
    """Of images, videos, both and neither; different options between equal ones; a request twice, as padding is."""
    short = {**GREEDY, "max_new_tokens": 2}
    numbers = [2, 0, 1, 3, 0, 4, 2]
    model.batch_size = size
    results = model.generate_until([chat(n, short if n == 1 else GREEDY) for n in numbers])
    own = {n: own_answer(model, n) for n in set(numbers)}
    assert [text for n, text in zip(numbers, texts(results), strict=True) if n != 1] == [
        own[n] for n in numbers if n != 1
    ]
    assert own[1].startswith(results[2].text) and results[2].token_counts.output_tokens == 2
    assert results[0].token_counts.input_tokens > 50


def test_simple_requests_hold_the_visuals_before_the_text(adapter_module: Any, model: Any) -> None:
    def visuals(doc: dict[str, Any]) -> list[Any]:
        return [Image.open(doc["image"]), doc["video"], Image.open(doc["more"])]

    args = (DOCS[3]["question"], GREEDY, visuals, 3, "task", "test")
    assert texts(adapter_module.VL3Ref.generate_until(model, [SimpleNamespace(args=args)])) == [own_answer(model, 3)]


def test_until_ends_an_answer_and_is_no_part_of_it(model: Any) -> None:
    own = own_answer(model, 2)
    middle = own[len(own) // 2]
    [result] = model.generate_until([chat(2, {**GREEDY, "until": [middle, "\n\n"]})])
    assert result.text == own[: own.index(middle)]
    assert result.token_counts.output_tokens <= len(model.processor.tokenizer.encode(own)[0])  # nothing after it
    assert texts(model.generate_until([chat(2, {**GREEDY, "until": middle})])) == [result.text]


def test_samples_do_not_depend_on_the_batch_size(model: Any) -> None:
    options = {"max_new_tokens": 8, "temperature": 1.5, "top_p": 0.95}
    requests = [chat(4, options) for _ in range(4)]
    torch.manual_seed(3)
    drawn = []
    for size in (1, 4):
        model.batch_size = size
        drawn.append(texts(model.generate_until(requests)))
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 1
    torch.manual_seed(4)
    assert texts(model.generate_until(requests)) != drawn[0]


def test_beams_are_beam_search(model: Any) -> None:
    from vl3ref.beam_search import beam_search

    inputs = model.processor(as_conversation(messages_of(DOCS[0])), add_system_prompt=False)
    [ids] = beam_search(model.model, inputs, 3, 12)
    assert texts(model.generate_until([chat(0, {**GREEDY, "num_beams": 3})])) == [model.processor.decode(ids)]


def test_likelihoods_are_scores(adapter_module: Any, model: Any) -> None:
    """A right answer is also what greedy decoding begins with; a space in front is no part of it."""
    said = own_answer(model, 1)
    options = [f" {said}", "to the left", "nowhere"]

    def visuals(doc: dict[str, Any]) -> list[Any]:
        return [doc["video"]]

    requests = [SimpleNamespace(args=(DOCS[1]["question"], text, visuals, 1, "task", "test")) for text in options]
    results = model.loglikelihood(requests)
    inputs = model.processor(as_conversation(messages_of(DOCS[1])), add_system_prompt=False)
    expected = score(model.model, inputs, [text.strip() for text in options], model.processor)
    assert [likelihood for likelihood, _ in results] == pytest.approx(expected.tolist(), rel=1e-5)
    assert [is_greedy for _, is_greedy in results] == [text.strip() == said for text in options]
    losses = adapter_module.SimpleVL3Ref.loglikelihood(simple_copy(adapter_module, model), requests)
    assert [loss.text for loss in losses] == [(-likelihood, is_greedy) for likelihood, is_greedy in results]
    [(likelihood, _)] = model.loglikelihood([SimpleNamespace(args=("", "A"))])
    assert likelihood < 0


def simple_copy(adapter_module: Any, model: Any) -> Any:
    copy = object.__new__(adapter_module.SimpleVL3Ref)
    copy.__dict__.update(vars(model))
    return copy


def test_rounds_go_on_until_the_task_says_so(adapter_module: Any, model: Any) -> None:
    heard = []

    def ask(doc: dict[str, Any], round_idx: int | None = None, previous_output: Any = None, **_: Any) -> Any:
        heard.append((round_idx, list(previous_output or [])))
        messages = messages_of(DOCS[round_idx or 0])
        return messages if round_idx is None else (messages, round_idx == 3, None, None)

    request = SimpleNamespace(args=("", ask, GREEDY, 0, "task", "test"))
    expected = [own_answer(model, number) for number in range(3)]
    assert model.generate_until_multi_round([request]) == [expected]
    assert heard == [(None, []), *((number, expected[:number]) for number in (1, 2, 3))]
    with pytest.raises(InputError, match="without --force_simple"):
        simple_copy(adapter_module, model).generate_until_multi_round([request])


def test_rounds_without_an_end_are_refused(adapter_module: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_module, "MOST_ROUNDS", 2)

    def ask(doc: dict[str, Any], round_idx: int | None = None, **_: Any) -> Any:
        return messages_of(doc) if round_idx is None else (messages_of(doc), False, ["as the task has it"], None)

    endless = SimpleNamespace(args=("", ask, {"max_new_tokens": 1}, 4, "task", "test"))
    with pytest.raises(InputError, match="task, document 4: the task asks for more than 2 rounds"):
        model.generate_until_multi_round([endless])
    once = SimpleNamespace(args=("", messages_only, {"max_new_tokens": 1}, 4, "task", "test"))
    assert len(model.generate_until_multi_round([once])[0]) == 1


def messages_only(doc: dict[str, Any], **_: Any) -> Any:
    return messages_of(doc)


def test_it_answers_again_after_it_was_cleaned(model: Any) -> None:
    before = texts(model.generate_until([chat(0)]))
    model.clean()
    assert not hasattr(model, "_model")
    assert texts(model.generate_until([chat(0)])) == before


def test_a_broken_file_is_named_with_its_document(model: Any, tmp_path: Path) -> None:
    model.task_dict["broken"] = {"val": [{"question": "?", "video": str(tmp_path / "none.mp4")}]}
    request = SimpleNamespace(args=("", messages_of, GREEDY, 0, "broken", "val"))
    with pytest.raises(InputError, match=r"^broken, document 0: .*none\.mp4.* does not exist"):
        model.generate_until([request])


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({}, 1),
        ({"batch_size": "4"}, 4),
        ({"batch_size": 8, "max_batch_size": 4}, 4),
        ({"batch_size": "auto", "max_batch_size": 6}, 6),
    ],
)
def test_batch_sizes(adapter_module: Any, arguments: dict[str, Any], size: int) -> None:
    assert adapter_module.VL3Ref(device="cpu", **arguments).batch_size == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size should be at least 1"),
        ({"batch_size": "auto"}, 'or "auto" beside a max_batch_size, not None'),
        ({"batch_size": "many"}, "not 'many'"),
        ({"fps": 0}, "fps should be a number above 0"),
        ({"attn_implementation": "sdpa"}, "the processor has no option 'attn_implementation'"),
    ],
)
def test_wrong_arguments_are_refused(adapter_module: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        adapter_module.VL3Ref(device="cpu", **arguments)


# --------------------------------------------------------------------------------------------------- options, messages

DEFAULTS = {"max_new_tokens": 2048, "repetition_penalty": 1.0}
PLAIN = {"max_new_tokens": 2048, "repetition_penalty": 1.0, "stop": []}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PLAIN),
        ({"max_new_tokens": 16.0, "temperature": 0.0, "top_p": 0, "num_beams": 1}, PLAIN | {"max_new_tokens": 16}),
        ({"max_gen_toks": 5, "do_sample": False, "temperature": 0.7}, PLAIN | {"max_new_tokens": 5}),
        ({"max_new_tokens": None, "until": None}, PLAIN),
        ({"until": ["\n\n", ""]}, PLAIN | {"stop": ["\n\n"]}),
        ({"until": "ASSISTANT:"}, PLAIN | {"stop": ["ASSISTANT:"]}),
        ({"repetition_penalty": 1.1}, PLAIN | {"repetition_penalty": 1.1}),
        ({"do_sample": True}, PLAIN | {"temperature": 1.0, "top_p": None, "top_k": None, "seed": 7}),
        (
            {"temperature": 0.5, "top_p": 0.9, "top_k": 0},
            PLAIN | {"temperature": 0.5, "top_p": 0.9, "top_k": None, "seed": 7},
        ),
        ({"num_beams": 4, "until": ["x"]}, {"max_new_tokens": 2048, "beams": 4, "length_penalty": 1.0}),
    ],
)
def test_generation_options(options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert generation_options(options, DEFAULTS, seed=7) == expected


def test_options_of_other_models_are_left_out_with_a_word() -> None:
    with pytest.warns(UserWarning, match="left out: image_aspect_ratio, use_cache"):
        assert generation_options({"image_aspect_ratio": "original", "use_cache": True}, DEFAULTS, 7) == PLAIN
    with pytest.raises(InputError, match="beam search does not sample"):
        generation_options({"num_beams": 2, "temperature": 0.5}, DEFAULTS, 7)


FRAMES = [Image.new("RGB", (8, 8))] * 2


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "text", "text": "hi"}, {"type": "text", "text": "hi"}),
        ({"type": "image", "url": "a.PNG"}, {"type": "image", "image": "a.PNG"}),
        ({"type": "image", "image": "a.png"}, {"type": "image", "image": "a.png"}),
        ({"type": "video", "url": "a.mkv"}, {"type": "video", "video": "a.mkv"}),
        ({"type": "video", "url": FRAMES}, {"type": "video", "video": FRAMES}),
        ({"type": "audio", "url": "a.webm"}, {"type": "video", "video": "a.webm"}),
        (
            {"type": "video", "url": "a.mp4", "start_time": 0, "end_time": None},
            {"type": "video", "video": "a.mp4", "start_time": 0},
        ),
        (
            {"type": "video", "url": {"type": "video", "path": "a.mp4", "video_start": 1.5, "video_end": 4}},
            {"type": "video", "video": "a.mp4", "start_time": 1.5, "end_time": 4},
        ),
    ],
)
def test_parts(part: dict[str, Any], expected: dict[str, Any]) -> None:
    assert as_conversation([{"role": "user", "content": [part]}]) == [{"role": "user", "content": [expected]}]


def test_parts_of_tasks_without_messages(tmp_path: Path) -> None:
    """A GIF that moves is a video, one that does not a picture; what cannot be seen is refused by the processor."""
    moving, still = tmp_path / "moving.GIF", tmp_path / "still.gif"
    frames = [Image.fromarray(np.full((28, 28, 3), value, np.uint8)) for value in (0, 250)]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    frames[0].save(still)
    cut = {"path": "a.mp4", "video_start": 1}
    visuals = [frames[0], "a.JPG", Path("a.avi"), str(moving), str(still), cut, str(tmp_path / "no.gif")]
    [message] = as_conversation([{"role": "user", "content": [as_part(visual) for visual in visuals]}])
    kinds = ["image", "image", "video", "video", "image", "video", "image"]
    assert [part["type"] for part in message["content"]] == kinds
    assert message["content"][5] == {"type": "video", "video": "a.mp4", "start_time": 1}


def test_any_container_is_seen_and_sound_is_refused(model: Any, tmp_path: Path) -> None:
    files = [
        write_numbered(tmp_path / "a.MKV", "libx264", count=50),
        write_numbered(tmp_path / "b.webm", "libvpx", count=50),
        write_numbered(tmp_path / "c.avi", "mpeg4", count=50),
    ]
    sound = write_sound(tmp_path / "d.m4a")
    model.task_dict["containers"] = {"test": [{"file": str(file)} for file in [*files, sound]]}

    def ask(doc: dict[str, Any]) -> Any:
        kind = "audio" if doc["file"].endswith((".webm", ".m4a")) else "video"  # as lmms-eval has it
        return [{"role": "user", "content": [{"type": kind, "url": doc["file"]}, {"type": "text", "text": "What?"}]}]

    def request(number: int) -> Any:
        return SimpleNamespace(args=("", ask, {"max_new_tokens": 1}, number, "containers", "test"))

    counts = [result.token_counts.input_tokens for result in model.generate_until([request(n) for n in range(3)])]
    assert len(set(counts)) == 1
    with pytest.raises(InputError, match="containers, document 3: "):
        model.generate_until([request(3)])
