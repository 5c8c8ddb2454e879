"""MLVU (dev, multiple choice): seven tasks about long videos."""

from collections.abc import Iterator
from pathlib import Path

from vl3ref.evaluation.benchmark import Benchmark, Item
from vl3ref.evaluation.choices import choice_prompt, letter_of, official_choice, strict_choice
from vl3ref.evaluation.data import about, checked, json_rows

TASKS = {
    "7_topic_reasoning": "TR:  (Topic Reasoning)",
    "6_anomaly_reco": "AR:  (Anomaly Recognition)",
    "2_needle": "NQA: (Needle QA)",
    "3_ego": "ER:  (Ego Reasoning)",
    "1_plotQA": "PQA: (Plot QA)",
    "4_count": "AC:  (Action Count)",
    "5_order": "AO:  (Action Order)",
}


def items(root: Path) -> Iterator[Item]:
    """Where the answer is none of the candidates, the authors' code takes the previous question's letter."""
    truth = ""
    for task, kind in TASKS.items():
        for number, row in enumerate(json_rows(root / "json" / f"{task}.json")):
            options = row.texts("candidates")
            letter, trouble = letter_of(row.text("answer"), options)
            truth = letter or truth
            yield about(
                "video",
                root / "video" / task / row.text("video"),
                choice_prompt(row.text("question"), options),
                letter,
                id=f"{task} {number}",
                options=options,
                kind=kind,
                trouble=trouble,
                more={"truth": truth},
            )


BENCHMARK = Benchmark(
    "mlvu", "MLVU", checked(items), official_choice, strict_choice, "micro", {"": (65.4, 73.0)}, video=True
)
