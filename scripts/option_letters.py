"""Multiple choice in three ways: the letter that a model generates, the likeliest letter, and the likeliest option.

python scripts/option_letters.py [MODEL] [QUESTIONS]        default: vl3-tiny, 50 of each skill

The options are what one could guess among in each picture or clip. Fills the table of docs/recipes/likelihood.md.
"""

import sys
from typing import Any

import numpy as np
from report_tiny import ROOT, fill

import vl3ref
from vl3ref.generation import score
from vl3ref.inputs.processor import Processor
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.tinyworld import held_out
from vl3ref.tinyworld.examination import SEED
from vl3ref.training.samples import to_conversation

SKILLS = ("colour", "shape", "count", "position", "chart", "motion", "order", "change")
LETTERS = "ABCD"
WAYS = ("letter, generated", "letter, likeliest", "option, likeliest")


def main(name: str, questions: int) -> None:
    model, processor = vl3ref.load(name, "cpu")
    table = [["skill", *WAYS], ["---", *["---:"] * len(WAYS)]]
    total = np.zeros(len(WAYS))
    for skill in SKILLS:
        asked = [(x, sample) for x, sample in held_out(skill, SEED, questions) if x.candidates > 1]
        right = np.zeros(len(WAYS))
        rng = np.random.default_rng(SEED)
        for question, sample in asked:
            others = sorted({*question.choices} - {question.answer})
            options = rng.permutation([question.answer, *rng.permutation(others)[:3]]).tolist()
            right += ask(model, processor, to_conversation(sample)[:-1], options, question.answer)
        share = right / len(asked)
        table.append([skill, *(f"{x:.0%}" for x in share)])
        total += share
        print(", ".join(table[-1]), flush=True)
    table.append(["all", *(f"{x:.0%}" for x in total / len(SKILLS))])
    fill(ROOT / "docs" / "recipes" / "likelihood.md", "letters", "".join(f"| {' | '.join(row)} |\n" for row in table))


def ask(
    model: VideoLLaMA3, processor: Processor, question: list[dict[str, Any]], options: list[str], answer: str
) -> list[bool]:
    """Which of `WAYS` find the right option."""
    end = processor.tokenizer.special("<|im_end|>")
    lettered = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    *parts, wording = question[0]["content"]
    text = f"{wording['text']}{lettered}\nAnswer with the letter of the right option."
    prompt = processor([{"role": "user", "content": [*parts, {**wording, "text": text}]}])
    letter = LETTERS[options.index(answer)]
    letters = [*LETTERS[: len(options)]]
    complete = [[*processor.tokenizer.encode(option)[0], end] for option in options]
    return [
        processor.decode(model.generate(prompt, max_new_tokens=4)[0]).strip(". ") == letter,
        letters[int(score(model, prompt, letters, processor).argmax())] == letter,
        options[int(score(model, processor(question), complete).argmax())] == answer,
    ]


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0] if given else "vl3-tiny", int(given[1]) if len(given) > 1 else 50)
