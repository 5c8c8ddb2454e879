"""Where vl3-tiny goes wrong: the skills it knows least, by the kind of question.

python scripts/tiny_mistakes.py [QUESTIONS]            default: 150 of each skill
"""

import re
import sys
from collections import Counter

import vl3ref
from vl3ref.tinyworld import Answer, examine


def main(questions: int) -> None:
    kinds = {"position": position, "time": time, "reading": reading}
    for skill, score in examine(*vl3ref.load(device="cpu"), list(kinds), questions).items():
        tally = Counter((kinds[skill](answer), answer.right) for answer in score.answers)
        for kind in sorted({kind for kind, _ in tally}):
            print(f"{skill}, {kind}: {tally[kind, True]} right, {tally[kind, False]} wrong", flush=True)


def position(answer: Answer) -> str:
    return "relative to another thing" if "een from" in answer.question else "in the picture"


def time(answer: Answer) -> str:
    """By how many seconds the answer is off."""
    seconds = [float(found[0]) for text in (answer.expected, answer.given) if (found := re.search(r"\d+\.\d+", text))]
    return f"{abs(seconds[0] - seconds[1]):.1f} seconds off" if len(seconds) == 2 else "no time"


def reading(answer: Answer) -> str:
    return "numbers" if answer.expected.isdigit() else "words"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 150)
