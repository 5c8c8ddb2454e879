"""Bad calls from Python, and bad values in a checkpoint's JSON, as data: expressions that `child` evaluates."""

import re
from pathlib import Path

Case = tuple[str, str, str]
"""An expression, the exception that it raises ("" for none), and what stands in its message."""

VALUES = ["None", "0", "-1", "1.5", "'x'", "True", "[]", "{}", "10**9", "10**30", "1e300", "NAN"]
"""What every number, name and switch of a checkpoint's JSON files is replaced by."""

LOADING, MAKING = "model_of", "processor_of"

SETTINGS: list[tuple[str, str, str, str]] = [
    # what is tried, a file, one of its keys, and the values that it may have
    (LOADING, "config", "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads", ""),
    (LOADING, "config", "vision_encoder_config model_type", ""),
    (LOADING, "config", "rms_norm_eps rope_theta", "None 1.5 10**9 10**30"),
    (LOADING, "config", "hidden_act", "None"),
    (LOADING, "config", "max_position_embeddings", "None 10**9"),
    (LOADING, "config", "bos_token_id", "None 0"),
    (LOADING, "config", "eos_token_id", "None 0 []"),
    (LOADING, "config", "rope_scaling mm_projector_type", "None 0 [] {}"),
    (LOADING, "config", "image_token_index", "0"),
    (LOADING, "config", "use_token_compression", "None True"),
    (LOADING, "config", "use_sliding_window attention_dropout", "None 0"),
    (LOADING, "config", "vision_encoder_config.hidden_size vision_encoder_config.intermediate_size", ""),
    (LOADING, "config", "vision_encoder_config.num_hidden_layers vision_encoder_config.num_attention_heads", ""),
    (LOADING, "config", "vision_encoder_config.patch_size vision_encoder_config.num_channels", "None"),
    (LOADING, "config", "vision_encoder_config.layer_norm_eps", "None 1.5 10**9 10**30"),
    (LOADING, "config", "vision_encoder_config.hidden_act", "None"),
    (LOADING, "generation_config", "eos_token_id", "None 0 []"),
    (MAKING, "processor_config", "image_merge_size video_merge_size", ""),
    (MAKING, "processor_config", "fps", "None 1.5 10**9"),
    (MAKING, "processor_config", "max_frames", "None 10**9 10**30"),
    (MAKING, "preprocessor_config", "min_tokens", "None"),
    (MAKING, "preprocessor_config", "max_tokens", "None 10**9"),
]


def of_settings() -> list[Case]:
    """Every key with every value: refused by a sentence that names the key, or taken."""
    cases = []
    for tried, file, keys, taken in SETTINGS:
        for key in keys.split():
            for value in VALUES:
                raised = "" if value in taken.split() else "ConfigError"
                cases.append((f"{tried}({file!r}, {key!r}, {value})", raised, raised and key.rpartition(".")[2]))
    return cases


def of_calls() -> tuple[list[Case], list[Case]]:
    """The cases of python_calls.txt: those that are refused, and those that should be and are not yet."""
    refused, still_open = [], []
    for line in Path(__file__).with_name("python_calls.txt").read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"(\? )?(.+) -> (\w+): (.*)", line):
            (still_open if match[1] else refused).append((match[2], match[3], match[4]))
    return refused, still_open
