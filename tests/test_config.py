"""Reading and writing config.json."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.helpers import GOLDENS
from vl3ref import ConfigError
from vl3ref.checkpoints import hf, official, read_config, read_language_config, read_vision_config
from vl3ref.config import (
    PRESETS,
    VISION_ENCODER,
    LanguageConfig,
    ModelConfig,
    RopeScaling,
    VisionConfig,
    preset,
)
from vl3ref.model.videollama3 import VideoLLaMA3

OFFICIAL = json.loads((GOLDENS / "configs" / "VideoLLaMA3-2B" / "config.json").read_text())
HF = json.loads((GOLDENS / "hf-tiny" / "config.json").read_text())


def changed(config: dict, path: str, value: object) -> dict:
    config = json.loads(json.dumps(config))
    *sections, key = path.split(".")
    section = config
    for name in sections:
        section = section[name]
    if value is ...:
        del section[key]
    else:
        section[key] = value
    return config


@pytest.mark.parametrize("name", ["2B", "7B"])
def test_presets_are_the_published_configs(name: str) -> None:
    assert read_config(GOLDENS / "configs" / f"VideoLLaMA3-{name}") == preset(name)


def test_the_vision_preset_is_the_published_config() -> None:
    assert read_vision_config(GOLDENS / "configs" / "VL3-SigLIP-NaViT") == VISION_ENCODER


def test_the_2b_has_the_published_number_of_parameters() -> None:
    import torch

    with torch.device("meta"):
        model = VideoLLaMA3(preset("2b"))

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(model.vision_encoder) == 412_147_440
    assert count(model.projector) == 4_131_840
    assert count(model.language_model) == 1_543_714_304
    assert count(model) == 1_959_993_584


def test_both_layouts_of_the_same_model_agree() -> None:
    official, hf = read_config(GOLDENS / "official-tiny"), read_config(GOLDENS / "hf-tiny")
    assert official.vision == hf.vision and official.language == hf.language
    assert official.visual_token_ids == (250,) and hf.visual_token_ids == (250, 251)


@pytest.mark.parametrize("name", list(PRESETS))
def test_what_is_written_is_read_back(name: str) -> None:
    config = preset(name)
    assert read_config(official.write_config(config, config.dtype)) == config
    config = replace(config, layout="hf", image_token_id=151655, video_token_id=151656)
    assert read_config(hf.write_config(config, config.dtype)) == config


def test_transformers_4_writes_rope_theta_and_torch_dtype() -> None:
    old = changed(HF, "text_config.rope_parameters", ...)
    old["text_config"]["rope_theta"] = 5e5
    old = changed(old, "dtype", ...)
    old["torch_dtype"] = "bfloat16"
    config = read_config(old)
    assert config.language.rope_theta == 5e5 and config.dtype == "bfloat16"


@pytest.mark.parametrize(
    "extra",
    [{"auto_map": {}}, {"llm_lr": 1e-5}, {"use_cache": True}, {"sliding_window": 4096}, {"vision_encoder": "x"}],
)
def test_keys_that_do_not_change_the_computation_are_let_through(extra: dict) -> None:
    assert read_config({**OFFICIAL, **extra}) == preset("2b")


@pytest.mark.parametrize(
    ("base", "path", "value", "named"),
    [
        (OFFICIAL, "hidden_act", "gelu", "hidden_act 'gelu'"),
        (OFFICIAL, "rope_scaling", {"type": "longrope", "factor": 4.0}, "rope_scaling of type 'longrope'"),
        (OFFICIAL, "rope_scaling", {"type": "yarn"}, "rope_scaling has no factor"),
        (OFFICIAL, "rope_scaling", {"type": "linear", "factor": 0.5}, "should be at least 1"),
        (OFFICIAL, "rope_scaling", {"type": "yarn", "factor": 2, "mscale": 1.0}, "rope_scaling has mscale"),
        (OFFICIAL, "rope_scaling", {"type": "yarn", "factor": 2, "truncate": False}, "truncate False"),
        (OFFICIAL, "partial_rotary_factor", 0.5, "partial_rotary_factor 0.5"),
        (OFFICIAL, "use_sliding_window", True, "use_sliding_window True"),
        (OFFICIAL, "attention_dropout", 0.1, "attention_dropout 0.1"),
        (OFFICIAL, "mm_projector_type", "qformer", "mm_projector_type 'qformer'"),
        (OFFICIAL, "head_dim", 0, "head_dim should be a whole number from 1"),
        (OFFICIAL, "head_dim", 63, "head size 63 is odd"),
        (OFFICIAL, "torch_dtype", "int8", "dtype 'int8'"),
        (OFFICIAL, "hidden_size", 1537, "hidden_size 1537 is not a multiple"),
        (OFFICIAL, "num_key_value_heads", 5, "num_key_value_heads 5"),
        (OFFICIAL, "num_hidden_layers", 0, "num_hidden_layers should be a whole number from 1 to 1000"),
        (OFFICIAL, "num_hidden_layers", ..., "has no num_hidden_layers"),
        (OFFICIAL, "vocab_size", "many", "vocab_size should be a whole number from 1"),
        (OFFICIAL, "image_token_index", ..., "has no image_token_index"),
        (OFFICIAL, "vision_encoder_config", None, "has no vision_encoder_config"),
        (OFFICIAL, "vision_encoder_config.hidden_act", "relu", "hidden_act 'relu'"),
        (OFFICIAL, "model_type", "llava", "model_type 'llava'"),
        (OFFICIAL, "model_type", ..., "model_type None"),
        (OFFICIAL, "image_token_index", 151936, "image_token_index should be a token id below 151936"),
        (OFFICIAL, "image_token_index", "a", "image_token_index should be a token id"),
        (OFFICIAL, "rms_norm_eps", "x", "rms_norm_eps should be a number above 0"),
        (OFFICIAL, "rope_theta", -1, "rope_theta should be a number above 0"),
        (OFFICIAL, "rope_scaling", "linear", "rope_scaling should be an object"),
        (OFFICIAL, "tie_word_embeddings", "false", "tie_word_embeddings should be true or false"),
        (OFFICIAL, "use_token_compression", "no", "use_token_compression should be true or false"),
        (OFFICIAL, "eos_token_id", "x", "eos_token_id should be a token id"),
        (OFFICIAL, "mm_projector_type", "mlp99999x_gelu", "mm_projector_type"),
        (OFFICIAL, "quantization_config", {"bits": 4}, "quantization_config"),
        (HF, "text_config.layer_types", 5, "layer_types 5"),
        (HF, "text_config.rope_parameters.rope_type", "linear", "rope_parameters has no factor"),
        (HF, "text_config.model_type", "gemma", "model_type 'gemma'"),
        (HF, "text_config.rope_parameters.factor", 2.0, "rope_parameters has factor"),
        (HF, "text_config.layer_types", ["full_attention", "sliding_attention"], "layer_types 'sliding_attention'"),
        (HF, "vision_config.rope_parameters.rope_type", "yarn", "rope_parameters of type 'yarn'"),
        (HF, "video_token_id", ..., "has no video_token_id"),
        (HF, "text_config", "qwen", "text_config should be an object"),
    ],
)
def test_what_would_change_the_computation_is_refused_by_name(base: dict, path: str, value: object, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        read_config(changed(base, path, value))


def test_projectors_of_other_depths_are_read_from_their_name() -> None:
    assert read_config(changed(OFFICIAL, "mm_projector_type", "mlp3x_gelu")).projector_depth == 3
    assert read_config(changed(OFFICIAL, "mm_projector_type", "linear")).projector_depth == 1


def test_layouts_refuse_what_they_cannot_say() -> None:
    with pytest.raises(ConfigError, match="two layers"):
        hf.write_config(replace(preset("2b"), projector_depth=3), "float32")
    with pytest.raises(ConfigError, match="one visual token id"):
        official.write_config(replace(preset("2b"), video_token_id=7), "float32")


def test_googles_siglip_config_gives_only_what_differs() -> None:
    raw = {
        "model_type": "siglip",
        "vision_config": {
            "hidden_size": 1152,
            "image_size": 384,
            "intermediate_size": 4304,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
        },
    }
    assert read_vision_config(raw) == VISION_ENCODER
    assert read_vision_config({"model_type": "siglip", "vision_config": {}}).patch_size == 16


def test_a_plain_qwen2_config_is_a_decoder() -> None:
    raw = {key: OFFICIAL[key] for key in OFFICIAL if not key.startswith(("vision", "mm_", "image"))}
    assert read_language_config({**raw, "model_type": "qwen2"}) == preset("2b").language


def test_qwen3_has_heads_of_128_unless_it_says_otherwise() -> None:
    raw = {key: OFFICIAL[key] for key in OFFICIAL if not key.startswith(("vision", "mm_", "image"))}
    qwen3 = read_language_config({**raw, "model_type": "qwen3"})
    assert (qwen3.head_dim, qwen3.qk_norm, qwen3.qkv_bias) == (128, True, False)


SCALINGS = [
    RopeScaling("linear", 4.0),
    RopeScaling("llama3", 8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    RopeScaling("yarn", 4.0, beta_fast=16.0, original_max_position_embeddings=64, attention_factor=1.2),
]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_both_generations_of_transformers_keys_say_how_rotation_is_scaled(scaling: RopeScaling) -> None:
    config = replace(preset("2b"), language=replace(preset("2b").language, rope_scaling=scaling))
    written = hf.write_config(replace(config, image_token_id=151655, video_token_id=151656), "float32")
    for keys in (("rope_theta", "rope_scaling"), ("rope_parameters",)):
        text = {key: written["text_config"][key] for key in written["text_config"] if not key.startswith("rope")}
        text |= {key: written["text_config"][key] for key in keys}
        assert read_config({**written, "text_config": text}).language == config.language
    assert read_config(official.write_config(config, "float32")).language == config.language


def test_the_context_a_scaled_decoder_was_pretrained_on_defaults_to_its_own() -> None:
    yarn = read_config(changed(OFFICIAL, "rope_scaling", {"type": "yarn", "factor": 2})).language.rope_scaling
    assert yarn == RopeScaling("yarn", 2.0, original_max_position_embeddings=OFFICIAL["max_position_embeddings"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"qkv_bias": False, "output_bias": True}, "no decoder of qwen2, qwen3, llama has these biases"),
        ({"qk_norm": True, "qkv_bias": False, "mlp_bias": True}, "no decoder of"),
    ],
)
def test_a_decoder_that_no_model_type_describes_is_not_written(fields: dict, message: str) -> None:
    language = LanguageConfig(64, 16, 24, 1, 2, 1, **fields)
    with pytest.raises(ConfigError, match=message):
        official.write_config(replace(preset("2b"), language=language, image_token_id=3, video_token_id=3), "float32")


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("prunes", [True, False, None])
def test_hfs_video_processor_says_whether_tokens_are_pruned(tmp_path: Path, nested: bool, prunes: bool | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HF))
    video = {} if prunes is None else {"use_token_compression": prunes}
    content = {"video_processor": video} if nested else video
    (tmp_path / ("processor_config.json" if nested else "video_preprocessor_config.json")).write_text(
        json.dumps(content)
    )
    assert read_config(tmp_path).use_token_compression is (prunes is not False)


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read as JSON"), ("[1]", "should hold a JSON object")])
def test_a_damaged_config_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_config(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_config(tmp_path)


SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")
VISION_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "num_channels",
)
LARGE = [
    *[
        (key, 10**digits)
        for key in (*SIZES, "num_key_value_heads", "max_position_embeddings")
        for digits in (10, 30, 400)
    ],
    *[(f"vision_encoder_config.{key}", 10**n) for key in VISION_SIZES for n in (9, 30, 400)],
    *[(key, 10**400) for key in ("rms_norm_eps", "rope_theta", "bos_token_id", "eos_token_id", "image_token_index")],
    ("num_hidden_layers", 10**5),
    ("rope_theta", 1e300),
    ("vision_encoder_config.layer_norm_eps", 10**5000),
    ("mm_projector_type", f"mlp{'9' * 5000}x_gelu"),
    ("model_type", "x" * 10**6),
    ("dtype", [10**5000]),
]


@pytest.mark.parametrize(("path", "value"), LARGE, ids=range(len(LARGE)))
def test_numbers_without_end_are_refused_before_anything_is_made_of_them(path: str, value: object) -> None:
    key = path.rpartition(".")[2]
    with pytest.raises(ConfigError, match=key) as error:
        read_config(changed(OFFICIAL, path, value))
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads should be a whole number from 1"),
        ({"hidden_size": -8}, "hidden_size should be"),
        ({"num_hidden_layers": 10**30}, "num_hidden_layers should be"),
        ({"patch_size": 10**9}, "patch_size should be"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps should be a number above 0"),
        ({"rope_theta": float("nan")}, "rope_theta should be a number above 0"),
    ],
)
def test_configs_made_in_python_have_the_same_limits(given: dict, message: str) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    with pytest.raises(ConfigError, match=message):
        VisionConfig(**{**sizes, **given})


DECODERS = [
    {},
    {"tie_word_embeddings": True},
    {"head_dim": 12, "qk_norm": True, "qkv_bias": False},
    {"output_bias": True, "mlp_bias": True},
]


@pytest.mark.parametrize("fields", DECODERS)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_config_knows_how_many_parameters_its_model_has(fields: dict, depth: int) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    language = LanguageConfig(vocab_size=30, num_key_value_heads=1, **sizes, **fields)
    config = ModelConfig(VisionConfig(**{**sizes, "patch_size": 3}), language, 1, 1, projector_depth=depth)
    with torch.device("meta"):
        model = VideoLLaMA3(config)
    assert config.parameters == sum(parameter.numel() for parameter in model.parameters())


PROCESSORS = [
    ({"patch_size": 1e-200}, "patch_size should be a whole number"),
    ({"merge_size": "a"}, "merge_size should be"),
    ({"merge_size": -1}, "merge_size should be"),
    ({"size": [1]}, "size should be an object"),
    ({"size": {"shortest_edge": "x"}}, "shortest_edge should be"),
    ({"size": {"longest_edge": 10**400}}, "longest_edge should be"),
    ({"size": {"longest_edge": 1e300}}, "longest_edge should be"),
    ({"size": {}, "min_pixels": 0.5}, "min_pixels should be"),
    ([1], "image_processor should be an object"),
    ("a", "image_processor should be an object"),
]


@pytest.mark.parametrize(("image", "message"), PROCESSORS)
def test_an_hf_processor_that_makes_no_sense_is_refused(tmp_path: Path, image: object, message: str) -> None:
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": image}))
    with pytest.raises(ConfigError, match=message) as error:
        hf.read_processor(tmp_path)
    assert len(str(error.value)) < 300
