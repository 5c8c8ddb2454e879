"""vl3ref as a model of lmms-eval 0.7, which finds it by the entry point in pyproject.toml.

    lmms-eval --model vl3ref --model_args pretrained=2b,image_merge_size=1 --tasks videomme --batch_size 4

A chat model: it gets whole messages, with every image and video where the task puts it.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from tqdm import tqdm

import vl3ref
from vl3ref.beam_search import beam_search
from vl3ref.errors import InputError, VL3Error, quoted
from vl3ref.generation import generate, score
from vl3ref.integrations.lmms_requests import as_conversation, as_part, generation_options, stop_strings
from vl3ref.model.diff_fp import keep_all
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs, join

try:
    from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
    from lmms_eval.api.model import lmms
    from lmms_eval.models.registry_v2 import ModelManifest
except ImportError as error:
    raise ImportError(f"vl3ref.integrations.lmms_eval needs lmms-eval 0.7 (make lmms-env): {error}") from None

MOST_ROUNDS = 100
"""Of a multi-round request: a task that never says that it is over would be asked for ever."""

manifest = ModelManifest(
    model_id="vl3ref",
    chat_class_path="vl3ref.integrations.lmms_eval.VL3Ref",
    simple_class_path="vl3ref.integrations.lmms_eval.SimpleVL3Ref",
)


class VL3Ref(lmms):
    """A checkpoint that answers lmms-eval's requests.

    Args:
        pretrained, dtype, adapter: see `vl3ref.load`.
        device: default: this process's GPU, if there is one.
        batch_size: requests answered at once. "auto" is `max_batch_size`, which otherwise is a limit.
        max_new_tokens, repetition_penalty: where the task does not say.
        add_system_prompt: start with the default system prompt, which the authors' evaluation does not.
        prune: drop video tokens that repeat (DiffFP).
        frames: options of the processor: fps, max_frames, max_tokens, image_merge_size, video_merge_size, ...

    Raises:
        CheckpointError, ConfigError: the checkpoint cannot be used.
        InputError: an argument is out of range.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "vl3-tiny",
        device: str | None = None,
        dtype: str | None = None,
        adapter: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        max_new_tokens: int = 2048,
        repetition_penalty: int | float = 1.0,
        add_system_prompt: bool = False,
        prune: bool = True,
        **frames: Any,
    ) -> None:
        super().__init__()
        if device in (None, "cuda") and torch.cuda.is_available():
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        size = max_batch_size if batch_size == "auto" else batch_size
        if not str(size).isdecimal() or int(size or 0) < 1:
            raise InputError(f'batch_size should be at least 1, or "auto" beside a max_batch_size, not {quoted(size)}')
        self.batch_size = min(int(size or 1), int(max_batch_size or size or 1))
        self._load = partial(vl3ref.load, str(pretrained), device, dtype, adapter=adapter)
        self._model, self.processor = self._load()
        self.processor.config = self.processor.config.override(**frames)
        self.device = self._model.device
        self.defaults = {"max_new_tokens": max_new_tokens, "repetition_penalty": repetition_penalty}
        self.add_system_prompt, self.pruner = add_system_prompt, None if prune else keep_all

    @property
    def model(self) -> VideoLLaMA3:
        """lmms-eval deletes the model when all is answered (`clean`). Asked again, it is read again."""
        if getattr(self, "_model", None) is None:
            self._model, _ = self._load()
        return self._model

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answers, in the order of the requests, each up to the first of its task's `until` strings."""
        alike: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            alike.setdefault(repr(_options(request.args)), []).append(index)
        batches = [
            (i, own[i : i + self.batch_size]) for own in alike.values() for i in range(0, len(own), self.batch_size)
        ]
        answers: dict[int, GenerationResult] = {}
        for start, batch in tqdm(batches, desc="vl3ref", unit="batch", disable=self.rank != 0):
            asked = [requests[index].args for index in batch]
            inputs = join([self._inputs(self._given(args)[0], args) for args in asked])
            answers |= dict(zip(batch, self._answers(inputs, _options(asked[0]), start), strict=True))
        return [answers[index] for index in range(len(requests))]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[list[str]]:
        """The answers of all rounds of each request. What the model reads in a round is what the task hands in then."""
        return [self._rounds(request.args) for request in tqdm(requests, desc="vl3ref", disable=self.rank != 0)]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """(log P(continuation | context), whether greedy decoding gives it) of each request.

        A continuation begins an answer, so spaces in front of it are left out. Requests about one context, as the
        options of a question are, follow each other and share it.
        """
        results: list[tuple[float, bool]] = []
        for _, group in groupby((request.args for request in requests), key=lambda args: (args[0], *args[3:])):
            alike = list(group)
            inputs = self._inputs(self._given(alike[0])[0], alike[0])
            texts = [str(self._given(args)[1]).lstrip(" ") for args in alike]
            ids = [self.processor.tokenizer.encode(text)[0] for text in texts]
            likelihoods: Any = score(self.model, inputs, ids, pruner=self.pruner)
            greedy = generate(self.model, inputs, max_new_tokens=max(map(len, ids)), pruner=self.pruner)[0].tolist()
            pairs = zip(likelihoods.tolist(), ids, strict=True)
            results += [(likelihood, greedy[: len(answer)] == answer) for likelihood, answer in pairs]
        return results

    def _rounds(self, args: Sequence[Any]) -> list[str]:
        _, doc_to_messages, options, doc_id, task, split = args
        doc = self.task_dict[task][split][doc_id]
        said: list[str] = []
        messages, known = doc_to_messages(doc), None
        for number in range(1, MOST_ROUNDS + 1):
            said = [*said, self._answers(self._inputs(messages, args), options)[0].text]
            following = doc_to_messages(doc, round_idx=number, previous_output=said, previous_round_info=known)
            if not isinstance(following, tuple):  # a task of one round
                return said
            messages, over, rewritten, known = following
            said = said if rewritten is None else list(rewritten)
            if over:
                return said
        raise InputError(f"{task}, document {doc_id}: the task asks for more than {MOST_ROUNDS} rounds")

    def _given(self, args: Sequence[Any]) -> tuple[Any, Any]:
        """The messages of a request, and what comes with them: generation options, or a continuation."""
        if len(args) == 2:  # of a text alone
            return [{"role": "user", "content": args[0]}], args[1]
        text, first, second, doc_id, task, split = args
        doc = self.task_dict[task][split][doc_id]
        if not callable(second):
            return first(doc), second
        visuals = [as_part(visual) for visual in second(doc) or [] if visual is not None]
        return [{"role": "user", "content": [*visuals, text]}], first(doc) if callable(first) else first

    def _inputs(self, messages: Sequence[Mapping[str, Any]], args: Sequence[Any]) -> ModelInputs:
        try:
            return self.processor(as_conversation(messages), add_system_prompt=self.add_system_prompt)
        except VL3Error as problem:
            where = f"{args[4]}, document {args[3]}: " if len(args) > 2 else ""
            raise InputError(f"{where}{problem}") from None

    def _answers(self, inputs: ModelInputs, options: Mapping[str, Any], position: int = 0) -> list[GenerationResult]:
        """`position` counts requests with the same options: each samples with a seed of its own, whatever the batch."""
        how = generation_options(options, self.defaults, torch.initial_seed() % 2**61 + position)
        if "beams" in how:
            ids = beam_search(self.model, inputs, pruner=self.pruner, **how)
        else:
            ids = generate(self.model, inputs, processor=self.processor, pruner=self.pruner, **how)
        texts = [self.processor.decode(answer) for answer in ids]
        ends = [
            min([len(text), *(text.index(stop) for stop in stop_strings(options) if stop in text)]) for text in texts
        ]
        rows = zip(texts, ends, inputs.lengths.tolist(), ids, strict=True)
        return [GenerationResult(text[:end], TokenCounts(length, len(new))) for text, end, length, new in rows]


class SimpleVL3Ref(VL3Ref):
    """The same for `--force_simple`, without which lmms-eval 0.7 asks for no likelihoods."""

    is_simple = True

    def loglikelihood(self, requests: Sequence[Instance]) -> list[Any]:
        """(-log P(continuation | context), whether greedy decoding gives it) of each request: the loss, of which the
        multiple choice of lmms-eval takes the smallest. A bare pair is turned into text there; so it is wrapped."""
        return [GenerationResult((-likelihood, greedy)) for likelihood, greedy in super().loglikelihood(requests)]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[list[str]]:
        raise InputError("tasks of several rounds are run without --force_simple")


def _options(args: Sequence[Any]) -> Mapping[str, Any]:
    return next(value for value in args[1:3] if isinstance(value, Mapping))
