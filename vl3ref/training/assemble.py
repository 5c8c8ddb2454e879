"""What stage 1 starts from: an encoder and a decoder from their own checkpoints, and a new projector between them."""

from pathlib import Path

import torch
from tokenizers import AddedToken

from vl3ref.checkpoints import Change, apply_change, load_language_model, load_vision_encoder
from vl3ref.config import ModelConfig
from vl3ref.errors import CheckpointError
from vl3ref.hub import find_checkpoint
from vl3ref.inputs.processor import Processor
from vl3ref.inputs.processor_config import ProcessorConfig
from vl3ref.inputs.tokenizer import Tokenizer
from vl3ref.model.initialise import initial_value
from vl3ref.model.videollama3 import VideoLLaMA3

NEW_TOKENS = ("<image>", "<|stream_start|>", "<|stream_end|>")
"""What VideoLLaMA 3 adds to Qwen2.5's tokens, in the order of their ids."""


def assemble(vision: str | Path, decoder: str | Path, change: Change | None = None) -> tuple[VideoLLaMA3, Processor]:
    """A SigLIP encoder and a Qwen2.5 decoder with a new projector between them (two layers, weights with a standard
    deviation of 0.02), float32, on the CPU.

    Args:
        vision: a checkpoint that `load_vision_encoder` takes: google's SigLIP, or an encoder that was adapted before.
        decoder: a plain Qwen2.5 checkpoint with its tokenizer. `<image>` and the two stream tokens are added to it.
        change: called before the weights are filled. What it puts in place of a part keeps its own values where the
            checkpoints have none of that name and shape.

    Raises:
        CheckpointError, ConfigError: a folder is not what it should be.
    """
    folder = find_checkpoint(decoder)
    encoder, language = load_vision_encoder(vision, "cpu", "float32"), load_language_model(folder, "cpu", "float32")
    tokenizer = Tokenizer.from_folder(folder)
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
    if change is not None:
        apply_change(model, change)
    parts = {"vision_encoder": encoder, "language_model": language}
    given = {f"{part}.{name}": x for part, module in parts.items() for name, x in module.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for name, parameter in list(model.named_parameters()):
        value = given.get(name)
        if value is None or value.shape != parameter.shape:
            if parameter.device.type != "meta":
                continue  # the change's own
            value = initial_value(name.rpartition(".")[2], parameter.shape, generator)
        owner = model.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(value))
    return model.float().eval(), Processor(tokenizer, ProcessorConfig(image, image))
