"""Likelihood of given answers, log-probabilities of generated ones, stop strings, the best of several, beam search."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers

import vl3ref
from tests.helpers import GOLDENS
from tests.media import noise
from vl3ref import InputError
from vl3ref.beam_search import beam_search
from vl3ref.checkpoints import load_language_model
from vl3ref.generation import generate, score, stream
from vl3ref.model.language_model import LanguageModel
from vl3ref.model_inputs import ModelInputs, join

ANSWERS = ["red", "a blue circle moves left", "at 1.0 seconds", "7"]


@pytest.fixture(scope="module")
def tiny() -> Any:
    return vl3ref.load("vl3-tiny", "cpu", "float64")


@pytest.fixture(scope="module")
def inputs(tiny: Any) -> ModelInputs:
    video = {"type": "video", "video": noise(3, 56, 84, 3), "fps": 1}
    return tiny[1]([{"role": "user", "content": [video, {"type": "text", "text": "What moves?"}]}])


@pytest.fixture(scope="module")
def decoder() -> LanguageModel:
    return load_language_model(GOLDENS / "official-tiny", device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def reference() -> transformers.VideoLlama3ForConditionalGeneration:
    return transformers.VideoLlama3ForConditionalGeneration.from_pretrained(GOLDENS / "hf-tiny").double().eval()


def full_pass(model: Any, inputs: ModelInputs, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of an answer's tokens by one forward pass over prompt and answer, without a cache."""
    whole = ModelInputs(
        torch.cat([inputs.input_ids, torch.tensor(ids)]),
        inputs.lengths + len(ids),
        inputs.pixel_values,
        inputs.grid_sizes,
        inputs.merge_sizes,
        inputs.modals,
    )
    with torch.no_grad():
        logits = model(whole).logits[-len(ids) - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]


def test_scores_are_those_of_a_full_pass(tiny: Any, inputs: ModelInputs) -> None:
    model, processor = tiny
    ids = [processor.tokenizer.encode(answer)[0] for answer in ANSWERS]
    per_token = score(model, inputs, ANSWERS, processor, per_token=True)
    assert isinstance(per_token, list)
    for answer, log_probs in zip(ids, per_token, strict=True):
        torch.testing.assert_close(log_probs, full_pass(model, inputs, answer), atol=1e-5, rtol=0)
    scores = score(model, inputs, [torch.tensor(ids[0]), *ids[1:]])
    torch.testing.assert_close(scores, torch.stack([x.sum() for x in per_token]), atol=1e-5, rtol=0)
    assert scores.shape == (len(ANSWERS),)


def test_many_answers_and_one_at_a_time(tiny: Any, inputs: ModelInputs) -> None:
    model, _ = tiny
    ids = [[n % 50 + 300, *range(300, 300 + n % 4)] for n in range(37)]  # some are a single token
    together = score(model, inputs, ids)
    for place in (0, 4, 17, 36):
        alone = score(model, inputs, [ids[place]])
        torch.testing.assert_close(together[place : place + 1], alone, atol=1e-5, rtol=0)


def test_the_chances_of_all_tokens_add_up_to_one(decoder: LanguageModel) -> None:
    every = [[token] for token in range(decoder.config.vocab_size)]
    scores = score(decoder, torch.tensor([5, 6, 7]), every)
    torch.testing.assert_close(scores.exp().sum(), torch.tensor(1.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([], "answers should be a list"),
        ("red", "answers should be a list"),
        (["red", ""], "an answer should be a text, or token ids"),
        ([[]], "an answer should be a text, or token ids"),
        ([[10**400]], "an answer should be a text, or token ids"),
    ],
)
def test_what_cannot_be_scored(tiny: Any, inputs: ModelInputs, answers: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        score(tiny[0], inputs, answers, tiny[1])
    assert len(str(refused.value)) < 300


def test_scores_need_one_conversation_and_a_processor_for_texts(tiny: Any, inputs: ModelInputs) -> None:
    with pytest.raises(InputError, match="processor=processor"):
        score(tiny[0], inputs, ["red"])
    with pytest.raises(InputError, match="one conversation at a time, not for 2"):
        score(tiny[0], join([inputs, inputs]), ["red"], tiny[1])


# --------------------------------------------------------------------------------- log-probabilities of what comes out


@pytest.mark.parametrize("options", [{}, {"temperature": 1.3, "seed": 5, "top_k": 20, "repetition_penalty": 1.2}])
def test_log_probabilities_of_generated_tokens(tiny: Any, inputs: ModelInputs, options: dict[str, Any]) -> None:
    model, _ = tiny
    both = join([inputs, inputs])
    ids, log_probs = generate(model, both, max_new_tokens=6, return_log_probs=True, **options)
    plain = generate(model, both, max_new_tokens=6, **options)
    for answer, same, given in zip(ids, plain, log_probs, strict=True):
        assert answer.equal(same)
        torch.testing.assert_close(given, full_pass(model, inputs, answer.tolist()), atol=1e-5, rtol=0)


def test_each_log_probability_is_there_before_its_token(tiny: Any, inputs: ModelInputs) -> None:
    given: list[float] = []
    for count, _ in enumerate(stream(tiny[0], inputs, max_new_tokens=4, log_probs=given), start=1):
        assert len(given) == count


# --------------------------------------------------------------------------------------------------------- stop strings


def test_stop_strings_end_an_answer_that_holds_one(tiny: Any, inputs: ModelInputs) -> None:
    model, processor = tiny
    [whole] = generate(model, inputs, max_new_tokens=12, end_token_ids=[])
    texts = [processor.decode(whole[:count]) for count in range(1, 13)]
    wanted = texts[5][-3:]
    first = next(count for count, text in enumerate(texts, start=1) if wanted in text)
    [stopped] = generate(
        model, inputs, max_new_tokens=12, end_token_ids=[], stop=["never said", wanted], processor=processor
    )
    assert stopped.tolist() == whole[:first].tolist()
    options = {"max_new_tokens": 12, "end_token_ids": [], "stop": [wanted], "processor": processor}
    assert [x.tolist() for x in generate(model, join([inputs, inputs]), **options)] == [stopped.tolist()] * 2


@pytest.mark.parametrize("stop", [[""], ["end", ""]])
def test_stop_strings_of_the_wrong_type(tiny: Any, inputs: ModelInputs, stop: Any) -> None:
    with pytest.raises(InputError, match="stop should be a list of strings"):
        generate(tiny[0], inputs, stop=stop, processor=tiny[1])
    with pytest.raises(InputError, match="stop needs a processor"):
        generate(tiny[0], inputs, stop=["end"])


# ---------------------------------------------------------------------------------------------------- best of several


def test_the_best_of_several_is_the_likeliest_per_token(tiny: Any, inputs: ModelInputs) -> None:
    model, _ = tiny
    two = join([inputs, inputs])
    options = {"max_new_tokens": 5, "temperature": 2.0, "seed": 3}
    all_log_probs: list[float] = []
    answers: dict[int, list[int]] = {}
    given: dict[int, list[float]] = {}
    for row, token in stream(model, two, copies=4, log_probs=all_log_probs, **options):
        answers.setdefault(row, []).append(token)
        given.setdefault(row, []).append(all_log_probs[-1])
    assert len({tuple(answer) for answer in answers.values()}) > 2
    means = {row: sum(values) / len(values) for row, values in given.items()}
    expected = [answers[max(range(start, start + 4), key=means.__getitem__)] for start in (0, 4)]
    assert [x.tolist() for x in generate(model, two, best_of=4, **options)] == expected


def test_best_of_takes_a_temperature_and_a_number(tiny: Any, inputs: ModelInputs) -> None:
    with pytest.raises(InputError, match="takes a temperature"):
        generate(tiny[0], inputs, best_of=3)
    for wrong in (0, -1, True):
        with pytest.raises(InputError, match="best_of should be a whole number"):
            generate(tiny[0], inputs, best_of=wrong, temperature=1.0)
    with pytest.raises(InputError, match="copies should be a whole number"):
        generate(tiny[0], inputs, copies=0)


# --------------------------------------------------------------------------------------------------------- beam search


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, -2.0, 3.0])
@pytest.mark.parametrize("beams", [2, 5])
def test_beam_search_gives_transformers_results(
    decoder: LanguageModel,
    reference: transformers.VideoLlama3ForConditionalGeneration,
    beams: int,
    length_penalty: float,
    early_stopping: Any,
) -> None:
    """In float64, where no two beams are as likely as each other. Many tokens end an answer, so that some do early."""
    ends = list(range(0, decoder.config.vocab_size, 9))
    for prompt in ([5, 6, 7, 8], [40, 3, 99, 100, 7]):
        ids = torch.tensor(prompt)
        ours = beam_search(
            decoder,
            ids,
            beams,
            max_new_tokens=9,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            end_token_ids=ends,
        )
        theirs = reference.generate(
            input_ids=ids[None],
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            num_beams=beams,
            do_sample=False,
            max_new_tokens=9,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            eos_token_id=ends,
            pad_token_id=0,
        )[0, len(ids) :].tolist()
        assert ours[0].tolist() == theirs[: len(ours[0])]
        assert set(theirs[len(ours[0]) :]) <= {0}


def test_one_beam_is_greedy_and_more_find_likelier_answers(tiny: Any, inputs: ModelInputs) -> None:
    model, _ = tiny
    greedy = generate(model, inputs, max_new_tokens=6, end_token_ids=[])
    assert beam_search(model, inputs, 1, max_new_tokens=6, end_token_ids=[])[0].equal(greedy[0])
    found = [beam_search(model, inputs, n, 6, end_token_ids=[])[0] for n in (1, 4, 16)]
    likely = [float(score(model, inputs, [x])[0]) for x in found]
    assert all(later >= earlier - 1e-4 for earlier, later in pairwise(likely))


def test_beam_search_of_several_conversations_is_that_of_each(tiny: Any, inputs: ModelInputs) -> None:
    model, processor = tiny
    other = processor([{"role": "user", "content": "What shape is red?"}])
    together = beam_search(model, join([inputs, other]), 3, max_new_tokens=5)
    alone = [beam_search(model, one, 3, max_new_tokens=5)[0] for one in (inputs, other)]
    assert [x.tolist() for x in together] == [x.tolist() for x in alone]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"beams": 0}, {"beams": True}, {"max_new_tokens": 0}),
        *({"length_penalty": 10**400}, {"length_penalty": float("nan")}, {"end_token_ids": [10**9]}),
    ],
)
def test_options_of_beam_search(decoder: LanguageModel, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        beam_search(decoder, torch.tensor([1, 2]), **wrong)
