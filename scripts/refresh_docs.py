"""Run the commands that a page names, and put what they print in their places.

    python scripts/refresh_docs.py [PAGE [WORD]]      docs/parity.md by default; only commands that hold the word

A page holds blocks of the form

    <!-- run: vl3ref parity --random tiny --markdown docs/results/parity-tiny.md -->
    ...
    <!-- end -->

Each command is run from the root of the repository and writes its table to the file it names. The block gets the
command, what the table says of itself, its summary, and a link.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"<!-- run: (?P<command>.*?) -->\n.*?<!-- end -->", re.DOTALL)


def refresh(page: Path, word: str) -> None:
    def run(match: re.Match[str]) -> str:
        command = match["command"]
        if word not in command:
            return match[0]
        print(command, flush=True)
        words = shlex.split(command)
        program = Path(sys.executable).parent / words[0]
        done = subprocess.run([program, *words[1:]], cwd=ROOT, capture_output=True, text=True)
        if done.returncode not in (0, 1):  # 1: rows past the tolerance, which the summary says
            raise SystemExit(done.stderr)
        table = ROOT / words[words.index("--markdown") + 1]
        content = table.read_text(encoding="utf-8")
        table.write_text(f"# {table.stem}\n\n`{command}`\n\n{content}", encoding="utf-8")
        summary, _, _ = content.partition("\n| ")
        link = f"[All rows]({os.path.relpath(table, page.parent)})."
        if "--plot" in words:
            plot = os.path.relpath(ROOT / words[words.index("--plot") + 1], page.parent)
            link += f"\n\n![errors along the data flow]({plot})"
        return f"<!-- run: {command} -->\n```\n{command}\n```\n{summary.strip()} {link}\n<!-- end -->"

    page.write_text(BLOCK.sub(run, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    page = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else ROOT / "docs" / "parity.md"
    refresh(page, word=sys.argv[2] if len(sys.argv) > 2 else "")
