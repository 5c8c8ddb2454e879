"""The table of docs/recipes/finetune.md: fine-tuning on 200 samples, in several ways, and what is forgotten meanwhile.

python scripts/finetune_table.py [FOLDER] [MODEL]        default: runs/finetune, vl3-tiny

Each row is a run of about a minute on one core. Rows that are there already (FOLDER/rows.json) are not run again.
"""

import json
import re
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import vl3ref
from vl3ref.tinyworld import examine
from vl3ref.tinyworld.examination import overall
from vl3ref.training.held_out import evaluate
from vl3ref.training.lora import LoRA
from vl3ref.training.run import train
from vl3ref.training.stages import OFFICIAL_2B
from vl3ref.training.trainer import Plan

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "recipes" / "finetune.md"
NARROW, WIDE = (LoRA(r, r, dropout=0, targets="both") for r in (16, 64))
ROWS: dict[str, tuple[float, LoRA | None, bool]] = {
    "full, 1e-5": (1e-5, None, False),
    "full, 1e-4": (1e-4, None, False),
    "full, 5e-4": (5e-4, None, False),
    "full, 5e-4, old data mixed in": (5e-4, None, True),
    "LoRA r=16, 2e-3": (2e-3, NARROW, False),
    "LoRA r=16, 2e-3, old data mixed in": (2e-3, NARROW, True),
    "LoRA r=64, 2e-3": (2e-3, WIDE, False),
    "LoRA r=64, 2e-3, old data mixed in": (2e-3, WIDE, True),
}
"""Name -> learning rate of all parts, LoRA or all weights, and whether old.jsonl is trained on as well."""

EPOCHS, BATCH, QUESTIONS = 10, 16, 50


def main(folder: Path, model: str) -> None:
    warnings.simplefilter("ignore")
    data = folder / "toys"
    if not data.exists():
        subprocess.run([sys.executable, ROOT / "scripts" / "make_finetune_set.py", data], check=True)
    path = folder / "rows.json"
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in ["before", *ROWS]:
        if name not in rows:
            rows[name] = row(name, folder / re.sub("[^a-z0-9]+", "-", name.lower()), data, model)
            path.write_text(json.dumps(rows, indent=1) + "\n")
            print(name, rows[name], flush=True)
    page = PAGE.read_text(encoding="utf-8")
    cut = re.compile("(<!-- table -->\n).*(<!-- end -->)", re.DOTALL)
    shown = {name: rows[name] for name in ["before", *ROWS]}
    PAGE.write_text(cut.sub(lambda marks: marks[1] + table(shown) + marks[2], page), encoding="utf-8")


def row(name: str, folder: Path, data: Path, model: str) -> dict[str, float]:
    began, loaded, written = time.time(), vl3ref.load(model, "cpu"), 0
    if name != "before":
        lr, lora, mixed = ROWS[name]
        stage = replace(OFFICIAL_2B[3], decoder_lr=lr, projector_lr=lr, vision_lr=lr)
        files = [data / "train.jsonl", *([data / "old" / "old.jsonl"] if mixed else [])]
        plan = Plan(epochs=EPOCHS, batch_size=BATCH, workers=0)
        shutil.rmtree(folder, ignore_errors=True)
        final = train(files, stage, model, folder, plan, device="cpu", lora=lora)
        loaded = vl3ref.load(model, "cpu", adapter=final) if lora else vl3ref.load(final, "cpu")
        written = sum(file.stat().st_size for file in final.iterdir())
    seconds = time.time() - began
    return {
        "exact": evaluate(*loaded, data / "test.jsonl").score,
        "options": evaluate(*loaded, data / "test.jsonl", "options").score,
        "old": overall(examine(*loaded, questions=QUESTIONS)),
        "seconds": seconds if name != "before" else 0,
        "megabytes": written / 1e6,
    }


def table(rows: dict[str, Any]) -> str:
    lines = ["| run | new: exact | new: likeliest option | old: tinyworld | minutes | MB |", "|---|" + "---:|" * 5]
    for name, x in rows.items():
        cost = f"{x['seconds'] / 60:.1f} | {x['megabytes']:.1f}" if x["seconds"] else " | "
        lines.append(f"| {name} | {x['exact']:.0%} | {x['options']:.0%} | {x['old']:.1%} | {cost} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = [*sys.argv[1:], *["runs/finetune", "vl3-tiny"][len(sys.argv) - 1 :]]
    main(Path(given[0]), given[1])
