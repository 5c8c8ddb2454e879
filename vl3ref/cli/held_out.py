"""`vl3ref eval` on annotations of one's own."""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from vl3ref.cli.interrupts import raising
from vl3ref.cli.options import chosen_change, write_text
from vl3ref.cli.printing import note, say_table, status
from vl3ref.errors import InputError


def evaluate_own(
    data: list[str],
    models: list[str] | None,
    adapter: str | None,
    change: str | None,
    pruners: list[str] | None,
    metric: str | None,
    media: Path | None,
    max_tokens: int | None,
    json_file: Path | None,
    device: str | None,
) -> None:
    """A table of scores, one for each model and pruner; and all answers, if a file is named for them."""
    if "tinyworld" in data:
        raise InputError("name tinyworld, or annotation files of your own: the two are asked in different ways")
    if media is not None and not media.is_dir():
        raise InputError(f"--media {media} is not a folder")
    import vl3ref
    from vl3ref.checkpoints import read_change
    from vl3ref.pruners import read_pruner
    from vl3ref.training.annotations import Annotations
    from vl3ref.training.held_out import evaluate

    judge: Any = metric or "exact"
    if judge not in ("exact", "options"):
        judge = read_change(judge, "a metric of one's own (beside exact and options)")
    samples = Annotations(data, media)
    changing = chosen_change(change)
    rows: dict[str, Any] = {}
    for name in models or ["vl3-tiny"]:
        network, processor = vl3ref.load(name, device, change=changing, adapter=adapter)
        for text in pruners or [""]:
            pruner = read_pruner(text, network) if text else None
            with raising(), status(f"asking {name} {len(samples)} questions"):
                rows[f"{name} {text}".strip()] = evaluate(network, processor, samples, judge, None, max_tokens, pruner)
    table = Table("model", metric or "exact", "samples")
    for label, result in rows.items():
        table.add_row(label, f"{result.score:.1%}", str(len(result.answers)))
    say_table(table)
    if json_file is not None:
        held = {label: {"score": x.score, "answers": [vars(one) for one in x.answers]} for label, x in rows.items()}
        write_text(json_file, json.dumps(held, indent=1) + "\n")
        note(f"wrote every answer to {json_file}")
