"""NextQA (multiple choice, test): why and when things happen in home videos."""

import re
from collections.abc import Iterator
from pathlib import Path

from vl3ref.errors import InputError, quoted
from vl3ref.evaluation.benchmark import Benchmark, Item
from vl3ref.evaluation.choices import LETTERS, choice_prompt, official_choice, strict_choice
from vl3ref.evaluation.data import Row, about, checked, csv_rows
from vl3ref.files import read_json

KINDS = {
    **dict.fromkeys(("DC", "DL", "DO"), "Descriptive"),
    **dict.fromkeys(("CH", "CW"), "Causal"),
    **dict.fromkeys(("TC", "TP", "TN"), "Temporal"),
}

NOTHING = re.compile(r"|#N/A( N/A)?|#NA|<NA>|N/A|n/a|NA|NULL|null|None|-?(NaN|nan)|-?1\.#(IND|QNAN)")
"""Words that pandas reads as no option at all."""


def items(root: Path) -> Iterator[Item]:
    """Options that pandas takes for nothing are not shown, as in the authors' evaluation.

    There, the answer still counts them: it is another option's letter, or none's.
    """
    places = Row("map_vid_vidorID.json", read_json(root / "map_vid_vidorID.json", InputError))
    for number, row in enumerate(csv_rows(root / "test.csv")):
        shown = [place for place in range(5) if not NOTHING.fullmatch(row.text(f"a{place}"))]
        options = [row.text(f"a{place}") for place in shown]
        if row.text("type") not in KINDS:
            raise InputError(f'{row.where}: "type" should be one of {", ".join(KINDS)}, not {quoted(row["type"])}')
        if row.text("answer") not in ("0", "1", "2", "3", "4") or not options:
            raise InputError(f'{row.where}: "answer" should be 0 to 4, of at least one option')
        answer = int(row.text("answer"))
        yield about(
            "video",
            root / "NExTVideo" / f"{places.text(row.text('video'))}.mp4",
            choice_prompt(row.text("question"), options),
            LETTERS[shown.index(answer)] if answer in shown else "",
            id=str(number),
            options=options,
            kind=KINDS[row.text("type")],
            trouble="" if answer in shown else "its answer is an option that is empty",
            more={"truth": LETTERS[answer]},
        )


BENCHMARK = Benchmark(
    "nextqa", "NextQA", checked(items), official_choice, strict_choice, "micro", {"": (81.1, 84.5)}, video=True
)
