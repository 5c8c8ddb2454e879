"""Solutions of notebook 7, generation."""

import math

import torch
from torch import Tensor


def solution_1(logits: Tensor, p: float) -> Tensor:
    """A ratio of probabilities is a difference of logits."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), -torch.inf)


def solution_2(pieces: list[str], stop: str) -> list[str]:
    out, held = [], ""
    for piece in pieces:
        held += piece
        if stop in held:
            out.append(held[: held.index(stop)])
            held = ""
            break
        begun = max((n for n in range(len(held) + 1) if stop.startswith(held[len(held) - n :])), default=0)
        out.append(held[: len(held) - begun])
        held = held[len(held) - begun :]
    return [piece for piece in (*out, held) if piece]


def solution_3(maps: list[Tensor]) -> Tensor:
    """A block mixes what the blocks before it have mixed: its matrix goes to the left."""
    total = torch.eye(maps[0].shape[-1])
    for one in maps:
        total = (one.mean(0) + torch.eye(len(total))) / 2 @ total
    return total
