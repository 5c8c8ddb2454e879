"""Metrics beside worked examples and published implementations' results; and what holds for every text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vl3ref.errors import InputError
from vl3ref.evaluation.metrics import (
    anls,
    exact_match,
    levenshtein,
    normalised,
    number_in,
    read_choice,
    read_srt,
    relaxed,
    relaxed_accuracy,
    subtitles_at,
)


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("same", "same", 0), ("ab", "ba", 2)],
)
def test_levenshtein(a: str, b: str, distance: int) -> None:
    assert levenshtein(a, b) == levenshtein(b, a) == distance


@pytest.mark.parametrize(
    ("response", "answers", "cut_at_half", "uncut"),
    [
        # lmms-eval 0.7.3's `anls`, run on the same
        ("itc limited", ["ITC Limited", "itc"], 1.0, 1.0),
        ("ITC  Limited\n", ["itc limited"], 1.0, 1.0),
        ("$ 975", ["$ 975.00"], 0.625, 0.625),
        ("abcd", ["abxy"], 0.5, 0.5),  # at the cut itself
        ("abcd", ["axyz"], 0.0, 0.25),
        ("", ["abc"], 0.0, 0.0),
        ("", [""], 1.0, 1.0),
        ("Paul is his name", ["Paul"], 0.0, 0.25),
    ],
)
def test_anls(response: str, answers: list[str], cut_at_half: float, uncut: float) -> None:
    assert anls(response, answers) == pytest.approx(cut_at_half)
    assert anls(response, answers, cut=0.0) == pytest.approx(uncut)


@pytest.mark.parametrize(
    ("response", "answer", "strict", "forgiving"),
    [
        # strict: pix2struct's `relaxed_correctness`, which lmms-eval has too
        ("14", "14", True, True),
        ("14.7", "14", True, True),
        ("14.71", "14", False, False),
        ("13.3", "14", True, True),
        ("105", "100", True, True),
        ("-14", "14", False, False),
        ("12%", "0.12", True, True),
        ("12", "12%", False, True),  # a hundred times the number
        ("0.12", "12", False, True),  # a hundredth of it
        ("1200", "12", False, True),
        ("120", "12", False, False),
        ("nan", "14", False, False),
        ("0", "0", None, None),  # a zero is compared as text
        ("0.0", "0", None, None),
        ("blue", "Blue", None, None),
        ("14 %", "14%", True, True),
        ("1,400", "1400", None, None),
        ("5", "1e-322", False, False),  # whose hundredth is 0
    ],
)
def test_relaxed(response: str, answer: str, strict: bool | None, forgiving: bool | None) -> None:
    assert (relaxed(response, answer), relaxed(response, answer, forgiving=True)) == (strict, forgiving)


def test_relaxed_accuracy_compares_texts_but_for_their_case() -> None:
    assert relaxed_accuracy("blue", "Blue") and relaxed_accuracy("0", "0") and relaxed_accuracy("14.7", "14")
    assert not relaxed_accuracy("0.0", "0") and not relaxed_accuracy("blue ", "Blue")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("The  Red\nCar.", "red car"),
        (" (b) ", "b"),
        ("a", "a"),
        ("An apple!", "apple"),
        ("ＡＢ", "ab"),
        ("Anne", "anne"),
    ],
)
def test_normalised(text: str, form: str) -> None:
    assert normalised(text) == form and exact_match(text, form)


def test_punctuation_alone_equals_itself_only() -> None:
    assert exact_match("?", "?") and not exact_match("?", "!") and not exact_match("", "?")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("14", 14),
        ("The answer is 14.", 14),
        ("3 apples and 4 more, so the answer is 7", 7),
        ("3 + 4 = 7", 7),
        ("it is 3 or 4", None),
        ("it is 3, I say 3", 3),
        ("$1,234.50", 1234.5),
        ("x = .5", 0.5),
        ("-3", -3),
        ("12%", 12),
        ("the 5th of v2.5.1", None),
        ("", None),
        ("fourteen", None),
    ],
)
def test_number_in(text: str, number: float | None) -> None:
    assert number_in(text) == number


OPTIONS = ["red", "blue", "red car", "A man"]


@pytest.mark.parametrize(
    ("response", "named"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (B) ", "B"),
        ("(b)", "B"),
        ("B.", "B"),
        ("B. blue", "B"),
        ("B.blue", "B"),
        ("B: it is blue", "B"),
        ("B) blue", "B"),
        ("B - blue", "B"),
        ("B, because it is.", "B"),
        ("**B**", "B"),
        ('"B"', "B"),
        ("Ｂ．", "B"),
        ("B\nBecause (A) is bad", "B"),
        ("The answer is B", "B"),
        ("the answer is (b).", "B"),
        ("Answer: B. blue", "B"),
        ("The correct option is B.", "B"),
        ("It must be option B", "B"),
        (r"So $\boxed{B}$.", "B"),
        ("The answer is (B), since (A) is wrong", "B"),
        ("All in all that makes it (C)", "C"),
        ("B is the best answer", "B"),
        ("(B) is right", "B"),
        ("blue", "B"),
        ("The answer is blue.", "B"),
        ("It is a red car there", "C"),
        ("A man", "D"),
        # nothing, or two things
        ("", None),
        ("E", None),
        ("A woman runs", None),
        ("A dog", None),
        ("Because of it", None),
        ("A or B", None),
        ("The answer is A or B", None),
        ("(A) or (B)", None),
        ("A, B", None),
        ("B and (C)", None),
        ("(A) is wrong, the answer is (B)", "B"),
        ("B. red", None),
        ("It is red or blue", None),
        ("non-red", None),
        ("The answer is not B", None),
        ("I cannot tell", None),
        ("(A) is wrong, so (B)", None),
        ("B is wrong", None),
    ],
)
def test_read_choice(response: str, named: str | None) -> None:
    place = read_choice(response, OPTIONS)
    assert (None if place is None else "ABCD"[place]) == named


@pytest.mark.parametrize(
    ("response", "place"),
    [("Option 2: It turns.", 1), ("2", 1), ("option 1", 0), ("1. It moves", 0), ("It turns.", 1), ("12", None)],
)
def test_labels_of_other_kinds(response: str, place: int | None) -> None:
    assert read_choice(response, ["It moves.", "It turns."], ["1", "2"]) == place


def test_of_numbers_the_whole_number_counts() -> None:
    options = ["1", "10", "1.5"]
    assert [read_choice(text, options) for text in ("There are 10 of them", "10", "It is 1.5 m")] == [1, 1, 2]


# ----------------------------------------------------------------------------------------------------------- subtitles

SRT = """1
00:00:01,000 --> 00:00:02,000
Hello
you

2
00:00:02,500 --> 00:00:03,5
<i>It</i> <font color="red">moves</font>

3
00:00:04.000 --> 00:00:05.000

4
00:00:04,500 --> 01:00:00,000
numbers: 42
"""


@pytest.mark.parametrize(
    ("text", "subtitles"),
    [
        # pysubs2 1.8.0's, with \\N as a space
        (
            SRT,
            [
                (1000, 2000, "Hello you"),
                (2500, 3500, "{\\i1}It{\\i0} moves"),
                (4000, 5000, ""),
                (4500, 3600000, "numbers: 42"),
            ],
        ),
        ("\ufeff" + SRT[: SRT.index("\n\n")].replace("\n", "\r\n"), [(1000, 2000, "Hello you")]),
        ("00:00:01,000 --> 00:00:02,000 X1:10\nno number\\Nhere", [(1000, 2000, "no number here")]),
        (
            "junk\n0:0:1,0-->0:0:2,0\na\n\nb\n\n\n7\n00:00:03,000 --> 00:00:02,000\nc",
            [(1000, 2000, "a  b"), (3000, 2000, "c")],
        ),
    ],
)
def test_subtitles_as_pysubs2_reads_them(text: str, subtitles: list[tuple[int, int, str]], tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_bytes(text.encode())
    assert read_srt(tmp_path / "a.srt") == subtitles


def test_a_subtitle_is_shown_between_its_times_and_repeated_for_every_frame() -> None:
    subtitles = [(1000, 3000, "first"), (2000, 4000, "second"), (4000, 5000, " ")]
    assert subtitles_at(subtitles, [0.0, 1.0, 1.5, 2.5, 3.0, 3.5, 4.5, 9.0]) == ["first", "first", "second", "second"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "a.srt has no subtitle in it"),
        (b"1\n00:00:01,000\nHello", "a.srt has no subtitle in it"),
        (b"00:00:01,000 --> 00:00:02,000\n\xff\xfe", "a.srt is not UTF-8 text"),
        (None, "a.srt' does not exist"),
    ],
)
def test_damaged_subtitles(content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.srt").write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_srt(tmp_path / "a.srt")


# ---------------------------------------------------------------------------------------------- what holds for any text

texts = st.text(max_size=40) | st.from_regex(r"(answer is|option|\(|)? ?[A-Da-d1-9](\)|\.|:)? ?(red|%|\[|boxed\{)?")


@given(texts, texts, texts)
def test_distances_and_shares(a: str, b: str, c: str) -> None:
    assert levenshtein(a, b) == levenshtein(b, a) <= max(len(a), len(b))
    assert levenshtein(a, c) <= levenshtein(a, b) + levenshtein(b, c)
    assert (levenshtein(a, b) == 0) == (a == b)
    assert 0 <= anls(a, [b, c]) <= anls(a, [b, c], cut=0.0) <= 1
    assert anls(a, [b, a]) == 1 and anls(a, [b], cut=0.0) <= anls(a, [b, c], cut=0.0)


@given(texts, texts)
def test_what_is_equal_is_right(a: str, b: str) -> None:
    assert exact_match(a, a) and exact_match(a, b) == exact_match(b, a)
    assert relaxed_accuracy("answer", "answer") and (relaxed(a, b) is not True or relaxed(a, b, forgiving=True))


@given(texts, st.lists(texts, max_size=5))
def test_no_text_breaks_a_reader(response: str, options: list[str]) -> None:
    place = read_choice(response, options)
    assert place is None or 0 <= place < len(options)
    number_in(response)


@given(
    st.lists(st.sampled_from(["red", "blue", "green car", "yellow"]), min_size=2, max_size=4, unique=True), st.data()
)
def test_letters_and_texts_are_read_in_every_usual_form(options: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(options) - 1))
    form = data.draw(
        st.sampled_from(["{}", "({})", "{}.", "{}. {text}", "Answer: {}", "The best answer is: {}", "{text}."])
    )
    assert read_choice(form.format("ABCD"[place], text=options[place]), options) == place
