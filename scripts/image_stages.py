"""What the image stages are worth: the same number of clips, with them before and without.

python scripts/image_stages.py [RUN] [STEPS] [QUESTIONS]

By default: runs/tiny, 600 steps of 32 clips, 300 questions of each skill.

Both arms start from the same decoder (text) and the same encoder (siglip). All their parts are trained on the same
number of clips, at stage 3's learning rates. One has been through stages 1 and 2 before. The table goes into
docs/results/vl3-tiny.md.
"""

import sys
from dataclasses import replace
from pathlib import Path

from report_tiny import RESULTS, ROOT, fill

import vl3ref
from vl3ref.tinyworld import TIME_SKILLS, Score, examine
from vl3ref.tinyworld.examination import as_markdown, overall
from vl3ref.tinyworld.recipe import NONE, PHASES, Phase, train_tiny
from vl3ref.training.stages import TINY

ARMS = {"with the image stages": PHASES[:4], "without them": PHASES[:2]}


def main(run: Path, steps: int, questions: int) -> None:
    clips = Phase(replace(TINY[2], name="clips"), {"clip": 1}, as_text=NONE, easy=0.2, steps=steps)
    columns: dict[str, dict[str, Score]] = {}
    for number, (name, before) in enumerate(ARMS.items(), start=1):
        folder = run / f"image-stages-{number}"
        folder.mkdir(exist_ok=True)
        for phase in before:
            if not (folder / phase.name).exists():
                (folder / phase.name).symlink_to((run / phase.name).absolute())
        model, processor = vl3ref.load(train_tiny(folder, (*before, clips), resume=True), "cpu")
        columns[name] = examine(model, processor, TIME_SKILLS, questions)
        print(f"{name}: {overall(columns[name]):.1%}", flush=True)
    setup = f"{steps * clips.batch_size:,} clips in each arm, {questions} questions of each skill.\n\n"
    fill(RESULTS / "vl3-tiny.md", "claim", setup + as_markdown(columns))


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        Path(given[0]) if given else ROOT / "runs" / "tiny",
        int(given[1]) if len(given) > 1 else 600,
        int(given[2]) if len(given) > 2 else 300,
    )
