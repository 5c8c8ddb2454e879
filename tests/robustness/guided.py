"""Mutations that coverage guides, where atheris has a wheel (Linux, from Python 3.11 on): make fuzz-guided.

    python -m tests.robustness.guided CORPUS -max_total_time=600

An input's first byte chooses what the rest is: a config.json, a safetensors header, annotations or a conversation.
`fuzz` reaches decoders and whole checkpoints; this reaches branches of our own code that mutations by chance do not.
"""

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["vl3ref"]):
    import vl3ref
    from vl3ref.checkpoints import read_config
    from vl3ref.checkpoints.tensor_files import TensorFiles
    from vl3ref.training.annotations import Annotations

ROOT = Path(__file__).parents[2]
TINY = ROOT / "weights" / "vl3-tiny"


def seeds() -> dict[str, bytes]:
    """A valid input of each kind."""
    weights = (TINY / "model.safetensors").read_bytes()
    said = [{"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]}]
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A chart."}]
    sample = {"image": ["tinyworld/chart.png"], "conversations": turns}
    return {
        "config": b"\0" + (TINY / "config.json").read_bytes(),
        "header": b"\1" + weights[: 8 + int.from_bytes(weights[:8], "little")],
        "annotations": b"\2" + json.dumps([sample]).encode(),
        "messages": b"\3" + json.dumps(said).encode(),
    }


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    config, weights, annotations = folder / "config.json", folder / "model.safetensors", folder / "data.json"
    _, processor = vl3ref.load(TINY, device="cpu")

    def attempt(data: bytes) -> None:
        kind, content = (data[0] % 4, data[1:]) if data else (0, b"")
        try:
            if kind == 0:
                config.write_bytes(content)
                read_config(folder)
            elif kind == 1:
                weights.write_bytes(content)
                TensorFiles(folder)
            elif kind == 2:
                annotations.write_bytes(content)
                found = Annotations([annotations], ROOT / "docs" / "media")
                for index in range(len(found)):
                    found.conversation(index)
            else:
                try:
                    said = json.loads(content)
                except (ValueError, RecursionError):
                    return
                processor(said, max_tokens=64)
        except vl3ref.VL3Error:
            pass

    warnings.simplefilter("ignore")
    corpus = next((Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")), None)
    if corpus is not None:
        os.makedirs(corpus, exist_ok=True)
        for name, content in seeds().items():
            (corpus / name).write_bytes(content)
    atheris.Setup(sys.argv, attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
