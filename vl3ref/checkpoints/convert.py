"""A checkpoint folder in one layout -> a complete folder in the other."""

from pathlib import Path

from vl3ref.checkpoints.layouts import read_config
from vl3ref.checkpoints.loading import load_model, load_processor
from vl3ref.checkpoints.saving import save, save_model
from vl3ref.config import Layout
from vl3ref.errors import CheckpointError
from vl3ref.hub import find_checkpoint


def convert(source: str | Path, target: str | Path, layout: Layout) -> Path:
    """Rewrite a checkpoint in another layout, its dtype kept: weights, tokenizer, processor settings, chat template.

    A folder without a tokenizer is converted without one.

    Args:
        source: a checkpoint folder of either layout, or a name.
        target: a folder that does not exist yet, or is empty.

    Returns:
        The target folder.

    Raises:
        CheckpointError: the target holds files already, or the tokenizer has no room for the layout's visual tokens.
        ConfigError: the layout cannot express the model.
    """
    folder, target = find_checkpoint(source), Path(target).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} exists and is not empty; name a new folder")
    model = load_model(folder, device="cpu", dtype=read_config(folder).dtype)
    if not any((folder / name).exists() for name in ("tokenizer.json", "merges.txt")):
        return save_model(model, target, layout)
    return save(model, load_processor(folder), target, layout)
