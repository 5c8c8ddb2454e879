"""Checkpoint folders -> modules and processors.

The headers are looked at first: every missing, unexpected and mis-shaped tensor is known, and listed, before a single
number is read. The model is built without memory (the meta device), and each tensor then goes from the mapped file to
its place once, in its final device and dtype.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vl3ref.checkpoints.adapter_files import read_adapter
from vl3ref.checkpoints.adapters import add_adapter, use_adapter
from vl3ref.checkpoints.change import Change, apply_change
from vl3ref.checkpoints.layouts import (
    HEAD,
    LANGUAGE,
    PROJECTOR,
    VISION,
    config_section,
    module_of,
    our_name,
    read_config,
    read_language_config,
    read_vision_config,
)
from vl3ref.checkpoints.tensor_files import TensorFiles
from vl3ref.checkpoints.values import DTYPES, Section
from vl3ref.config import MOST_REAL, ModelConfig
from vl3ref.errors import CheckpointError, ConfigError, InputError, quoted
from vl3ref.files import listed, read_json_if_there
from vl3ref.hub import TINY, find_checkpoint
from vl3ref.inputs.processor import Processor
from vl3ref.inputs.processor_config import ProcessorConfig
from vl3ref.inputs.tokenizer import Tokenizer
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model.vision import VisionEncoder

logger = logging.getLogger(__name__)

Part = TypeVar("Part", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]
FLOATS = ("F64", "F32", "F16", "BF16")
"""Tensors of these types are read, as safetensors calls them."""

Device = torch.device | str | None
DType = torch.dtype | str | None

SAMPLING_DEFAULTS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
"""What sampling does in transformers where a file does not say."""

SIGLIP_DROPPED = (VISION + "embeddings.position_embedding.", VISION + "embeddings.position_ids", VISION + "head.")
"""What google's SigLIP has and a NaViT has not (any resolution needs no position table)."""

SIGLIP_TEXT = ("text_model.", "logit_scale", "logit_bias")


def load(
    source: str | Path = TINY,
    device: Device = None,
    dtype: DType = None,
    change: Change | None = None,
    adapter: str | Path | Mapping[str, str | Path] | None = None,
) -> tuple[VideoLLaMA3, Processor]:
    """A model, in eval mode, and its processor.

    Args:
        source: a checkpoint folder of either layout, or a name ("vl3-tiny", "2b", "7b", or one of the hub's).
        device: default: the GPU if there is one.
        dtype: default: float32 on a CPU, the checkpoint's own elsewhere.
        change: a function that swaps parts of the freshly built model, before its weights are read (see `load_model`).
        adapter: the folder of a LoRA adapter that is computed with; or several by name, of which the first is (see
            `vl3ref.checkpoints.adapters`). Frames, and how finely they are seen, are then as it was trained with.

    Raises:
        CheckpointError, ConfigError, ChangeError: with a sentence that says what is wrong.
        InputError: an adapter is given, and peft is not installed.
    """
    folder = find_checkpoint(source)
    adapters = {} if adapter is None else adapter if isinstance(adapter, Mapping) else {"default": adapter}
    folders = {name: find_checkpoint(place) for name, place in adapters.items()}
    model = load_model(folder, device, dtype, change)
    processor = load_processor(folder, model.config)
    for name, place in folders.items():
        add_adapter(model, place, name)
    for name, place in [*folders.items()][:1]:
        use_adapter(model, name)
        processor = with_settings(processor, place)
    return model, processor


def load_model(
    source: str | Path, device: Device = None, dtype: DType = None, change: Change | None = None
) -> VideoLLaMA3:
    """A whole VideoLLaMA 3, in eval mode, with gradients possible.

    Args:
        source: a checkpoint folder of either layout, or a name (see `hub.find_checkpoint`).
        device: default: the GPU if there is one.
        dtype: default: float32 on a CPU, the checkpoint's own elsewhere.
        change: called on the freshly built model, to swap parts of it. Its parts are filled from the files where these
            have a tensor of the same name and shape; the others keep the values that the change gave them, and a
            warning lists them.

    Raises:
        CheckpointError: lists every tensor that is missing, unexpected or of the wrong shape; or says which file is
            damaged.
        ConfigError: config.json describes something else.
        ChangeError: the change failed.
    """
    folder = find_checkpoint(source)
    config = read_config(folder)
    sampling, ends, unsure_below = _generation_settings(folder)
    language = replace(config.language, eos_token_ids=ends or config.language.eos_token_ids)
    model = _load(VideoLLaMA3, replace(config, language=language), folder, device, dtype, change=change)
    model.recommended_sampling, model.unsure_below = sampling, unsure_below
    return model


def load_vision_encoder(source: str | Path, device: Device = None, dtype: DType = None) -> VisionEncoder:
    """The vision encoder alone: from a vision-only checkpoint, from google's SigLIP, or out of a whole model.

    SigLIP's position table and pooling head (and, in its full checkpoint, its text tower) have no place here and are
    dropped, with a log message that says so.
    """
    folder = find_checkpoint(source)
    return _load(VisionEncoder, read_vision_config(folder), folder, device, dtype, part=VISION)


def load_language_model(source: str | Path, device: Device = None, dtype: DType = None) -> LanguageModel:
    """The decoder alone: from a plain Qwen2, Qwen3 or Llama checkpoint, or out of a whole model."""
    folder = find_checkpoint(source)
    config = read_language_config(folder)
    config = replace(config, eos_token_ids=_generation_settings(folder)[1] or config.eos_token_ids)
    return _load(LanguageModel, config, folder, device, dtype, part=LANGUAGE)


def load_processor(source: str | Path = TINY, config: ModelConfig | None = None) -> Processor:
    """The processor alone; needs no weights.

    Args:
        source: a folder with config.json and a tokenizer, or a name. The processor's own files (processor_config.json,
            preprocessor_config.json, video_preprocessor_config.json) are read where they are there.
        config: the model's, if it is read already.

    Raises:
        CheckpointError, ConfigError: a file is missing or damaged, or says what cannot be.
    """
    folder = find_checkpoint(source)
    model = config or read_config(folder)
    ids = {"image_token_id": model.image_token_id, "video_token_id": model.video_token_id}
    settings = module_of(model.layout).read_processor(folder)
    try:
        wanted = ProcessorConfig(**ids, patch_size=model.vision.patch_size).override(**settings)
    except InputError as error:
        raise ConfigError(f"the processor's files in {folder} say what cannot be: {error}") from None
    return Processor(Tokenizer.from_folder(folder), wanted)


def with_settings(processor: Processor, adapter: str | Path) -> Processor:
    """The processor with the settings that lie in an adapter's folder, if any do: those it was trained with."""
    folder = find_checkpoint(adapter)
    settings = module_of(read_adapter(folder).layout).read_processor(folder)
    return Processor(processor.tokenizer, processor.config.override(**settings))


def saved_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of a module: parameters, and buffers that were registered to be saved. A tensor with
    several names has the first."""
    first: dict[int, tuple[str, Tensor]] = {}
    for name, x in module.state_dict(keep_vars=True).items():
        if isinstance(x, Tensor):
            first.setdefault(id(x), (name, x))
    return dict(first.values())


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in saved_tensors(module).items()}


def _load(
    kind: Callable[[Any], Part],
    config: Any,
    folder: Path,
    device: Device,
    dtype: DType,
    part: str = "",
    change: Change | None = None,
) -> Part:
    """Build `kind(config)` on the meta device and give every parameter its tensor.

    Args:
        part: what its tensors' names begin with in a whole model.
    """
    device, dtype = _placement(device, dtype, folder)
    files = TensorFiles(folder)
    if change is None:
        _check_size(files, config, part)
    with torch.device("meta"):
        module = kind(config)
    original = shapes_of(module)
    if change is not None:
        assert isinstance(module, VideoLLaMA3)
        apply_change(module, change)
    names = _match(files, saved_tensors(module), original, part, changed=change is not None)
    _give_memory(module, device, dtype)
    tensors = saved_tensors(module)
    with torch.no_grad():
        for theirs, ours in names.items():
            read = files.read(theirs)
            # A copy, not the mapped pages themselves: a file that is overwritten later must not change a loaded model.
            tensors[ours].copy_(read)
    return module.eval()


def _check_size(files: TensorFiles, config: Any, part: str) -> None:
    """Parameters that the config describes against those in the files, before a module is built for any of them. What
    does not fit, tensor by tensor, `_match` says."""
    held = sum(math.prod(shape) for shape in files.shapes().values())
    if config.parameters > 2 * held or (not part and held > 4 * config.parameters):
        raise CheckpointError(
            f"the config.json in {files.folder} describes {config.parameters:,} parameters, and the safetensors files "
            f"beside it hold {held:,}: one of them is of another model, or damaged"
        )


def _match(
    files: TensorFiles, tensors: Mapping[str, Tensor], original: Shapes, part: str, changed: bool
) -> dict[str, str]:
    """Name in the files -> name within our module, for every tensor that is to be read.

    Args:
        tensors: of the module to be filled. On the meta device: only the files can fill it.
        original: shapes of the module before it was changed. What fits these alone is of a part that was replaced.

    Raises:
        CheckpointError: lists all that does not fit.
    """
    shapes = files.shapes()
    bare = part == VISION and not any(name.startswith(("model.", "vision_model.")) for name in shapes)
    a_whole_model = any(our_name(theirs).startswith(PROJECTOR) for theirs in shapes)
    names: dict[str, str] = {}
    dropped, unfit, problems = [], [], []
    for theirs, shape in shapes.items():
        whole = VISION + theirs if bare else our_name(theirs)
        ours = whole.removeprefix(part)
        place = tensors.get(ours)
        if ours in names.values():
            problems.append(f"twice: {ours}")
        elif place is not None and shape == tuple(place.shape):
            names[theirs] = ours
            if place.is_floating_point() and files.dtype(theirs) not in FLOATS:
                problems.append(f"quantised: {theirs} is {files.dtype(theirs)}; only {', '.join(FLOATS)} are read")
        elif shape == original.get(ours) and (place is None or not place.is_meta):
            continue
        elif place is not None:
            unfit.append(ours)
            problems.append(f"wrong shape: {theirs} is {shape}, the config asks for {tuple(place.shape)}")
        elif theirs.startswith(SIGLIP_TEXT) or whole.startswith(SIGLIP_DROPPED):
            dropped.append(theirs)
        elif theirs.endswith("rotary_emb.inv_freq") or whole == HEAD + "weight":
            continue  # buffers of old transformers; a tied head, which transformers may have written as a copy
        elif whole.startswith(part) or not a_whole_model:
            problems.append(f"unexpected: {theirs} {shape}")
    if dropped:
        logger.warning("dropped (2D RoPE replaces SigLIP's position table, and there is no pooling): %s", dropped)
    advice = ""
    if not changed and any(not problem.startswith(("twice", "quantised")) for problem in problems):
        advice = "\n  If a changed model was saved here, load it whole with the change= that it was saved with."
    filled = {*names.values(), *unfit}
    absent = [name for name in tensors if name not in filled]
    problems += [f"missing: {name} {tuple(tensors[name].shape)}" for name in absent if tensors[name].is_meta]
    if problems:
        raise CheckpointError(
            f"the weights in {files.folder} do not fit its config.json{' and the change' if changed else ''} "
            f"({len(problems)} of {len(shapes)} tensors):{listed(problems)}{advice}"
        )
    if absent:
        first = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
        text = "%d tensors of the change are not in %s and keep the values it gave them: %s"
        logger.warning(text, len(absent), files.folder, first)
    return names


def _give_memory(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Put every parameter on the device, in the dtype; those that a change made keep their values. Buffers, which only
    changes make, keep their dtype."""
    placed: dict[int, nn.Parameter] = {}  # parameters with several names stay one
    for owner in module.modules():
        for name, old in list(owner.named_parameters(recurse=False, remove_duplicate=False)):
            if id(old) not in placed:
                kind = dtype if old.is_floating_point() else old.dtype
                new = torch.empty_like(old, device=device, dtype=kind) if old.is_meta else old.detach().to(device, kind)
                placed[id(old)] = nn.Parameter(new, old.requires_grad)
            setattr(owner, name, placed[id(old)])
        for name, buffer in list(owner.named_buffers(recurse=False)):
            setattr(owner, name, torch.empty_like(buffer, device=device) if buffer.is_meta else buffer.to(device))


def find_device(device: Device = None) -> torch.device:
    """A device to compute on; by default the GPU if there is one, or the CPU.

    Raises:
        CheckpointError: there is no such device, or this torch cannot use it.
    """
    name = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.empty(1, device=name).device
    except Exception as error:  # torch's, and those of the packages that some kinds of devices are imported from
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"device {quoted(str(name))} cannot be used: {reason}") from None
    if place.type == "meta":
        raise CheckpointError("the meta device holds no weights; name one that computes")
    return place


def _placement(device: Device, dtype: DType, folder: Path) -> tuple[torch.device, torch.dtype]:
    """The device and dtype to load in, the defaults filled in."""
    place = find_device(device)
    stored = config_section(folder).dtype()
    wanted = str(dtype or ("float32" if place.type == "cpu" else stored)).removeprefix("torch.")
    if wanted not in DTYPES:
        raise CheckpointError(f"dtype {quoted(wanted)} cannot be computed with; there are {', '.join(DTYPES)}")
    return place, getattr(torch, wanted)


def _generation_settings(folder: Path) -> tuple[dict[str, float], tuple[int, ...], float | None]:
    """The recommended sampling, the end-of-text ids and `unsure_below` of generation_config.json, if it is there.
    Settings that do nothing are left out, but for the temperature."""
    path = folder / "generation_config.json"
    raw = Section(read_json_if_there(path, ConfigError), str(path))
    sampling: dict[str, float] = {}

    def is_real(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST_REAL

    for key, default in SAMPLING_DEFAULTS.items() if raw.get("do_sample") else ():
        value = raw.read(key, "a number", is_real, default)
        if key == "temperature" or value != default:
            sampling[key] = value
    unsure_below = None if raw.get("unsure_below") is None else raw.read("unsure_below", "a number", is_real)
    return sampling, raw.end_ids(), unsure_below
