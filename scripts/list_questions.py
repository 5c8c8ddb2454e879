"""List the kinds of question that vl3-tiny was trained on, with an example each, in docs/tinyworld.md.

python scripts/list_questions.py
"""

import numpy as np
from report_tiny import ROOT, fill

from vl3ref.tinyworld.examination import as_markdown
from vl3ref.tinyworld.questions import Question
from vl3ref.tinyworld.samples import MAKERS, SKILLS

SEEDS = range(400)


def main() -> None:
    found: dict[str, Question] = {}
    for seed in SEEDS:
        for make in MAKERS.values():
            example = make(np.random.default_rng(seed), False)
            for question in (*example.questions, example.caption):
                if question.candidates >= 2:
                    found.setdefault(question.kind, question)
    rows = [["skill", "question", "answer", "other wordings"]]
    for skill in SKILLS:
        for question in (x for x in found.values() if x.skill == skill):
            first, *others = question.wordings()
            rows.append([skill, first, question.answer, str(len(others))])
    fill(ROOT / "docs" / "tinyworld.md", "questions", as_markdown(rows))


if __name__ == "__main__":
    main()
