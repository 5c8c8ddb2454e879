"""One stage on a model: from annotations and a checkpoint to the next checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from torch import Tensor

from vl3ref.checkpoints import load_language_model, load_model, load_vision_encoder, save_model
from vl3ref.checkpoints.saving import staged, write_json
from vl3ref.config import ModelConfig
from vl3ref.convert import official_files
from vl3ref.errors import CheckpointError
from vl3ref.inputs.processor import Processor, load_processor
from vl3ref.inputs.processor_config import ProcessorConfig
from vl3ref.inputs.tokenizer import Tokenizer
from vl3ref.model.initialise import initial_value
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.training.batches import Conversations, Samples
from vl3ref.training.distributed import Processes, shard
from vl3ref.training.objectives import NextToken
from vl3ref.training.run_state import latest_checkpoint
from vl3ref.training.stages import BATCH, MAX_TOKENS, Stage, freeze, parameter_groups
from vl3ref.training.trainer import Plan, Trainer

NEW_TOKENS = ("<image>", "<|stream_start|>", "<|stream_end|>")
"""What VideoLLaMA 3 adds to Qwen2.5's tokens, in the order of their ids."""


def train_stage(
    model: VideoLLaMA3,
    processor: Processor,
    samples: Samples,
    stage: Stage,
    plan: Plan,
    folder: Path,
    batch_size: int = BATCH,
    pack_tokens: int = MAX_TOKENS,
    shuffle: bool = False,
    resume: bool = False,
    processes: Processes | None = None,
    device: torch.device | None = None,
) -> None:
    """Train a model, in place, through one stage.

    Args:
        model: float32. It goes to the device; with several processes it should come from the CPU, and is spread over
            their devices.
        samples: what it learns from.
        folder: of the run: logs and checkpoints.
        batch_size: conversations per step, over all processes.
        pack_tokens: of a packed sequence, as far as conversations are shorter.
        resume: go on from the newest checkpoint in the folder, if there is one.
        device: where this process computes; None for where the model is.

    Raises:
        TrainingError: the run cannot go on.
    """
    processes, device = processes or Processes(), device or model.device
    sees = replace(processor.config, image_merge_size=stage.image_merge, video_merge_size=stage.video_merge)
    processor = Processor(processor.tokenizer, sees)
    freeze(model, stage)
    if processes.world > 1:
        shard(model, device, plan.bfloat16)
    else:
        model.to(device)
    batches = Conversations(
        samples, processor, stage, batch_size, pack_tokens, shuffle, rank=processes.rank, world=processes.world
    )
    groups = parameter_groups(model, stage)
    files = CheckpointFiles(model.config, processor)
    Trainer(model.train(), NextToken(), batches, groups, plan, folder, files, processes, title=stage.name).run(resume)
    model.eval()


def finish(folder: Path, dtype: str) -> Path:
    """The last checkpoint of a run without the trainer's state, in the model's own dtype: `folder / "final"`."""
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    model = load_model(checkpoint, "cpu", dtype)
    return write_checkpoint(model, load_processor(checkpoint), folder / "final")


def assemble(vision: str | Path, decoder: str | Path) -> tuple[VideoLLaMA3, Processor]:
    """What stage 1 starts from: a SigLIP encoder and a Qwen2.5 decoder, each from its own checkpoint, float32, with a
    new projector between them (two layers, drawn with a deviation of 0.02).

    Args:
        vision: a folder that `load_vision_encoder` takes: google's SigLIP, or an encoder that was adapted before.
        decoder: a plain Qwen2.5 folder with its tokenizer. `<image>` and the two stream tokens are added to it.

    Raises:
        CheckpointError, ConfigError: a folder is not what it should be.
    """
    encoder = load_vision_encoder(vision, "cpu", "float32")
    language = load_language_model(decoder, "cpu", "float32")
    tokenizer = Tokenizer.from_folder(decoder)
    tokenizer.backend.add_tokens([AddedToken(token, special=True, normalized=False) for token in NEW_TOKENS])
    image = tokenizer.special("<image>")
    last = max(tokenizer.special(token) for token in NEW_TOKENS)
    if last >= language.config.vocab_size:
        raise CheckpointError(
            f"{decoder}: its embedding table has {language.config.vocab_size} rows, and its tokenizer leaves none for "
            f"{', '.join(NEW_TOKENS)}, which need {last + 1}"
        )
    config = ModelConfig(encoder.config, language.config, image_token_id=image, video_token_id=image, dtype="bfloat16")
    with torch.device("meta"):
        model = VideoLLaMA3(config)
    model.vision_encoder, model.language_model = encoder, language
    model.projector.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.projector.named_parameters():
            parameter.copy_(initial_value(name.rpartition(".")[2], parameter.shape, generator))
    return model, Processor(tokenizer, ProcessorConfig(image, image))


# --------------------------------------------------------------------------------------------------------------- files


@dataclass
class CheckpointFiles:
    """A run's checkpoints as whole official checkpoints: `vl3ref ask --model runs/.../checkpoint-000500` works."""

    config: ModelConfig
    processor: Processor

    def write(self, parameters: Mapping[str, Tensor], folder: Path) -> None:
        with torch.device("meta"):
            model = VideoLLaMA3(self.config)
        model.load_state_dict(parameters, assign=True)
        write_checkpoint(model, self.processor, folder)

    def read(self, folder: Path) -> Mapping[str, Tensor]:
        return load_model(folder, "cpu", "float32").state_dict()


class StateFiles:
    """Parameters as they are, for what has no official layout."""

    def write(self, parameters: Mapping[str, Tensor], folder: Path) -> None:
        save_file({name: tensor.contiguous() for name, tensor in parameters.items()}, folder / "model.safetensors")

    def read(self, folder: Path) -> Mapping[str, Tensor]:
        return load_file(folder / "model.safetensors")


def write_checkpoint(model: VideoLLaMA3, processor: Processor, folder: Path) -> Path:
    """Weights, tokenizer and the processor's settings, in the official layout."""
    with staged(folder) as staging:
        save_model(model, staging)
        processor.tokenizer.backend.save(str(staging / "tokenizer.json"))
        for name, content in official_files(processor.config, model.config).items():
            write_json(staging / name, content)
    return folder
