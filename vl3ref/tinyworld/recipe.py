"""vl3-tiny from nothing: `PHASES` is the recipe, `train_tiny` follows it.

text      the decoder learns to answer questions about text that says what a picture shows
siglip    the encoder learns which text belongs to which picture
stage-1 ... stage-4, as in the paper, on the small world; stage 3 in two parts
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from vl3ref.checkpoints import save
from vl3ref.checkpoints.change import Change, apply_change
from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.errors import TrainingError
from vl3ref.inputs.processor import Processor
from vl3ref.inputs.processor_config import ProcessorConfig
from vl3ref.inputs.template import SYSTEM_PROMPT
from vl3ref.inputs.tokenizer import Tokenizer, byte_level_bpe
from vl3ref.model.initialise import random_model
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.tinyworld.samples import MAKERS, PICTURES, TinyWorld
from vl3ref.training.checkpoints import PLAIN_FILES, latest_checkpoint
from vl3ref.training.run import train_stage
from vl3ref.training.siglip import PairBatches, SigLIP, pair_loss
from vl3ref.training.stages import TINY, Stage, freeze
from vl3ref.training.trainer import Plan, Trainer

# ---------------------------------------------------------------------------------------------------------- the recipe


@dataclass(frozen=True)
class Phase:
    """A part of the recipe.

    Attributes:
        stage: what is trained, and how fast.
        mixture: relative frequency of each kind of picture, and of clips.
        as_text: share of each kind that is given as text instead of pixels.
        easy: share of the samples with few things in them.
        steps: of `batch_size` samples each.
        described: shares of inventories, of lists and of descriptions.
        turns: most questions about one picture.
        system: share of the conversations that begin with the system prompt, a quarter of a short one's tokens.
    """

    stage: Stage
    mixture: Mapping[str, int | float]
    as_text: Mapping[str, int | float]
    easy: int | float
    steps: int
    batch_size: int = 32
    described: tuple[float, float, float] = (0.1, 0.1, 0.1)
    system: float = 0.25
    turns: int = 4

    @property
    def name(self) -> str:
        return self.stage.name


TEXT = Stage("text", 1e-3, None, None, 1, 2, True, "the decoder learns to answer questions about text", added_lr=1e-3)
SIGLIP = Stage("siglip", None, None, 1e-3, 1, 2, True, "the encoder learns which text belongs to which picture")
NONE: Mapping[str, int | float] = {}
ALL = dict.fromkeys(MAKERS, 1.0)
HALF_CLIPS = {**PICTURES, "clip": sum(PICTURES.values())}
TO_READ = {"scene": 7, "sign": 1, "document": 2, "chart": 2, "clip": 4}
TO_SEE_FIRST = {"scene": 4, "sign": 4, "document": 2, "chart": 2}
TO_READ_FIRST = {"scene": 8, "sign": 4, "document": 2, "chart": 2}
LETTERS = {"sign": 4, "document": 3, "scene": 1, "chart": 1}
ALL_KINDS = {"scene": 6, "sign": 5, "document": 4, "chart": 3, "clip": 10}
LAST = {"scene": 5, "sign": 4, "document": 3, "chart": 3, "clip": 12}

SCENES = replace(TINY[1], name="stage-2-scenes", purpose="scenes alone: to find a thing by its name")
READING = replace(TINY[1], name="stage-2-reading", purpose="signs, receipts and forms above all: to read")

PHASES = (
    Phase(TEXT, TO_READ, as_text=ALL, easy=0.3, steps=1200, described=(0.1, 0.4, 0.05), system=0.1, turns=6),
    Phase(SIGLIP, HALF_CLIPS, as_text=NONE, easy=0.5, steps=400, batch_size=128),
    Phase(TINY[0], TO_SEE_FIRST, as_text=NONE, easy=0.5, steps=500, described=(0.3, 0.4, 0.1)),
    Phase(SCENES, {"scene": 1}, as_text=NONE, easy=0.4, steps=4000, described=(0.1, 0.4, 0.05), turns=6),
    Phase(TINY[1], TO_READ_FIRST, as_text=NONE, easy=0.2, steps=2000, described=(0.1, 0.35, 0.1)),
    Phase(READING, LETTERS, as_text=NONE, easy=0.3, steps=4000, described=(0.1, 0.2, 0.0), system=0.1),
    Phase(TINY[2], ALL_KINDS, as_text=NONE, easy=0.1, steps=6000, described=(0.1, 0.3, 0.1)),
    Phase(TINY[3], LAST, as_text=NONE, easy=0.0, steps=3000, described=(0.0, 0.1, 0.1), system=0.6),
)
"""About twelve hours of one CPU core."""

CPU = torch.device("cpu")


def train_tiny(
    folder: Path,
    phases: Sequence[Phase] = PHASES,
    resume: bool = False,
    workers: int = 1,
    device: torch.device = CPU,
    change: Change | None = None,
    bfloat16: bool | None = None,
) -> Path:
    """Train vl3-tiny from nothing.

    Args:
        folder: of the run; each phase has its own folder in it.
        resume: continue a run that was interrupted, if the folder holds one.
        workers: processes that prepare batches ahead.
        device: where the model computes.
        bfloat16: compute in it; None: on a GPU. A CPU that multiplies it (AVX-512 BF16, AMX) needs two thirds of the
            time.
        change: swaps parts of the model before it is trained; see `vl3ref.load`.

    Returns:
        The finished checkpoint, in bfloat16: `folder / "vl3-tiny"`.

    Raises:
        TrainingError: the folder holds a run already, and `resume` is False.
    """
    begun = [checkpoint for phase in phases if (checkpoint := latest_checkpoint(folder / phase.name))]
    if begun and not resume:
        raise TrainingError(f"{folder} holds a run already; give --resume to continue it, or another folder")
    written = [checkpoint for checkpoint in begun if (checkpoint / "tokenizer.json").exists()]
    # A run keeps its tokens even if what the world says, and with it the tokenizer made from it, has changed since.
    tokenizer = Tokenizer.from_folder(written[0]) if written else Tokenizer(tiny_tokenizer())
    config = tiny_config(tokenizer.backend)
    processor = Processor(tokenizer, ProcessorConfig(config.image_token_id, config.video_token_id, **PROCESSOR))
    model = random_model(config, deviation=None)
    if change is not None:
        apply_change(model, change)
    model.to(device)
    for seed, phase in enumerate(phases, start=1):
        world = TinyWorld(
            seed,
            phase.mixture,
            turns=phase.turns,
            as_text=phase.as_text,
            easy=phase.easy,
            described=phase.described,
            compressed=COMPRESSED,
            system=phase.system,
        )
        plan = Plan(
            phase.steps,
            batch_size=phase.batch_size,
            shuffle=False,
            workers=workers,
            bfloat16=bfloat16,
            gradient_checkpointing=False,
        )
        # A phase that is done already only has its last checkpoint read.
        if phase.stage is SIGLIP:
            _train_siglip(model, processor, world, plan, folder / phase.name, seed)
        else:
            train_stage(model, processor, world, phase.stage, plan, folder / phase.name, change, resume=True)
    return save(model.to("cpu", torch.bfloat16), processor, folder / "vl3-tiny")


def _train_siglip(
    model: VideoLLaMA3, processor: Processor, world: TinyWorld, plan: Plan, folder: Path, seed: int
) -> None:
    """Train the vision encoder against a copy of the decoder, which is thrown away."""
    text_tower = deepcopy(model.language_model)
    freeze(model, SIGLIP)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # a resumed run starts from the same heads
        pair = SigLIP(model.vision_encoder, text_tower.requires_grad_()).to(model.device)
    batches = PairBatches(world.picture_and_text, processor, plan.batch_size)
    groups = [{"name": "siglip", "params": list(pair.parameters()), "lr": SIGLIP.vision_lr}]
    Trainer(pair, pair_loss, batches, groups, plan, folder, PLAIN_FILES, title=SIGLIP.name).run(resume=True)


# -------------------------------------------------------------------------------------------- the model before training

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>"),
    *("<image>", "<|stream_start|>", "<|stream_end|>"),
)
VOCABULARY = 1024
COMPRESSED = 0.4
"""Share of the clips that went through a video encoder."""

PROCESSOR: dict[str, Any] = {
    "fps": 1,
    "max_frames": 180,
    "image_merge_size": 2,
    "video_merge_size": 2,
    "min_tokens": 4,
    "max_tokens": 4096,
}


def tiny_config(backend: Backend) -> ModelConfig:
    """Six million parameters, in the released models' proportions."""
    ids = {token: backend.token_to_id(token) or 0 for token in SPECIAL_TOKENS}
    return ModelConfig(
        vision=VisionConfig(hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6),
        language=LanguageConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=8,
            num_key_value_heads=4,
            rope_theta=1e4,  # of Qwen2.5's million, heads of 32 leave few pairs that turn within a short prompt
            tie_word_embeddings=True,
            bos_token_id=ids["<|endoftext|>"],
            eos_token_ids=(ids["<|im_end|>"], ids["<|endoftext|>"]),
        ),
        image_token_id=ids["<image>"],
        video_token_id=ids["<image>"],
        dtype="bfloat16",
    )


def tiny_tokenizer(seed: int = 0, samples: int = 4000) -> Backend:
    """Byte-level BPE trained on the small world's texts, with the special tokens."""
    backend = byte_level_bpe({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS) - 2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    world = TinyWorld(seed, HALF_CLIPS, as_text=ALL)
    texts = (turn["value"] for index in range(samples) for turn in world[index]["conversations"])
    roles = "system\nuser\nassistant\nstream\n"
    backend.train_from_iterator([SYSTEM_PROMPT, roles, roles, *texts], trainer)
    backend.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return backend
