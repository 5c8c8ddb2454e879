"""Where vl3-tiny goes wrong: the skills it knows least, by the kind of question.

python scripts/tiny_mistakes.py [QUESTIONS]            default: 150 of each skill
"""

import re
import sys
from collections import Counter

import vl3ref
from vl3ref.tinyworld import held_out
from vl3ref.tinyworld.examination import SEED
from vl3ref.training.samples import to_conversation


def main(questions: int) -> None:
    model, processor = vl3ref.load(device="cpu")
    for skill, kind_of in {"position": position, "time": time, "reading": reading}.items():
        tally: Counter[tuple[str, bool]] = Counter()
        for sample in held_out(skill, SEED, questions):
            *asked, told = to_conversation(sample)
            answer = processor.decode(model.generate(processor(asked), 24)[0])
            question, right = asked[-1]["content"][-1]["text"], told["content"]
            tally[kind_of(question, right, answer), answer == right] += 1
        for kind in sorted({kind for kind, _ in tally}):
            print(f"{skill}, {kind}: {tally[kind, True]} right, {tally[kind, False]} wrong")


def position(question: str, *_: str) -> str:
    return "to another thing" if "een from" in question else "in the picture"


def time(_: str, right: str, answer: str) -> str:
    """By how many seconds the answer is off."""
    seconds = [re.search(r"[\d.]+", text) for text in (right, answer)]
    if not all(seconds):
        return "no time"
    first, second = (float(found[0]) for found in seconds if found)
    return f"{abs(second - first):.1f} seconds off"


def reading(_: str, right: str, __: str) -> str:
    return "numbers" if right.isdigit() else "words"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 150)
