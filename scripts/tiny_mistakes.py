"""Where vl3-tiny goes wrong: every kind of question, those it knows least first, each with some wrong answers.

python scripts/tiny_mistakes.py [MODEL] [QUESTIONS]            default: vl3-tiny, 150 of each skill
"""

import sys

import vl3ref
from vl3ref.tinyworld import Answer, examine


def main(name: str, questions: int) -> None:
    kinds: dict[str, list[Answer]] = {}
    for score in examine(*vl3ref.load(name, "cpu"), questions=questions).values():
        for answer in score.answers:
            kinds.setdefault(answer.asked.kind, []).append(answer)
    for kind, answers in sorted(kinds.items(), key=lambda item: share(item[1])):
        print(f"{kind}: {share(answers):.0%} of {len(answers)}")
        for wrong in [answer for answer in answers if not answer.right][:3]:
            print(f"    {wrong.wording} {wrong.expected!r}, not {wrong.given!r}")


def share(answers: list[Answer]) -> float:
    return sum(answer.right for answer in answers) / len(answers)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0] if given else "vl3-tiny", int(given[1]) if len(given) > 1 else 150)
