"""Below which mean log-probability an answer is called unsure: measured on held-out questions of the small world.

python scripts/unsure.py [MODEL] [QUESTIONS]        default: vl3-tiny, 100 of each skill

Half of the questions are in wordings that training never used. The threshold is the one that tells right from wrong
answers best (Youden's index: the share of wrong answers below it, less that of right ones). It is chosen on one seed
and measured on another. Fills docs/results/vl3-tiny.md, and writes the threshold into MODEL's generation_config.json.
"""

import json
import sys

import numpy as np
from report_tiny import RESULTS, fill

import vl3ref
from vl3ref.hub import find_checkpoint
from vl3ref.inputs.processor import Processor
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.tinyworld import SKILLS, held_out
from vl3ref.training.samples import to_conversation

CHOSEN_ON, MEASURED_ON = 3_000_001, 3_000_002
"""Seeds."""


def main(name: str, questions: int) -> None:
    model, processor = vl3ref.load(name, "cpu")
    chosen, measured = (answers(model, processor, seed, questions) for seed in (CHOSEN_ON, MEASURED_ON))
    threshold = round(best_threshold(*chosen), 2)
    log_probs, right = measured
    unsure = log_probs < threshold
    text = (
        f"Threshold {threshold:g}, chosen on {len(chosen[1])} questions. Of {len(right)} others, {right.mean():.0%} "
        f"were answered right. Called unsure were {unsure[~right].mean():.0%} of the wrong answers and "
        f"{unsure[right].mean():.0%} of the right ones; of a right and a wrong answer, the right one has the higher "
        f"mean log-probability in {auroc(log_probs, right):.0%} of all pairs (AUROC).\n"
    )
    print(text)
    fill(RESULTS / "vl3-tiny.md", "unsure", text)
    path = find_checkpoint(name) / "generation_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "unsure_below": threshold}, indent=2) + "\n", encoding="utf-8")


def answers(model: VideoLLaMA3, processor: Processor, seed: int, questions: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean log-probability of each answer's tokens, and whether it is right."""
    log_probs, right = [], []
    for skill in SKILLS:
        for new_wordings in (False, True):
            samples = [sample for _, sample in held_out(skill, seed, questions // 2, new_wordings)]
            for start in range(0, len(samples), 50):
                turns = [to_conversation(sample) for sample in samples[start : start + 50]]
                prompts = processor([conversation[:-1] for conversation in turns])
                said, scores = model.generate(prompts, max_new_tokens=64, return_log_probs=True)
                log_probs += [float(one.mean()) for one in scores]
                right += [processor.decode(x) == t[-1]["content"] for x, t in zip(said, turns, strict=True)]
        print(skill, f"{np.mean(right):.0%} right so far", flush=True)
    return np.array(log_probs), np.array(right)


def best_threshold(log_probs: np.ndarray, right: np.ndarray) -> float:
    candidates = np.unique(log_probs.round(2))
    return float(max(candidates, key=lambda x: (log_probs[~right] < x).mean() - (log_probs[right] < x).mean()))


def auroc(log_probs: np.ndarray, right: np.ndarray) -> float:
    above = log_probs[right][:, None] - log_probs[~right][None, :]
    return float((above > 0).mean() + (above == 0).mean() / 2)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0] if given else "vl3-tiny", int(given[1]) if len(given) > 1 else 100)
