"""vl3-tiny from nothing: a tokenizer, a decoder that has read, an encoder that has looked, and the paper's four stages.

text     the decoder learns to answer about what it is told in words
siglip   the encoder learns which text tells of which picture
stage-1 ... stage-4, as in the paper, on the small world
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.errors import TrainingError
from vl3ref.inputs.chat import SYSTEM_PROMPT
from vl3ref.inputs.processor import Processor
from vl3ref.inputs.processor_config import ProcessorConfig
from vl3ref.inputs.tokenizer import Tokenizer, byte_level_bpe
from vl3ref.model.initialise import random_model
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.tinyworld import MAKERS, PICTURES, TinyWorld
from vl3ref.training.run_state import latest_checkpoint
from vl3ref.training.siglip import PairBatches, PairLoss, SigLIP
from vl3ref.training.stage_run import StateFiles, train_stage, write_checkpoint
from vl3ref.training.stages import TINY, Stage, freeze
from vl3ref.training.trainer import Plan, Trainer

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>"),
    *("<image>", "<|stream_start|>", "<|stream_end|>"),
)
VOCABULARY = 1024

PROCESSOR: dict[str, Any] = {
    "fps": 1,
    "max_frames": 180,
    "image_merge_size": 2,
    "video_merge_size": 2,
    "min_tokens": 4,
    "max_tokens": 4096,
}


def tiny_config(backend: Backend) -> ModelConfig:
    """Five million parameters, in the released models' proportions."""
    ids = {token: backend.token_to_id(token) or 0 for token in SPECIAL_TOKENS}
    return ModelConfig(
        vision=VisionConfig(hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6),
        language=LanguageConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            rope_theta=1e4,  # Qwen2.5's million leaves heads of 32 few pairs that turn within a short prompt
            tie_word_embeddings=True,
            bos_token_id=ids["<|endoftext|>"],
            eos_token_ids=(ids["<|im_end|>"], ids["<|endoftext|>"]),
        ),
        image_token_id=ids["<image>"],
        video_token_id=ids["<image>"],
        dtype="bfloat16",
    )


def tiny_tokenizer(seed: int = 0, samples: int = 4000) -> Backend:
    """All bytes, what merges in the small world's texts, and the special tokens."""
    backend = byte_level_bpe({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS) - 2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    world = TinyWorld(seed, HALF_CLIPS, as_text=EVERYTHING)
    texts = (turn["value"] for index in range(samples) for turn in world[index]["conversations"])
    roles = "system\nuser\nassistant\nstream\n"
    backend.train_from_iterator([SYSTEM_PROMPT, roles, roles, *texts], trainer)
    backend.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return backend


# -------------------------------------------------------------------------------------------------------------- phases


@dataclass(frozen=True)
class Phase:
    """A stretch of the recipe.

    Attributes:
        stage: what is trained, and how fast.
        mixture: how often each kind of picture, and clips, are seen, in comparison.
        as_text: share of each kind that is given as text instead of pixels.
        easy: share of the samples with few things in them.
        steps: of `batch` samples each.
    """

    stage: Stage
    mixture: Mapping[str, int | float]
    as_text: Mapping[str, int | float]
    easy: int | float
    steps: int
    batch: int = 32

    @property
    def name(self) -> str:
        return self.stage.name


CPU = torch.device("cpu")

NOTHING: Mapping[str, int | float] = {}
EVERYTHING = dict.fromkeys(MAKERS, 1.0)
HALF_CLIPS = {**PICTURES, "clip": sum(PICTURES.values())}
MORE_TO_READ = {"scene": 3, "sign": 3, "document": 3, "chart": 2, "clip": 4}
WITH_LABELS = {"scene": 3, "sign": 4, "label": 4, "document": 3, "chart": 1, "clip": 8}
WHAT_IS_HARD = {"scene": 5, "sign": 8, "document": 2, "chart": 1, "clip": 14}
READS = Stage("text", 8e-4, None, None, 2, 2, True, "the decoder learns to answer about what it is told in words")
LOOKS = Stage("siglip", None, None, 1e-3, 2, 2, True, "the encoder learns which text tells of which picture")
LETTERS = replace(TINY[2], name="stage-3-letters", purpose="the same, with labels: letters are learnt last")

PHASES = (
    Phase(READS, HALF_CLIPS, EVERYTHING, 0.6, 1000),
    Phase(LOOKS, HALF_CLIPS, NOTHING, 0.5, 400, batch=128),
    Phase(TINY[0], PICTURES, NOTHING, 0.5, 600),
    Phase(TINY[1], {**PICTURES, "clip": 3}, {"clip": 1.0}, 0.3, 1800),
    Phase(TINY[2], MORE_TO_READ, {"clip": 0.1}, 0.3, 6000),
    Phase(LETTERS, WITH_LABELS, NOTHING, 0.2, 5000),
    Phase(TINY[3], WHAT_IS_HARD, NOTHING, 0.1, 3600),
)
"""On two CPU cores: about four hours."""


def train_tiny(
    folder: Path,
    phases: Sequence[Phase] = PHASES,
    resume: bool = False,
    workers: int = 1,
    device: torch.device = CPU,
) -> Path:
    """Train vl3-tiny from nothing.

    Args:
        folder: of the run; each phase has its own folder in it.
        resume: go on where an earlier call with the same folder was cut off.
        workers: processes that draw batches ahead.
        device: where the model computes; on a GPU in bfloat16.

    Returns:
        The finished checkpoint, in bfloat16: `folder / "vl3-tiny"`.

    Raises:
        TrainingError: the folder holds a run already, and `resume` is False.
    """
    if not resume and any(latest_checkpoint(folder / phase.name) for phase in phases):
        raise TrainingError(f"{folder} holds a run already; give --resume to go on with it, or another folder")
    tokenizer = Tokenizer(tiny_tokenizer())
    config = tiny_config(tokenizer.backend)
    processor = Processor(tokenizer, ProcessorConfig(config.image_token_id, config.video_token_id, **PROCESSOR))
    model = random_model(config, deviation=None).to(device)
    for seed, phase in enumerate(phases, start=1):
        _run_phase(model, processor, phase, seed, folder / phase.name, workers)
    return write_checkpoint(model.to("cpu", torch.bfloat16), processor, folder / "vl3-tiny")


def _run_phase(model: VideoLLaMA3, processor: Processor, phase: Phase, seed: int, folder: Path, workers: int) -> None:
    """Train the model through one phase, or, where that is done already, read what came out."""
    world = TinyWorld(seed, phase.mixture, as_text=phase.as_text, easy=phase.easy)
    plan = Plan(phase.steps, workers=workers, bfloat16=model.device.type == "cuda")
    if phase.stage is not LOOKS:
        train_stage(model, processor, world, phase.stage, plan, folder, phase.batch, resume=True)
        return
    tower = random_model(model.config).language_model
    tower.load_state_dict(model.language_model.state_dict())
    freeze(model, phase.stage)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of its heads, which a run that goes on has to draw alike
        pair = SigLIP(model.vision_encoder, tower).to(model.device)
    groups = [{"name": "siglip", "params": list(pair.parameters()), "lr": phase.stage.vision_rate}]
    batches = PairBatches(world.picture_and_text, processor, phase.batch)
    Trainer(pair, PairLoss(), batches, groups, plan, folder, StateFiles(), title=phase.name).run(resume=True)
