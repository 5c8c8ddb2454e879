"""The figure of the README and the home page: what is left of a clip's frames after DiffFP.

python scripts/readme_figures.py        writes docs/media/seen.png
"""

from pathlib import Path

import vl3ref
from vl3ref.inspection import inspect_part
from vl3ref.plots import contact_sheet

MEDIA = Path(__file__).parents[1] / "docs" / "media"


def main() -> None:
    model, processor = vl3ref.load("vl3-tiny", "cpu")
    seen = inspect_part({"type": "video", "video": str(MEDIA / "tinyworld" / "turns.mp4")}, model, processor)
    contact_sheet(seen).savefig(MEDIA / "seen.png")


if __name__ == "__main__":
    main()
