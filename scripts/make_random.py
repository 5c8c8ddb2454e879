"""Write a full-size checkpoint of random weights in the official layout, to try a geometry without its checkpoint.

    python scripts/make_random.py 2b FOLDER --tokenizer tests/goldens/tokenizer

With the tokenizer of a folder (tokenizer.json, or merges.txt and added_tokens.json), `vl3ref ask` runs on it too.
The 2B takes 3.9 GB on disk, and about as much memory while it is made.
"""

import argparse
from pathlib import Path

import torch

from vl3ref.checkpoints import save_model
from vl3ref.config import PRESETS, preset
from vl3ref.inputs.tokenizer import Tokenizer
from vl3ref.model.initialise import random_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=list(PRESETS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="folder of a tokenizer to put beside the weights")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = random_model(preset(options.preset), options.seed, dtype=torch.bfloat16)
    save_model(model, options.folder)
    if options.tokenizer:
        Tokenizer.from_folder(options.tokenizer).backend.save(str(options.folder / "tokenizer.json"))
    print(options.folder)


if __name__ == "__main__":
    main()
