"""What the image stages are worth: as many clips learnt after them, and without them.

python scripts/image_stages.py [RUN] [STEPS] [QUESTIONS]

By default: runs/tiny, 600 steps of 32 clips, 300 questions of each skill.

Both arms start from the same decoder (text) and the same encoder (siglip) and learn from the same number of clips, all
parts trained, at stage 3's rates. One has been through stages 1 and 2 before. The table goes into
docs/results/vl3-tiny.md.
"""

import sys
from dataclasses import replace
from pathlib import Path

from report_tiny import RESULTS, ROOT, fill

import vl3ref
from vl3ref.tinyworld import TIME_SKILLS
from vl3ref.tinyworld.examination import Column, Table, examine_all
from vl3ref.tinyworld.recipe import NOTHING, PHASES, Phase, train_tiny
from vl3ref.training.stages import TINY

ARMS = {"with the image stages": PHASES[:4], "without them": PHASES[:2]}


def main(run: Path, steps: int, questions: int) -> None:
    clips = Phase(replace(TINY[2], name="clips"), {"clip": 1}, NOTHING, 0.2, steps)
    table = Table()
    for number, (name, before) in enumerate(ARMS.items(), start=1):
        folder = run / f"image-stages-{number}"
        folder.mkdir(exist_ok=True)
        for phase in before:
            if not (folder / phase.name).exists():
                (folder / phase.name).symlink_to((run / phase.name).absolute())
        model, processor = vl3ref.load(train_tiny(folder, (*before, clips), resume=True), "cpu")
        table.add(name, examine_all(model, processor, Column(TIME_SKILLS), questions))
        print(f"{name}: {table.overall(name):.1%}", flush=True)
    told = f"{steps * clips.batch:,} clips in each arm, {questions} questions of each skill.\n\n"
    fill(RESULTS / "vl3-tiny.md", "claim", told + table.as_markdown())


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        Path(given[0]) if given else ROOT / "runs" / "tiny",
        int(given[1]) if len(given) > 1 else 600,
        int(given[2]) if len(given) > 2 else 300,
    )
