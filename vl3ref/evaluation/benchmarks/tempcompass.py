"""TempCompass: short clips that differ in time alone, asked about in four forms."""

import re
from collections.abc import Iterator
from pathlib import Path

from vl3ref.evaluation.benchmark import Benchmark, Item, Judge, Verdict, right_if
from vl3ref.evaluation.choices import LETTERS, labelled, strict_choice
from vl3ref.evaluation.data import about, checked, table_rows

FORMS = {
    "yes_no": "Please answer with 'yes' or 'no' directly.",
    "captioning": "Please answer with the caption directly.",
    "caption_matching": "Please directly give the best option:",
    "multi-choice": "Please answer with the option's letter from the given choices directly "
    "and only give the best option.",
}

JUDGE = (
    "Choose the option of a multi-choice question that a description of a video tells to be right. Reply in two lines, "
    '"Reasoning: ..." and "Answer: ...", the latter with a letter, or with None if no option fits or the description '
    "does not tell.\nVideo Description: {}\nMulti-Choice Question:\n{}\n"
)
"""In our words; the authors' is TempCompass's own, with three examples."""


def items(root: Path) -> Iterator[Item]:
    for form, instruction in FORMS.items():
        for number, row in enumerate(table_rows(root / form / "test-00000-of-00001.parquet")):
            question, truth = row.text("question"), row.text("answer")
            asked = question.replace("Generated Caption:", "").strip() if form == "captioning" else question
            labels, options = labelled(question) if form in ("caption_matching", "multi-choice") else ([], [])
            named, _ = labelled(truth) if options else ([], [])
            letter = LETTERS[labels.index(named[0])] if named and named[0] in labels else ""
            yield about(
                "video",
                root / "videos" / f"{row.text('video_id')}.mp4",
                f"Question: {asked}\n{instruction}",
                letter if options else truth,
                id=f"{form} {number}",
                options=options,
                kind=f"{form}: {row.text('dim')}",
                trouble="its answer names none of its options" if options and not letter else "",
                more={"form": form, "truth": truth, "labels": labels, "question": question},
            )


# ------------------------------------------------------------------------------------------------------------ official


def official(item: Item, response: str, judge: Judge | None) -> Verdict:
    """Whether words begin with the right answer's: its letter, its number, yes or no. Captions are judged."""
    form, truth, said = item.more["form"], item.more["truth"], response.lower()
    if form == "captioning":
        return _judged(item, said, judge)
    if form == "yes_no":
        if "yes" not in said and "no" not in said:  # the authors' run ends here
            return Verdict("unparsed")
        return right_if(said.startswith(truth) or response == truth, response)
    start = truth.split(":" if form == "caption_matching" else ".")[0].strip().lower()
    for word in ("option", "sentence", "caption") if form == "caption_matching" else ():
        start, said = start.replace(word, "").strip(), said.replace(word, "").strip()
    return right_if(said.startswith(start) or response == truth, response)


def _judged(item: Item, said: str, judge: Judge | None) -> Verdict:
    if judge is None:
        return Verdict("needs a judge")
    question = item.more["question"].replace("\nGenerated Caption:", "").strip()
    reply = re.search(r"Answer: ([A-D]|None)", judge(JUDGE.format(said, question)))
    read = reply[1].lower() if reply else "none"
    start = item.more["truth"].split(".")[0].strip().lower()
    return right_if(read.startswith(start) or read == item.more["truth"], read)


# -------------------------------------------------------------------------------------------------------------- strict


def strict(item: Item, response: str) -> Verdict:
    """Captions are left out: no rule without a judge scores them."""
    if item.more["form"] == "captioning":
        return Verdict("skipped")
    if item.more["form"] != "yes_no":
        return strict_choice(item, response)
    begun = re.match(r"\W*(yes|no)\b(?! or\b| and\b|/)", response.lower())
    read = {begun[1]} if begun else {*re.findall(r"\b(?:yes|no)\b", response.lower())}
    return right_if(read == {item.answer.strip().lower()}, *read) if len(read) == 1 else Verdict("unparsed")


BENCHMARK = Benchmark(
    "tempcompass", "TempCompass", checked(items), official, strict, "micro", {"": (63.4, 68.1)}, video=True
)
