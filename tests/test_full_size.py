"""The 2B's own geometry with random weights: too large for every run (`make test-slow`; 12 GB of memory and disk)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import GOLDENS, ROOT

CLIP = ROOT / "docs" / "media" / "bunny.mp4"
QUESTION = "What happens in the video?"
NEW_TOKENS = 6

TRANSFORMERS = """
import sys, torch, transformers, vl3ref
folder, clip, question = sys.argv[1:4]
processor = vl3ref.load_processor(folder)
clip = {"type": "video", "video": clip, "max_frames": 3}
inputs = processor([{"role": "user", "content": [clip, question]}], max_tokens=150)
keep = vl3ref.model.diff_fp.DiffFP()(inputs)
video = inputs.input_ids == processor.config.video_token_id
kept = torch.ones_like(video)
kept[video] = keep
model = transformers.VideoLlama3ForConditionalGeneration.from_pretrained(folder, dtype="float32").eval()
ids = inputs.input_ids[kept][None]
answer = model.generate(
    input_ids=ids, pixel_values_videos=inputs.pixel_values, video_grid_thw=inputs.grid_sizes,
    video_merge_sizes=inputs.merge_sizes, video_compression_mask=keep, do_sample=False, max_new_tokens=int(sys.argv[4]),
)
print(answer[0, ids.shape[1]:].tolist())
"""


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_ask_on_a_full_size_checkpoint_says_what_transformers_says(tmp_path: Path) -> None:
    official, hf = tmp_path / "2b", tmp_path / "2b-hf"
    tokenizer = GOLDENS / "tokenizer"
    run(sys.executable, "scripts/make_random.py", "2b", str(official), "--tokenizer", str(tokenizer))
    vl3ref = str(Path(sys.executable).parent / "vl3ref")
    options = ("--model", str(official), "--max-frames", "3", "--visual-tokens", "150", "--max-tokens", str(NEW_TOKENS))
    ours = json.loads(run(vl3ref, "ask", str(CLIP), QUESTION, *options, "--device", "cpu", "--json"))
    run(vl3ref, "convert", str(official), str(hf), "--to", "hf")
    theirs = run(sys.executable, "-c", TRANSFORMERS, str(hf), str(CLIP), QUESTION, str(NEW_TOKENS))
    assert len(ours["ids"]) == NEW_TOKENS
    assert ours["ids"] == json.loads(theirs)
