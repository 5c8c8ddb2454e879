"""Beam search: the answer whose tokens together are the likeliest, as far as a few parallel tries find it.

At every step each unfinished answer is continued by every token, and the likeliest `beams` continuations go on. Rules
and results are those of transformers' `generate(num_beams=...)`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vl3ref.errors import InputError, quoted
from vl3ref.generation import check_end_ids
from vl3ref.limits import memory_errors
from vl3ref.model.diff_fp import Pruner
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.prefill import most_new_tokens, not_finite, prefill, read_prompt
from vl3ref.sampling import is_whole

Beam = tuple[float, list[int]]
"""Log-probability (of a finished answer: its score), and new ids."""


@torch.inference_mode()
def beam_search(
    model: VideoLLaMA3 | LanguageModel,
    inputs: ModelInputs | Int[Tensor, " tokens"],
    beams: int = 4,
    max_new_tokens: int = 128,
    length_penalty: int | float = 1.0,
    early_stopping: bool | Literal["never"] = False,
    end_token_ids: Sequence[int] | None = None,
    pruner: Pruner | None = None,
    allow_long: bool = False,
) -> list[Int[Tensor, " new"]]:
    """Answer every conversation by beam search.

    Args:
        model, inputs, max_new_tokens, end_token_ids, pruner, allow_long: as in `vl3ref.generation.stream`.
        beams: answers that are continued side by side; 1 is greedy decoding.
        length_penalty: answers are compared by their log-probability divided by this power of their length; above 0
            longer answers gain, below 0 shorter ones.
        early_stopping: stop at the first `beams` finished answers (True); when no unfinished one could beat them at its
            present length (False); or when none could at any length ("never").

    Returns:
        One int64 tensor on the CPU per conversation: the new ids alone, the end-of-text id included when it came.

    Raises:
        InputError, CheckpointError: as in `stream`.
    """
    for name, value in (("beams", beams), ("max_new_tokens", max_new_tokens)):
        if not is_whole(value) or value < 1:
            raise InputError(f"{name} should be a whole number of at least 1, not {quoted(value)}")
    if (
        isinstance(length_penalty, bool)
        or not isinstance(length_penalty, int | float)
        or not abs(length_penalty) <= 100
    ):
        raise InputError(f"length_penalty should be a number from -100 to 100, not {quoted(length_penalty)}")
    if early_stopping not in (True, False, "never"):
        raise InputError(f"early_stopping should be True, False or 'never', not {quoted(early_stopping)}")
    with memory_errors():
        decoder, prompt, _ = read_prompt(model, inputs, pruner, 0, allow_long)
        ends = check_end_ids(decoder, end_token_ids)
        most = most_new_tokens(decoder, prompt.lengths, max_new_tokens, allow_long)
        cache = decoder.new_cache(len(prompt.lengths), max(prompt.lengths))
        logits = prefill(decoder, prompt, cache)
        answers = []
        for row, longest in enumerate(most):
            search = Search(beams, longest, length_penalty, early_stopping, ends)
            fork = cache.fork()
            fork.keep([row])
            answers.append(search.run(decoder, fork, logits[row : row + 1]))
    if any(answer is None for answer in answers):
        raise not_finite(model, inputs)
    return [torch.tensor(answer, dtype=torch.int64) for answer in answers]


class Search:
    """The beams of one conversation."""

    def __init__(
        self, beams: int, longest: int, length_penalty: float, early_stopping: bool | str, ends: set[int]
    ) -> None:
        self.beams, self.longest, self.early_stopping, self.ends = beams, longest, early_stopping, ends
        self.length_penalty = length_penalty
        self.running: list[Beam] = [(0.0, [])]
        self.finished: list[Beam] = []

    def run(self, decoder: LanguageModel, cache: KVCache, logits: Float[Tensor, "1 vocab"]) -> list[int] | None:
        """The best answer; None if logits are not finite. `cache` holds the prompt, `logits` follow it."""
        for length in range(1, self.longest + 1):
            if not bool(logits.isfinite().all()):
                return None
            going = self._extend(logits, length)
            if not going or not self._could_improve(length):
                break
            cache.keep(going)
            cache.reserve([1] * len(going))
            newest = torch.tensor([ids[-1] for _, ids in self.running], device=cache.device)
            logits = decoder.head(decoder.hidden(newest, [1] * len(going), cache))
        return max(self.finished, key=lambda beam: beam[0])[1]

    def _extend(self, logits: Float[Tensor, "running vocab"], length: int) -> list[int]:
        """Continue every beam by every token. Returns which beams the new ones come from.

        As many candidates are looked at as leave `beams` unfinished ones even if all others end; but an answer counts
        as finished only if it is among the best `beams` of all.
        """
        so_far = torch.tensor([log_prob for log_prob, _ in self.running], device=logits.device)
        total = (logits.float().log_softmax(-1) + so_far[:, None]).flatten()
        count = min(max(2, 1 + len(self.ends)) * self.beams, len(total))
        going: list[int] = []
        running: list[Beam] = []
        for rank, (log_prob, place) in enumerate(zip(*(x.tolist() for x in total.topk(count)), strict=True)):
            source, token = divmod(place, logits.shape[-1])
            ids = [*self.running[source][1], token]
            if token in self.ends or length == self.longest:
                if rank < self.beams:
                    self.finished.append((log_prob / length**self.length_penalty, ids))
            elif len(running) < self.beams:
                going.append(source)
                running.append((log_prob, ids))
        self.finished = sorted(self.finished, key=lambda beam: -beam[0])[: self.beams]
        self.running = running
        return going

    def _could_improve(self, length: int) -> bool:
        """Whether an unfinished answer may still beat the worst of the finished ones."""
        if len(self.finished) < self.beams:
            return True
        if self.early_stopping is True:
            return False
        longest = self.early_stopping == "never" and self.length_penalty > 0
        best = self.running[0][0] / (self.longest if longest else length) ** self.length_penalty
        return best > self.finished[-1][0]
