"""Confidence intervals and paired tests: values worked out by hand, coverage, and false alarms."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vl3ref.evaluation.statistics import DRAWS, EXACT, Paired, interval, mean, paired

ONE = ["", "", "", ""]


@pytest.mark.parametrize(
    ("scores", "kinds", "micro", "macro"),
    [
        ([1, 0, 0, 1], ONE, 0.5, 0.5),
        ([1, 1, 1, 0], ["a", "a", "a", "b"], 0.75, 0.5),
        ([0.25, 0.75, 1, 1], ["a", "a", "b", "c"], 0.75, 2.5 / 3),
        ([0.3], ["x"], 0.3, 0.3),
    ],
)
def test_means(scores: list[float], kinds: list[str], micro: float, macro: float) -> None:
    assert mean(scores, kinds, "micro") == pytest.approx(micro)
    assert mean(scores, kinds, "macro") == pytest.approx(macro)


def test_two_files_are_drawn_together_or_twice() -> None:
    """Means of 0, 1/2 and 1 come with probability 1/4, 1/2 and 1/4: the interval reaches from end to end."""
    assert interval([0, 0, 1], ["a", "a", "b"], ONE[:3], "micro") == (0, 1)


@pytest.mark.parametrize("overall", ["micro", "macro"])
def test_intervals_that_need_no_chance(overall: str) -> None:
    assert interval([0.5] * 4, [*"abcd"], ["x", "x", "x", "y"], overall) == (0.5, 0.5)  # type: ignore[arg-type]
    assert interval([1, 0, 1, 0], ["a", "a", "b", "b"], ONE, overall) == (0.5, 0.5)  # type: ignore[arg-type]
    assert interval([1, 0], ["a", "a"], ONE[:2], overall) is None  # type: ignore[arg-type]


def test_questions_about_one_file_are_no_new_evidence() -> None:
    """Ten equal answers about each of 40 files: as wide as one about each, sqrt(10) times what 400 files give."""
    rng = np.random.default_rng(5)
    by_file = rng.integers(0, 2, 40).tolist()
    files = [str(number) for number in range(40)]
    once = interval(by_file, files, [""] * 40, "micro")
    tenfold = interval(np.repeat(by_file, 10).tolist(), np.repeat(files, 10).tolist(), [""] * 400, "micro")
    assert once is not None and tenfold is not None
    assert tenfold == pytest.approx(once)
    share = float(np.mean(by_file))
    error = math.sqrt(share * (1 - share) / 40)  # of a mean of 40, by the binomial
    assert once[1] - once[0] == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    """60 samples of 50 files with three answers each, all right with a probability that differs from file to file."""
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(60):
        chances = rng.beta(2, 2, 50)
        scores = (rng.random((50, 3)) < chances[:, None]).astype(float).flatten()
        ends = interval(scores.tolist(), np.repeat(np.arange(50), 3).astype(str).tolist(), [""] * 150, "micro")
        assert ends is not None
        held += ends[0] <= 0.5 <= ends[1]
    assert 52 <= held <= 60  # 57 expected


def test_a_kind_of_which_nothing_is_drawn_is_left_out_of_that_draw() -> None:
    """y is wrong, and missing in (3/4)^4 = 32 % of the draws; x is right, and missing in less than 1 %."""
    assert interval([1, 1, 1, 0], [*"abcd"], ["x", "x", "x", "y"], "macro") == (0.5, 1)


@pytest.mark.parametrize(
    ("first", "second", "media", "expected"),
    [
        ([0, 0, 0], [1, 1, 1], [*"abc"], (1.0, 2 / 8)),  # +++ and ---, of 8
        ([0, 0, 0, 0], [1, 1, 1, 0], [*"abcd"], (0.75, 2 / 8)),  # no difference, no sign
        ([0, 1, 0], [1, 0, 1], [*"abc"], (1 / 3, 1.0)),  # every choice of signs is as far from 0 as 1
        ([0, 0, 0], [1, 1, 1], [*"aab"], (1.0, 2 / 4)),  # +2 and +1: of 3, 1, -1 and -3 two are as far
        ([1, 0], [1, 0], [*"ab"], (0.0, 1.0)),
        ([0] * 10, [1] * 9 + [0], [*"abcdefghij"], (0.9, 2 / 512)),
    ],
)
def test_sign_flips_by_hand(
    first: list[float], second: list[float], media: list[str], expected: tuple[float, float]
) -> None:
    found = paired(first, second, media, [""] * len(first), "micro")
    assert (found.difference, found.p) == pytest.approx(expected)
    assert (found.items, found.files) == (len(first), len(set(media)))


def test_kinds_weigh_alike_in_a_macro_comparison() -> None:
    """The only item of kind y weighs as much as three of kind x: 3/2 - 1/2 x 3 x 1/3 = 0."""
    found = paired([0, 0, 0, 1], [1, 1, 1, 0], [*"abcd"], [*"xxxy"], "macro")
    assert found.difference == pytest.approx(0) and found.p == 1


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=9))
def test_all_signs_are_tried(differences: list[float]) -> None:
    n = len(differences)
    media = [str(number) for number in range(n)]
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in itertools.product((1, -1), repeat=n)
    ]
    expected = sum(abs(x) >= abs(sum(differences)) - 1e-9 for x in sums) / 2**n
    forth = paired([0.0] * n, differences, media, [""] * n, "micro")
    back = paired(differences, [0.0] * n, media, [""] * n, "micro")
    assert forth.p == pytest.approx(expected) == pytest.approx(back.p)
    assert forth.difference == pytest.approx(-back.difference)


def test_many_files_are_tried_by_chance_and_agree_with_the_normal_approximation() -> None:
    differences = [1.0] * 60 + [-1.0] * 40
    assert len(differences) > EXACT
    found = paired([0] * 100, differences, [str(number) for number in range(100)], [""] * 100, "micro")
    exact = sum(math.comb(100, k) for k in range(101) if abs(2 * k - 100) >= 20) / 2**100  # 0.0569
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact / DRAWS))
    assert found == paired([0] * 100, differences, [str(number) for number in range(100)], [""] * 100, "micro")
    assert isinstance(found, Paired) and found.low is not None and found.low < 0.2 < (found.high or 0)
