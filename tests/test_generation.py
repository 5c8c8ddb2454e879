"""Sampling as transformers does it, the cache, batches, streaming."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

import vl3ref
from tests.goldens_cases import NAMES, golden, inputs_of
from tests.helpers import GOLDENS, ROOT
from tests.media import noise
from vl3ref import InputError
from vl3ref.checkpoints import load_language_model, load_model
from vl3ref.generation import generate, score, stream
from vl3ref.model.language_model import GatedMLP, LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs, join
from vl3ref.sampling import Sampler, Sampling

quick = settings(max_examples=50)
ENDS = torch.tensor([3])


@pytest.fixture(scope="module")
def model() -> VideoLLaMA3:
    return load_model(GOLDENS / "official-tiny", device="cpu")


@pytest.fixture(scope="module")
def decoder() -> LanguageModel:
    return load_language_model(GOLDENS / "official-tiny", device="cpu")


@pytest.fixture(scope="module")
def wide() -> LanguageModel:
    """The decoder in float64: what is equal but for rounding differs by less than 1e-9 on any processor."""
    return load_language_model(GOLDENS / "official-tiny", device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def reference() -> transformers.VideoLlama3ForConditionalGeneration:
    return transformers.VideoLlama3ForConditionalGeneration.from_pretrained(GOLDENS / "hf-tiny").eval()


def sampler(vocab: int, prompt: torch.Tensor, min_new_tokens: int = 0, **options: object) -> Sampler:
    return Sampler(Sampling(**options), vocab, ENDS, min_new_tokens, [prompt])


# ----------------------------------------------------------------------------------------- each rule, and their order


@quick
@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.1, 3),
    top_k=st.one_of(st.none(), st.integers(1, 40)),
    top_p=st.one_of(st.none(), st.floats(0.05, 1)),
    penalty=st.floats(0.5, 2),
    seen=st.lists(st.integers(0, 29), min_size=1, max_size=8),
    min_new_tokens=st.integers(0, 3),
)
def test_every_rule_is_transformers_rule_in_its_order(
    seed: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    penalty: float,
    seen: list[int],
    min_new_tokens: int,
) -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(seed)) * 4
    prompt = torch.tensor(seen)
    processors = theirs.LogitsProcessorList(
        [theirs.RepetitionPenaltyLogitsProcessor(penalty)]
        + [theirs.MinNewTokensLengthLogitsProcessor(len(seen), min_new_tokens, [3])] * bool(min_new_tokens)
        + [theirs.TemperatureLogitsWarper(temperature)]
        + ([theirs.TopKLogitsWarper(top_k)] if top_k else [])
        + ([theirs.TopPLogitsWarper(top_p)] if top_p and top_p < 1 else [])
    )
    expected = processors(prompt[None], logits[None].clone())[0]
    ours = sampler(
        30,
        prompt,
        min_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=penalty,
        penalty_scope="prompt",
    ).adjust(logits[None])[0]
    assert torch.equal(ours.isinf(), expected.isinf())
    possible = ~expected.isinf()
    assert torch.allclose(ours[possible], expected[possible], rtol=1e-6)


def test_the_penalty_counts_new_tokens_unless_told_to_count_the_prompt() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0]])
    prompt, nothing = torch.tensor([0, 2]), torch.tensor([], dtype=torch.int64)
    new_only = Sampler(Sampling(repetition_penalty=4.0), 3, nothing, 0, [prompt])
    assert new_only(logits).tolist() == [0]
    assert torch.equal(new_only.adjust(logits), torch.tensor([[0.5, 1.0, -1.0]]))
    both = Sampling(repetition_penalty=4.0, penalty_scope="prompt")
    whole = Sampler(both, 3, nothing, 0, [prompt])
    assert torch.equal(whole.adjust(logits), torch.tensor([[0.5, 1.0, -4.0]]))


def test_ties_at_the_kth_place_all_stay() -> None:
    logits = torch.tensor([1.0, 2.0, 2.0, 3.0])
    kept = ~sampler(4, torch.tensor([0]), temperature=1.0, top_k=2).adjust(logits[None])[0].isinf()
    assert kept.tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", -1.0),
        ("temperature", float("nan")),
        ("temperature", 1e-45),
        ("top_k", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("end_token_ids", [256]),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("repetition_penalty", 0.0),
        ("max_new_tokens", 0),
        ("min_new_tokens", -1),
        ("min_new_tokens", 200),
        *(
            (name, sign * 10**400)
            for name in ("temperature", "top_p", "repetition_penalty", "seed")
            for sign in (1, -1)
        ),
        *((name, -(10**400)) for name in ("top_k", "max_new_tokens", "min_new_tokens")),
    ],
)
def test_options_out_of_range_are_refused_by_name(model: VideoLLaMA3, option: str, value: float) -> None:
    with pytest.raises(InputError, match=option):
        model.generate(inputs_of("text_only"), **{option: value})


def test_large_numbers_that_mean_something_do(model: VideoLLaMA3) -> None:
    expected = model.generate(inputs_of("text_only"), 3, seed=5, temperature=1.0)[0].tolist()
    tokens = stream(model, inputs_of("text_only"), 10**400, 0, 1.0, None, 10**400, seed=5, allow_long=True)
    assert [next(tokens)[1] for _ in range(3)] == expected


UNCHECKED = """
import numpy as np, torch
from dataclasses import replace
from tests.goldens_cases import inputs_of
from vl3ref import Chat, load, watch
from vl3ref.checkpoints import load_model
from vl3ref.errors import InputError
from vl3ref.generation import generate
from vl3ref.inputs.patches import patchify
from vl3ref.model_inputs import ModelInputs, join
from vl3ref.sampling import Sampling
from vl3ref.trace import trace

model = load_model(FOLDER, device="cpu")
decoder, inputs, frame = model.language_model, inputs_of("video"), np.zeros((28, 28, 3), np.uint8)
chat, visuals = Chat(*load("vl3-tiny", device="cpu")), (inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)

def given(**changed):
    return lambda: generate(model, replace(inputs, **changed), 2)

def option(**options):
    return lambda: generate(model, inputs, **{"max_new_tokens": 2} | options)

def watched(**options):
    with watch(model, **options):
        pass

calls = [
    ("penalty_scope should be", lambda: Sampling(penalty_scope=np.array([1, 2]))),
    *[("a 1-D tensor", lambda ids=ids: generate(decoder, ids)) for ids in
        (torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2), torch.ones(2, dtype=torch.bool), [1, 2])],
    *[("grid_sizes should be a int64 tensor of (visuals, 3)", given(grid_sizes=torch.tensor(grid)))
        for grid in ([[7, 24]], [[1, 7, 4, 6]], [7, 4, 6], [[7.0, 4, 6]])],
    ("input_ids should be a int64 tensor of 1 axis, not torch.bool", given(input_ids=inputs.input_ids > 0)),
    ("lengths should be", given(lengths=[76])),
    ("merge_sizes should be", given(merge_sizes=torch.tensor([2], dtype=torch.uint8))),
    ("pixel_values should be a floating-point", given(pixel_values=inputs.pixel_values.long())),
    ("modals should be", given(modals="video")),
    ("device 'banana' cannot be used", lambda: inputs.to("banana")),
    ("cannot be used", lambda: inputs.to(torch.float16)),
    ("dtype should be", lambda: inputs.to(dtype="float64")),
    *[("logits_to_keep should be", lambda count=count, part=part: part(logits_to_keep=count))
        for count in (2.0, -1, True, "1")
        for part in (lambda **k: model(inputs, **k), lambda **k: decoder(inputs.input_ids, **k))],
    ("the pruner made None", option(pruner=lambda inputs, features: None)),
    ("the pruner made", option(pruner=lambda inputs, features: [True] * 42)),
    ("a pruner should be a function", option(pruner=5)),
    ("step should be a function", option(step=5)),
    ("cache should be a KVCache", option(cache={})),
    *[("end_token_ids should be a list", option(end_token_ids=ids)) for ids in (5, "5", [5.0], torch.tensor(5))],
    ("files should be a list", lambda: chat.prepare("What?", 5)),
    ("files should be a list", lambda: chat.prepare("What?", "cat.jpg")),
    ("files should be a list", lambda: chat.prepare("What?", [5])),
    ("text part without text", lambda: chat.prepare(5)),
    ("a frame should be an array", lambda: patchify([frame / 255], 1, (28, 28), 1)),
    ("a frame should be an array", lambda: patchify([torch.tensor(frame)], 1, (28, 28), 1)),
    ("patchify takes whole numbers", lambda: patchify([frame], 1, 28, 1)),
    ("patchify takes whole numbers", lambda: patchify([frame], 1, (10**400, 28), 1)),
    ("not multiples of", lambda: patchify([frame], 1, (30, 28), 1)),
    ("told of 2 frames, but given 1", lambda: patchify([frame], 2, (28, 28), 1)),
    ("told of 1 frames, but given more", lambda: patchify([frame] * 2, 1, (28, 28), 1)),
    ("grid_sizes should be", lambda: model.vision_encoder(visuals[0], visuals[1][:, :2], visuals[2])),
    ("1 grid_sizes, but 2 merge_sizes", lambda: model.vision_encoder(*visuals[:2], torch.tensor([2, 2]))),
    ("the decoder takes ids", lambda: decoder([1, 2])),
    ("embeddings should be (tokens, 64)", lambda: decoder(torch.zeros(3, 32))),
    ("lengths should be a list", lambda: decoder(torch.tensor([1, 2]), 2)),
    ("cache should be a KVCache", lambda: decoder(torch.tensor([1, 2]), cache=True)),
    ("keep_mask should be a bool", lambda: trace(inputs, [True])),
    ("trace takes ModelInputs", lambda: trace(None)),
    ("watch takes a VideoLLaMA3", lambda: watch(None).__enter__()),
    ("layers should be a list", lambda: watched(layers=3)),
    ("layers should be a list", lambda: watched(layers=[1.5])),
    ("join takes a list", lambda: join(inputs)),
]
for message, call in calls:
    try:
        call()
    except InputError as error:
        assert message in str(error) and len(str(error)) < 300, (message, error)
    else:
        raise AssertionError(message)
"""


def test_what_the_signatures_forbid_is_refused_without_type_checking_too() -> None:
    """In a process of its own: in this one, the signatures are checked first."""
    code = UNCHECKED.replace("FOLDER", repr(str(GOLDENS / "official-tiny")))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# -------------------------------------------------------------------------------------------------- against generate


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
        {"temperature": 1.3, "top_p": 0.9, "repetition_penalty": 1.2},
        {"temperature": 0.0, "repetition_penalty": 1.3},
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sampled_ids_are_transformers_ids(
    model: VideoLLaMA3, reference: transformers.PreTrainedModel, options: dict, seed: int
) -> None:
    """Same seed, same tokens: both take one number per token from torch's generator."""
    ids = golden("text_only", "input_ids")
    theirs_options = {name: value for name, value in options.items() if name != "temperature"}
    if options["temperature"]:
        theirs_options |= {"temperature": options["temperature"], "top_k": options.get("top_k", 0)}
    torch.manual_seed(seed)
    expected = reference.generate(
        input_ids=ids[None], max_new_tokens=24, do_sample=options["temperature"] > 0, **theirs_options
    )[0, len(ids) :]
    (answer,) = model.generate(inputs_of("text_only"), max_new_tokens=24, seed=seed, penalty_scope="prompt", **options)
    assert answer.tolist() == expected.tolist()


def test_the_end_of_text_id_is_included_and_ends_the_answer(model: VideoLLaMA3) -> None:
    inputs = inputs_of("text_only")
    (full,) = model.generate(inputs, max_new_tokens=24, min_new_tokens=24)
    end = int(full[5])
    (cut,) = model.generate(inputs, max_new_tokens=24, end_token_ids=[end])
    first = full.tolist().index(end)
    assert cut.tolist() == full[: first + 1].tolist()
    (longer,) = model.generate(inputs, max_new_tokens=24, min_new_tokens=first + 2, end_token_ids=[end])
    assert len(longer) >= first + 2 and end not in longer[: first + 1].tolist()


def test_options_may_be_given_by_position_in_their_order(model: VideoLLaMA3) -> None:
    inputs, ids = inputs_of("text_only"), inputs_of("text_only").input_ids
    named = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "repetition_penalty": 1.1, "seed": 3}
    expected = model.generate(inputs, max_new_tokens=6, min_new_tokens=2, **named)[0].tolist()
    assert model.generate(inputs, 6, 2, 0.7, 0.9, 5, 1.1, 3)[0].tolist() == expected
    assert generate(model, inputs, 6, 2, 0.7, 0.9, 5, 1.1, 3)[0].tolist() == expected
    assert model.language_model.generate(ids, 6, 2, 0.7, 0.9, 5, 1.1, 3)[0].tolist() == expected
    assert [t for _, t in stream(model, inputs, 6, 2, 0.7, 0.9, 5, 1.1, 3)] == expected


def test_max_new_tokens_is_the_most(model: VideoLLaMA3) -> None:
    assert [len(a) for a in model.generate(inputs_of("video"), max_new_tokens=3, min_new_tokens=3)] == [3]


# -------------------------------------------------------------------------------------------------- several at once


def test_conversations_that_end_at_different_times(model: VideoLLaMA3) -> None:
    """Each stops at its own end, and what it says does not depend on the others."""
    alone = [model.generate(inputs_of(case), max_new_tokens=24, min_new_tokens=24)[0] for case in NAMES]
    ends = [int(alone[0][2]), int(alone[1][9]), int(alone[2][5])]
    expected = []
    for ids in alone:
        stops = [i for i, token in enumerate(ids.tolist()) if token in ends]
        expected.append(ids.tolist()[: stops[0] + 1] if stops else ids.tolist())
    together = model.generate(join([inputs_of(c) for c in NAMES]), max_new_tokens=24, end_token_ids=ends)
    assert [a.tolist() for a in together] == expected
    assert len({len(a) for a in together}) > 1


def test_each_conversation_samples_from_its_own_seed(model: VideoLLaMA3) -> None:
    inputs = inputs_of("text_only")
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "temperature": 1.5}
    together = model.generate(join([inputs] * 3), seed=5, **options)
    for b, answer in enumerate(together):
        assert torch.equal(answer, model.generate(inputs, seed=5 + b, **options)[0])
    assert not torch.equal(together[0], together[1])


def test_a_seed_gives_one_answer_in_every_batch_run_and_thread() -> None:
    """In float32 on a CPU, with the trained model, whose next token is often uncertain at this temperature."""
    model, processor = vl3ref.load("vl3-tiny", device="cpu")
    clip = {"type": "video", "video": noise(4, 56, 56, 3)}
    picture = {"type": "image", "image": noise(84, 112, 3)}
    questions = (["Hello"], [clip, "What moves?"], [picture, "What is shown? " * 3], [clip, picture, "Both?"])
    prompts = [processor([{"role": "user", "content": content}]) for content in questions]
    options = {"max_new_tokens": 8, "temperature": 1.1, "top_p": 0.95}

    def answer(*which: int, seed: int = 11) -> list[list[int]]:
        together = join([prompts[n] for n in which])
        return [ids.tolist() for ids in model.generate(together, seed=seed, **options)]

    alone = [[answer(n, seed=seed)[0] for n in range(4)] for seed in range(11, 15)]  # [seed][prompt]
    assert len({str(row) for rows in alone for row in rows}) > 8
    compositions = [(0, 1, 2, 3), (3, 2), (1, 1, 0), (0, 1, 2, 3)]
    expected = [[alone[place][n] for place, n in enumerate(which)] for which in compositions]
    assert [answer(*which) for which in compositions] == expected
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda which: answer(*which), compositions)) == expected


def test_stream_yields_what_generate_collects(model: VideoLLaMA3) -> None:
    inputs = join([inputs_of("text_only"), inputs_of("video")])
    pairs = list(stream(model, inputs, max_new_tokens=6, min_new_tokens=6))
    assert [b for b, _ in pairs] == [0, 1] * 6
    collected = generate(model, inputs, max_new_tokens=6, min_new_tokens=6)
    for b, answer in enumerate(collected):
        assert [token for owner, token in pairs if owner == b] == answer.tolist()


def test_stream_gives_a_token_before_it_computes_the_next(model: VideoLLaMA3) -> None:
    calls = []
    hook = model.language_model.layers[0].register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    tokens = stream(model, inputs_of("text_only"), max_new_tokens=5, min_new_tokens=5)
    next(tokens)
    assert len(calls) == 1
    next(tokens)
    next(tokens)
    hook.remove()
    assert calls[1:] == [1, 1]


# -------------------------------------------------------------------------------------------------------- the cache


@quick
@given(pieces=st.lists(st.integers(1, 6), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_decoding_in_pieces_is_one_full_pass(wide: LanguageModel, pieces: list[int], seed: int) -> None:
    ids = torch.randint(4, 250, (sum(pieces),), generator=torch.Generator().manual_seed(seed))
    cache = wide.new_cache(1)
    with torch.no_grad():
        outputs = [wide(piece, cache=cache) for piece in ids.split(pieces)]
        assert (torch.cat(outputs) - wide(ids)).abs().max() < 1e-9


def test_a_second_turn_goes_on_from_the_cache(decoder: LanguageModel) -> None:
    first, second = torch.randint(4, 250, (7,)), torch.randint(4, 250, (5,))
    cache = decoder.new_cache(1, 8)
    said = [t for _, t in stream(decoder, first, 4, 4, cache=cache)]
    assert cache.lengths == [7 + 3]
    new = torch.cat([torch.tensor(said[-1:]), second])
    answer = [t for _, t in stream(decoder, new, 4, 4, cache=cache)]
    everything = torch.cat([first, torch.tensor(said), second])
    assert answer == decoder.generate(everything, max_new_tokens=4, min_new_tokens=4)[0].tolist()


def test_a_cache_is_continued_by_as_many_conversations_as_it_holds(model: VideoLLaMA3) -> None:
    cache = model.language_model.new_cache(1, 8)
    with pytest.raises(InputError, match="holds 1 conversations is continued by as many, not by 2"):
        list(stream(model, join([inputs_of("text_only")] * 2), cache=cache))


def test_forks_of_one_cache_are_continued_side_by_side(model: VideoLLaMA3) -> None:
    """By texts of different lengths; each answer is the one it would be alone, some ending before others."""
    whole = inputs_of("text_only")
    start, ends = len(whole.input_ids) - 6, ([4, 5, 6], [7], [8, 9, 10, 11, 12])
    cache, decoder = model.language_model.new_cache(1), model.language_model
    decoder.hidden(whole.input_ids[:start], [start], cache)
    rows = cache.fork()
    rows.keep([0] * len(ends))
    new = [ModelInputs(torch.tensor(ids), torch.tensor([len(ids)])) for ids in ends]
    together = generate(model, join(new), max_new_tokens=9, cache=rows)
    whole_prompts = [torch.cat([whole.input_ids[:start], part.input_ids]) for part in new]
    alone = [generate(decoder, ids, max_new_tokens=9)[0].tolist() for ids in whole_prompts]
    assert [ids.tolist() for ids in together] == alone and cache.lengths == [start]
    scored = score(model, new[0], [[4, 5], [6]], cache=cache)
    torch.testing.assert_close(scored, score(decoder, whole_prompts[0], [[4, 5], [6]]))
    assert cache.lengths == [start]


@quick
@given(tokens=st.integers(1, 20), chunk=st.integers(1, 8))
def test_an_mlp_in_chunks_is_the_mlp(wide: LanguageModel, tokens: int, chunk: int) -> None:
    mlp, computed = wide.layers[0].mlp, []
    x = torch.randn(tokens, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(tokens))
    with torch.no_grad():
        whole = mlp(x)
        hook = mlp.gate_proj.register_forward_hook(lambda *args: computed.append(len(args[2])))
        mlp.chunk_tokens = chunk
        chunks = mlp(x)
    hook.remove()
    del mlp.chunk_tokens
    assert (whole - chunks).abs().max() < 1e-9
    assert sum(computed) == tokens and max(computed) <= chunk <= GatedMLP.chunk_tokens


@pytest.mark.parametrize("past", [1, 700])
@pytest.mark.parametrize("new", [2, 512, 513, 1100])
def test_a_long_later_turn_is_one_full_pass(wide: LanguageModel, past: int, new: int) -> None:
    """Its queries attend in chunks, so that the mask does not grow with both lengths."""
    ids = torch.randint(4, 250, (past + new,), generator=torch.Generator().manual_seed(past))
    cache = wide.new_cache(1, past + new)
    with torch.no_grad():
        wide(ids[:past], cache=cache)
        assert (wide(ids[past:], cache=cache) - wide(ids)[past:]).abs().max() < 1e-9


# --------------------------------------------------------------------------------------------------- the wrong thing


def test_a_decoder_takes_ids_and_a_model_takes_inputs(model: VideoLLaMA3, decoder: LanguageModel) -> None:
    for ids in (torch.zeros(0, dtype=torch.int64), torch.tensor([256]), torch.tensor([-1])):
        with pytest.raises(InputError):
            generate(decoder, ids)
    with pytest.raises(InputError, match="ModelInputs"):
        generate(model, torch.tensor([5]))
