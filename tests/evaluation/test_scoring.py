"""What the official rules make of answers, faults included, and what the strict ones do.

Each table has a benchmark's rules beside worked examples; lines with a comment are faults of the authors' evaluation.
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.benchmark_data import NAMES, judge_that_says, outcomes
from vl3ref.evaluation.benchmark import Item
from vl3ref.evaluation.benchmarks import BENCHMARKS


def item(answer: Any, options: list[str] | None = None, **more: Any) -> Item:
    return Item("1", "file", [], answer, options or (), more=more)


@pytest.mark.parametrize("name", NAMES)
def test_the_right_words_are_right(name: str, all_items: dict[str, list[Item]]) -> None:
    """By both protocols, in the form that the prompt asks for; but for what is hidden, judged or left out."""
    benchmark = BENCHMARKS[name]
    for one in all_items[name]:
        words = one.answer if isinstance(one.answer, str) else one.answer[0] if one.answer else "A"
        labels = one.more.get("labels")
        words = labels["AB".index(words)] if labels else words
        found = benchmark.official(one, words, None).outcome, benchmark.strict(one, words).outcome
        if name == "perceptiontest":
            assert found == ("skipped", "skipped")
        elif one.more.get("form") == "captioning":
            assert found == ("needs a judge", "skipped")
        elif (name == "mathvista" and one.options) or one.more.get(
            "type"
        ) == "list":  # only a judge reads "(B)" or a list
            assert found == ("needs a judge", "right")
        else:
            assert found == ("right", "right"), (one, words)


# ---------------------------------------------------------------------------------------------- official, strict: rules

CHARTQA = [
    ("14.5", ["14"], "right", "right"),
    ("15", ["14"], "wrong", "wrong"),
    ("1400", ["14"], "right", "wrong"),  # a hundred times the number
    ("0.14", ["14"], "right", "wrong"),
    ("12", ["12%"], "right", "wrong"),
    ("blue", ["Blue"], "right", "right"),
    ("navy", ["Blue"], "needs a judge", "wrong"),
    ("0.0", ["0"], "needs a judge", "wrong"),  # an answer of 0 is no number
    ("The value is 14", ["14"], "needs a judge", "wrong"),
    ("3", ["2", "3"], "right", "right"),
    ("", ["14"], "needs a judge", "unparsed"),
]


@pytest.mark.parametrize(("response", "answers", "official", "strict"), CHARTQA)
def test_chartqa(response: str, answers: list[str], official: str, strict: str) -> None:
    asked = item(answers, question="How many?", overwritten=False)
    assert outcomes("chartqa", asked, response) == (official, strict)
    judged = {"needs a judge": ("right", "wrong")}.get(official, (official, official))
    replies = judge_that_says("True"), judge_that_says("False.")
    assert tuple(BENCHMARKS["chartqa"].official(asked, response, judge).outcome for judge in replies) == judged


@pytest.mark.parametrize(
    ("response", "official", "strict"),
    [("itc limited", 1, 1), ("ITC  LIMITED", 11 / 12, 11 / 12), ("ITC", 3 / 11, 0), ("nothing", 1 / 11, 0), ("", 0, 0)],
)
def test_docvqa(response: str, official: float, strict: float) -> None:
    """A score below a half stays in the authors' evaluation."""
    asked, benchmark = item(["ITC Limited"]), BENCHMARKS["docvqa"]
    verdicts = benchmark.official(asked, response, None), benchmark.strict(asked, response)
    if "  " in response:  # the longer of the texts as they stand: a space counts in the length, and not as a fault
        official = strict = 1
    assert [verdict.score for verdict in verdicts] == pytest.approx([official, strict])
    assert verdicts[1].outcome == ("right" if strict == 1 else "wrong" if response else "unparsed")


CHOICES = ["3/11", "8/11", "6/11", "3/5"]
MATHVISTA: list[tuple[str, str, Any, str, str, str | None]] = [
    # response, type, options or precision, official, strict, and official with a judge that says it is (B)
    ("8/11", "text", CHOICES, "right", "right", None),
    ("3/5", "text", CHOICES, "wrong", "wrong", None),
    ("(B) 8/11", "text", CHOICES, "needs a judge", "right", "right"),
    ("B", "text", CHOICES, "needs a judge", "right", "right"),
    ('The answer is "B".', "text", CHOICES, "right", "right", None),
    ('The answer is "(b)".', "text", CHOICES, "right", "right", None),
    ('The answer is " B".', "text", CHOICES, "right", "right", None),
    ('The answer is "8/1".', "text", CHOICES, "right", "unparsed", None),  # the nearest text
    ("", "text", CHOICES, "wrong", "unparsed", None),  # the shortest text
    ("8", "integer", CHOICES, "right", "unparsed", None),  # a number, and again the nearest text
    ("14", "integer", 0, "right", "right", None),
    ("14.0", "integer", 0, "needs a judge", "right", "unparsed"),
    ("The answer is 14.", "integer", 0, "needs a judge", "right", "unparsed"),
    ("It is 13 or 14", "integer", 0, "needs a judge", "unparsed", "unparsed"),
    ("1.22", "float", 1, "right", "right", None),
    ("1.3", "float", 1, "wrong", "wrong", None),
    ("", "float", 1, "unparsed", "unparsed", None),
    ("inf", "integer", 0, "needs a judge", "unparsed", "unparsed"),
    ('The answer is "inf".', "integer", 0, "unparsed", "unparsed", None),
    ("[2007,2008]", "list", 0, "needs a judge", "right", "wrong"),
    ('The answer is "[2007, 2008]".', "list", 0, "right", "right", None),
    ("[1] or [2]", "list", 0, "needs a judge", "unparsed", "wrong"),
]


@pytest.mark.parametrize(("response", "of_type", "given", "official", "strict", "judged"), MATHVISTA)
def test_mathvista(response: str, of_type: str, given: Any, official: str, strict: str, judged: str | None) -> None:
    several = isinstance(given, list)
    truth = "8/11" if several else {"integer": "14", "float": "1.2", "list": "[2007, 2008]"}[of_type]
    more = {"truth": truth, "type": of_type, "precision": 0 if several else given, "query": "Which?"}
    asked = item("B" if several else truth, CHOICES if several else None, **more)
    assert outcomes("mathvista", asked, response) == (official, strict)
    with_judge = BENCHMARKS["mathvista"].official(asked, response, judge_that_says("(B)")).outcome
    assert with_judge == (judged or official)


MMMU_PRO = [
    ("B", "right", "right"),
    ("(B)", "right", "right"),
    ("B.", "right", "right"),
    ("'B.'", "unparsed", "right"),  # marks are taken off in one fixed order
    ("The answer is (B)", "right", "right"),
    ("(A) is wrong, so (B)", "right", "unparsed"),  # the last one
    ("(B) and not (A)", "wrong", "right"),
    (r"\boxed{B}, surely (A)", "right", "right"),
    (r"\boxed{(B)}", "wrong", "right"),
    ("Option A or rather B it is", "right", "unparsed"),
    ("I think that it shows a blue car", "right", "right"),
    ("I see a red and then a blue car", "right", "unparsed"),  # the last one
    ("(B) or (A), no: (B)", "right", "unparsed"),  # the last one
    ("There is a blue car", "unparsed", "right"),  # texts are looked for in more than five words
    ("A man runs", "wrong", "unparsed"),  # an article
    ("none", "unparsed", "unparsed"),  # here the authors draw a letter
    ("", "unparsed", "unparsed"),
]


@pytest.mark.parametrize(("response", "official", "strict"), MMMU_PRO)
def test_mmmu_pro(response: str, official: str, strict: str) -> None:
    assert outcomes("mmmu-pro", item("B", ["red", "blue", "green"]), response) == (official, strict)


REALWORLDQA = [
    ("B", "right", "right"),
    ("b.", "right", "right"),
    ("B. Straight", "needs a judge", "right"),
    ("C", "needs a judge", "wrong"),  # a judge may forgive it
    ("", "unparsed", "unparsed"),  # the authors' run ends
    (".", "needs a judge", "unparsed"),
]


@pytest.mark.parametrize(("response", "official", "strict"), REALWORLDQA)
def test_realworldqa(response: str, official: str, strict: str) -> None:
    asked = item("B", ["Left", "Straight", "Right"])
    assert outcomes("realworldqa", asked, response) == (official, strict)
    if official == "needs a judge":
        assert outcomes("realworldqa", asked, response, judge_that_says("True"))[0] == "right"
        assert outcomes("realworldqa", asked, response, judge_that_says(""))[0] == "wrong"


def test_realworldqa_without_options() -> None:
    assert outcomes("realworldqa", item("Yes"), "The yes.") == ("needs a judge", "right")
    assert outcomes("realworldqa", item("3"), "three") == ("needs a judge", "wrong")


FOUR = ["A. It falls.", "B. 3.", "C. It stays.", "D. It turns."]
VIDEOMME = [
    ("B", FOUR, "right", "right"),
    ("The best answer is: (B)", FOUR, "right", "right"),
    ("Because it is so", FOUR, "right", "unparsed"),  # any capital from A to D
    ("Cannot say", FOUR, "wrong", "unparsed"),
    ("A man, so B", FOUR, "wrong", "unparsed"),
    ("three of them", FOUR, "right", "unparsed"),  # numbers as words
    ("it stays", FOUR, "wrong", "wrong"),
    ("no idea", FOUR, "unparsed", "unparsed"),  # the authors' run ends
    ("no idea", ["A. It falls.", "B. 3", "C. Stays", "D. 4"], "right", "unparsed"),  # an option of one character is ""
    ("B", ["A. It falls.", "3", "C. Stays", "D. 4"], "broken", "right"),  # the authors' run ends
    ("", FOUR, "unparsed", "unparsed"),
]


@pytest.mark.parametrize(("response", "listed", "official", "strict"), VIDEOMME)
def test_videomme(response: str, listed: list[str], official: str, strict: str) -> None:
    asked = item("B", [option.removeprefix(f"{option[0]}. ") for option in listed], listed=listed)
    assert outcomes("videomme", asked, response) == (official, strict)


PERCEPTIONTEST = [
    ("B", "right", "right"),
    ("(B) It falls", "right", "right"),
    ("Because", "right", "unparsed"),  # any capital from A to C
    ("Answer: B", "right", "right"),
    ("it falls", "unparsed", "right"),  # the authors' run ends
    ("A dog, (B)", "wrong", "right"),
]
MLVU_AND_NEXTQA = [
    *PERCEPTIONTEST,
    ("B, because", "unparsed", "right"),  # the authors' run ends at the comma
    ("Yes, B", "unparsed", "unparsed"),  # here too
    ("( B )", "unparsed", "unparsed"),
    ("(B).", "right", "right"),
    ("D", "unparsed", "unparsed"),  # there are three options
]


@pytest.mark.parametrize(
    ("name", "response", "official", "strict"),
    [("perceptiontest", *row) for row in [*PERCEPTIONTEST, ("B, because", "right", "right")]]
    + [(name, *row) for name in ("mlvu", "nextqa") for row in MLVU_AND_NEXTQA],
)
def test_letters_of_videos(name: str, response: str, official: str, strict: str) -> None:
    options = ["It stands.", "It falls.", "It turns."]
    assert outcomes(name, item("B", options, video_id="1", id=1), response) == (official, strict)


MATCHING = {"form": "caption_matching", "truth": "Option 1: It moves.", "labels": ["1", "2"]}
TEMPCOMPASS: list[tuple[str, dict[str, Any], str, str]] = [
    ("Yes, it is.", {"form": "yes_no", "truth": "yes"}, "right", "right"),
    ("yesterday", {"form": "yes_no", "truth": "yes"}, "right", "unparsed"),  # it begins with yes
    ("It is: yes", {"form": "yes_no", "truth": "yes"}, "wrong", "right"),
    ("yes or no", {"form": "yes_no", "truth": "yes"}, "right", "unparsed"),
    ("maybe", {"form": "yes_no", "truth": "yes"}, "unparsed", "unparsed"),  # the authors' run ends
    ("nothing", {"form": "yes_no", "truth": "yes"}, "wrong", "unparsed"),
    ("A", {"form": "multi-choice", "truth": "A. It moves."}, "right", "right"),
    ("a dog that turns", {"form": "multi-choice", "truth": "A. It moves."}, "right", "unparsed"),  # it begins with a
    ("Answer: B", {"form": "multi-choice", "truth": "A. It moves."}, "right", "wrong"),
    ("The answer is A", {"form": "multi-choice", "truth": "A. It moves."}, "wrong", "right"),
    ("It moves.", {"form": "multi-choice", "truth": "A. It moves."}, "wrong", "right"),
    ("Option 1", MATCHING, "right", "right"),
    ("1: It moves.", MATCHING, "right", "right"),
    ("15 sentences", MATCHING, "right", "unparsed"),  # it begins with 1
    ("Caption option 1", MATCHING, "right", "right"),
    ("It moves.", MATCHING, "wrong", "right"),
    ("", MATCHING, "wrong", "unparsed"),
    ("It moves.", {"form": "captioning", "truth": "A. It moves."}, "needs a judge", "skipped"),
]


@pytest.mark.parametrize(("response", "more", "official", "strict"), TEMPCOMPASS)
def test_tempcompass(response: str, more: dict[str, Any], official: str, strict: str) -> None:
    several = more["form"] in ("caption_matching", "multi-choice")
    asked = item("A" if several else more["truth"], ["It moves.", "It turns."] if several else None,
                 **{"labels": ["A", "B"], "question": "What?", **more})  # fmt: skip
    assert outcomes("tempcompass", asked, response) == (official, strict)


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("Reasoning: so\nAnswer: A", "right"),
        ("Answer: B", "wrong"),
        ("Answer: None", "wrong"),
        ("A", "wrong"),
        ("", "wrong"),
    ],
)
def test_captions_are_judged(reply: str, outcome: str, all_items: dict[str, list[Item]]) -> None:
    asked = next(one for one in all_items["tempcompass"] if one.more["form"] == "captioning")
    prompts: list[str] = []

    def judge(prompt: str) -> str:
        prompts.append(prompt)
        return reply

    assert BENCHMARKS["tempcompass"].official(asked, "It MOVES", judge).outcome == outcome
    assert "it moves" in prompts[0] and "Information A" in prompts[0] and "Generated Caption" not in prompts[0]


# ------------------------------------------------------------------------------------------------------- for every text

PIECES = (
    'A b (B) ( ) , answer Answer: yes 14 1.2 % \\boxed{ } [ It moves Option 1 The answer is " ". e99 \n B. Straight'
)
words = st.text(max_size=60) | st.lists(st.sampled_from(PIECES.split(" ")), max_size=8).map(" ".join)


@given(words, st.sampled_from(["True", "", "Answer: B", "(B)", "14", "\0"]) | st.none())
def test_every_item_has_a_verdict_on_every_text(
    all_items: dict[str, list[Item]], response: str, reply: str | None
) -> None:
    judge = None if reply is None else judge_that_says(reply)
    for name, items in all_items.items():
        for one in items:
            for verdict in (
                BENCHMARKS[name].official(one, response, judge),
                BENCHMARKS[name].strict(one, response),
            ):
                assert 0 <= verdict.score <= 1 and verdict.outcome != "broken"
                assert (verdict.score == 1) == (verdict.outcome == "right")
                assert verdict.score == 0 or verdict.outcome in ("right", "wrong")
            assert judge is None or BENCHMARKS[name].official(one, response, judge).outcome != "needs a judge"
            assert BENCHMARKS[name].strict(one, response).outcome != "needs a judge"
