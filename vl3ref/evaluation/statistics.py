"""What a score says beyond the items it was measured on.

Questions about one video are right or wrong together, so chance is a matter of files, not of questions: the bootstrap
draws whole files, and the paired test flips the sign of whole files' differences.

A score is a weighted mean of items: each weighs the same ("micro"), or each kind does ("macro").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

Overall = Literal["micro", "macro"]

DRAWS = 4_000
"""Of the bootstrap, and of the paired test where it cannot try every sign. An end of an interval is then known to 0.04
standard errors, and a p of 0.05 to 0.003."""

EXACT = 14
"""Files of different score up to which the paired test tries all 2^n signs."""

AT_ONCE = 500
"""Draws held in memory: each has a number for every file."""

SEED = 0


def mean(scores: Sequence[int | float], kinds: Sequence[str], overall: Overall) -> float:
    """The score. There is at least one item."""
    return float(np.dot(_weights(kinds, overall), np.asarray(scores, float)))


def interval(
    scores: Sequence[int | float], media: Sequence[str], kinds: Sequence[str], overall: Overall
) -> tuple[float, float] | None:
    """95 % interval of the score: the percentile bootstrap over files, from a fixed seed.

    Args:
        scores, media, kinds: of each item; media is its file.

    Returns:
        Both ends; None for fewer than two files, which say nothing about others.
    """
    files, file_of = np.unique(media, return_inverse=True)
    groups, group_of = np.unique(kinds if overall == "macro" else [""] * len(media), return_inverse=True)
    if len(files) < 2:
        return None
    sums, counts = np.zeros((len(files), len(groups))), np.zeros((len(files), len(groups)))
    np.add.at(sums, (file_of, group_of), np.asarray(scores, float))
    np.add.at(counts, (file_of, group_of), 1.0)
    rng = np.random.default_rng(SEED)
    drawn: list[Float64[np.ndarray, " draws"]] = []
    for start in range(0, DRAWS, AT_ONCE):
        times = rng.multinomial(len(files), np.full(len(files), 1 / len(files)), size=min(AT_ONCE, DRAWS - start))
        weights = times @ counts
        means = np.divide(times @ sums, weights, out=np.full(weights.shape, np.nan), where=weights > 0)
        drawn.append(np.nanmean(means, axis=1))  # a kind of which no file was drawn says nothing in this draw
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """The second of two models less the first, on the same items.

    Attributes:
        difference: of their scores.
        low, high: 95 % interval of it, as in `interval`; None for fewer than two files.
        p: probability of a difference at least as large, either way, if for each file the two were exchangeable.
        items, files: how many were compared.
    """

    difference: float
    low: float | None
    high: float | None
    p: float
    items: int
    files: int


def paired(
    first: Sequence[int | float],
    second: Sequence[int | float],
    media: Sequence[str],
    kinds: Sequence[str],
    overall: Overall,
) -> Paired:
    """Compare two models' scores of the same items: the sign-flip permutation test over files.

    The difference is a sum over files. If the models were alike, each file's share could as well have the other sign:
    p is the share of all choices of signs whose sum is at least as far from 0 as what was found. Up to `EXACT` files
    with a difference all choices are tried; beyond, `DRAWS` random ones and the one that was found.
    """
    differences = np.asarray(second, float) - np.asarray(first, float)
    files, file_of = np.unique(media, return_inverse=True)
    by_file = np.bincount(file_of, differences * _weights(kinds, overall), len(files))
    low, high = interval(differences.tolist(), media, kinds, overall) or (None, None)
    p = _sign_flips(by_file[np.abs(by_file) > 1e-12])
    return Paired(float(by_file.sum()), low, high, p, len(differences), len(files))


def _sign_flips(shares: Float64[np.ndarray, " files"]) -> float:
    found, n = abs(shares.sum()) - 1e-12, len(shares)  # sums of the same numbers in another order differ by rounding
    if n <= EXACT:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float((np.abs(signs @ shares) >= found).mean())
    rng = np.random.default_rng(SEED)
    as_far = 1
    for start in range(0, DRAWS, AT_ONCE):
        signs = 1 - 2 * rng.integers(0, 2, (min(AT_ONCE, DRAWS - start), n))
        as_far += int((np.abs(signs @ shares) >= found).sum())
    return as_far / (DRAWS + 1)


def _weights(kinds: Sequence[str], overall: Overall) -> Float64[np.ndarray, " items"]:
    """Of each item; they add up to 1."""
    if overall == "micro":
        return np.full(len(kinds), 1 / len(kinds))
    names, kind_of = np.unique(kinds, return_inverse=True)
    counts: Int64[np.ndarray, " kinds"] = np.bincount(kind_of)
    return 1 / (len(names) * counts[kind_of])
