"""safetensors files <-> modules."""

import json
import os
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.helpers import GOLDENS
from vl3ref import ChangeError, CheckpointError, ConfigError
from vl3ref.checkpoints import load_language_model, load_model, load_vision_encoder, read_config, save_model
from vl3ref.checkpoints.parts import write_decoder, write_vision
from vl3ref.hub import find_checkpoint
from vl3ref.model.videollama3 import VideoLLaMA3

OFFICIAL, HF = GOLDENS / "official-tiny", GOLDENS / "hf-tiny"


@pytest.fixture(scope="module")
def model() -> VideoLLaMA3:
    return load_model(OFFICIAL, device="cpu")


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target / "copy"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: x for file in sorted(folder.glob("model*.safetensors")) for name, x in load_file(file).items()}


def single_file(tmp_path: Path, tensors: dict[str, torch.Tensor], config: dict) -> Path:
    folder = tmp_path / "single"
    folder.mkdir()
    save_file({name: x.contiguous() for name, x in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# ---------------------------------------------------------------------------------------------------------- loading


def test_a_loaded_model_is_in_eval_mode_with_gradients_possible(model: VideoLLaMA3) -> None:
    assert not model.training
    assert all(p.requires_grad and p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())


def test_both_layouts_load_the_same_weights(model: VideoLLaMA3) -> None:
    assert same(model, load_model(HF, device="cpu"))


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, "float64"])
def test_weights_arrive_in_the_dtype_asked_for(model: VideoLLaMA3, dtype: torch.dtype | str) -> None:
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    loaded = load_model(OFFICIAL, device="cpu", dtype=dtype).state_dict()
    for name, x in model.state_dict().items():
        assert torch.equal(loaded[name], x.to(wanted))


def test_a_loaded_model_does_not_follow_its_file(model: VideoLLaMA3, tmp_path: Path) -> None:
    folder = copy_of(HF, tmp_path)
    loaded = load_model(folder, device="cpu")
    file = folder / "model.safetensors"
    with open(file, "r+b") as opened:
        opened.seek(-4096, 2)
        opened.write(b"\0" * 4096)
    assert same(loaded, model)


def test_what_the_official_trainer_saves_has_one_more_layer_of_names(model: VideoLLaMA3, tmp_path: Path) -> None:
    old, new = "model.vision_encoder.", "model.vision_encoder.vision_encoder."
    renamed = {name.replace(old, new): x for name, x in weights(OFFICIAL).items()}
    folder = single_file(tmp_path, renamed, json.loads((OFFICIAL / "config.json").read_text()))
    assert same(model, load_model(folder, device="cpu"))


def test_a_tied_head_may_be_in_the_file_or_not(tmp_path: Path) -> None:
    config = {**json.loads((OFFICIAL / "config.json").read_text()), "tie_word_embeddings": True}
    with_head = weights(OFFICIAL)
    without = {name: x for name, x in with_head.items() if name != "lm_head.weight"}
    first = load_model(single_file(tmp_path, with_head, config), device="cpu")
    (tmp_path / "b").mkdir()
    second = load_model(single_file(tmp_path / "b", without, config), device="cpu")
    assert same(first, second) and first.language_model.lm_head is None


def test_a_tied_head_may_be_in_a_decoders_file_too(tmp_path: Path) -> None:
    config = {**json.loads((OFFICIAL / "config.json").read_text()), "tie_word_embeddings": True}
    with_head = single_file(tmp_path, weights(OFFICIAL), config)
    assert load_language_model(with_head, device="cpu").lm_head is None
    decoder = save_model(load_language_model(with_head, device="cpu"), tmp_path / "decoder")
    file = decoder / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file)
    assert load_language_model(decoder, device="cpu").lm_head is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"do_sample": True, "top_k": 50}, {"temperature": 1.0, "top_k": 50}),
        ({"do_sample": True, "temperature": 0.5, "top_k": 0, "top_p": 1.0}, {"temperature": 0.5}),
        ({"do_sample": False, "temperature": 0.5}, {}),
    ],
)
def test_recommended_sampling_means_what_it_means_to_transformers(
    tmp_path: Path, settings: dict, expected: dict
) -> None:
    folder = copy_of(OFFICIAL, tmp_path)
    (folder / "generation_config.json").write_text(json.dumps(settings))
    assert load_model(folder, device="cpu").recommended_sampling == expected


@pytest.mark.parametrize(
    "settings", [{"eos_token_id": "a"}, {"do_sample": True, "temperature": "x"}, {"unsure_below": "low"}]
)
def test_a_generation_config_that_makes_no_sense_is_refused(tmp_path: Path, settings: dict) -> None:
    folder = copy_of(OFFICIAL, tmp_path)
    (folder / "generation_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=next(reversed(settings))):
        load_model(folder, device="cpu")


def test_the_threshold_of_unsure_answers_stays_with_the_weights_that_it_was_measured_on(tmp_path: Path) -> None:
    folder = copy_of(OFFICIAL, tmp_path)
    assert load_model(folder, device="cpu").unsure_below is None
    (folder / "generation_config.json").write_text(json.dumps({"unsure_below": -0.25}))
    model = load_model(folder, device="cpu")
    assert model.unsure_below == -0.25
    assert load_model(save_model(model, tmp_path / "again"), device="cpu").unsure_below == -0.25


def test_old_files_rotary_buffers_are_passed_over(model: VideoLLaMA3, tmp_path: Path) -> None:
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    folder = single_file(tmp_path, weights(OFFICIAL) | extra, json.loads((OFFICIAL / "config.json").read_text()))
    assert same(model, load_model(folder, device="cpu"))


def test_a_vision_only_checkpoint_has_no_prefix(model: VideoLLaMA3, tmp_path: Path) -> None:
    config = write_vision(model.config.vision)
    folder = single_file(tmp_path, model.vision_encoder.state_dict(), config)
    assert same(model.vision_encoder, load_vision_encoder(folder, device="cpu"))


@pytest.mark.parametrize("folder", [OFFICIAL, HF])
def test_parts_load_out_of_a_whole(model: VideoLLaMA3, folder: Path) -> None:
    assert same(model.vision_encoder, load_vision_encoder(folder, device="cpu"))
    assert same(model.language_model, load_language_model(folder, device="cpu"))


def test_googles_siglip_loads_into_the_encoder_and_says_what_it_drops(
    model: VideoLLaMA3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vision = model.config.vision
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {key: getattr(vision, key) for key in keys}
    siglip = transformers.SiglipConfig(
        vision_config={**sizes, "patch_size": 14, "image_size": 56},
        text_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1},
    )
    reference = transformers.SiglipModel(siglip)
    reference.vision_model.load_state_dict(model.vision_encoder.state_dict(), strict=False)
    reference.save_pretrained(tmp_path)
    loaded = load_vision_encoder(tmp_path, device="cpu")
    assert same(model.vision_encoder, loaded)
    assert "position_embedding" in caplog.text and "head" in caplog.text


def test_a_plain_qwen2_loads_into_the_decoder(model: VideoLLaMA3, tmp_path: Path) -> None:
    raw = write_decoder(model.config.language)
    config = transformers.Qwen2Config(**{key: raw[key] for key in raw if key not in ("architectures", "model_type")})
    reference = transformers.Qwen2ForCausalLM(config).eval()
    reference.save_pretrained(tmp_path)
    decoder = load_language_model(tmp_path, device="cpu")
    ids = torch.randint(4, 250, (12,))
    with torch.no_grad():
        assert (decoder(ids) - reference(ids[None]).logits[0]).abs().max() < 2e-5
    answer = decoder.generate(ids, max_new_tokens=8, min_new_tokens=8)[0]
    expected = reference.generate(ids[None], max_new_tokens=8, min_new_tokens=8, do_sample=False)[0, 12:]
    assert torch.equal(answer, expected)


def test_end_of_text_ids_come_from_generation_config_else_from_config(tmp_path: Path) -> None:
    folder = copy_of(OFFICIAL, tmp_path)
    assert load_model(folder, device="cpu").config.language.eos_token_ids == (3,)
    settings = {"eos_token_id": [7, 9], "do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    loaded = load_model(folder, device="cpu")
    assert loaded.config.language.eos_token_ids == loaded.language_model.config.eos_token_ids == (7, 9)
    assert loaded.recommended_sampling == {"temperature": 0.7, "top_k": 20, "top_p": 0.8}
    assert load_language_model(folder, device="cpu").config.eos_token_ids == (7, 9)


# ------------------------------------------------------------------------------------------------- what does not fit


def test_everything_that_does_not_fit_is_listed_at_once(tmp_path: Path) -> None:
    tensors = weights(OFFICIAL)
    del tensors["model.norm.weight"], tensors["lm_head.weight"]
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 5)
    tensors["model.layers.7.extra"] = torch.zeros(2)
    folder = single_file(tmp_path, tensors, json.loads((OFFICIAL / "config.json").read_text()))
    with pytest.raises(CheckpointError) as error:
        load_model(folder, device="cpu")
    *lines, hint = str(error.value).splitlines()[1:]
    assert "load it whole with the change= that it was saved with" in hint
    assert sorted(line.strip() for line in lines) == [
        "missing: language_model.lm_head.weight (256, 64)",
        "missing: language_model.norm.weight (64,)",
        "unexpected: model.layers.7.extra (2,)",
        "wrong shape: model.layers.0.mlp.up_proj.weight is (3, 5), the config asks for (96, 64)",
    ]


@pytest.mark.parametrize("file", ["../elsewhere.safetensors", "/etc/x.safetensors", "sub/x.safetensors", ".."])
def test_an_index_that_points_outside_its_folder_is_refused(tmp_path: Path, file: str) -> None:
    folder = copy_of(OFFICIAL, tmp_path)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="points outside its folder"):
        load_model(folder, device="cpu")


def test_an_index_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    folder = copy_of(OFFICIAL, tmp_path)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.ghost"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model\.ghost"):
        load_model(folder, device="cpu")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = copy_of(OFFICIAL, tmp_path)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("damage", ["truncated", "header", "empty"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    folder = copy_of(HF, tmp_path)
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes({"truncated": content[:-10], "header": b"\xff" * 64 + content[64:], "empty": b""}[damage])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(folder, device="cpu")


def header(content: bytes | dict, data: bytes = b"", length: int | None = None) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(*shape: int, end: int = 4, begin: int = 0, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a header of 10^15 bytes": (header({}, length=10**15), "damaged"),
    "a header of 2^63 bytes": (header({}, length=2**63), "damaged"),
    "three bytes": (b"\x01\0\0", "damaged"),
    "a header that is no JSON": (header(b"{no"), "damaged"),
    "a nested header": (header(b'{"a":' + b"[" * 50_000), "damaged"),
    "data past the end": (header({"a": entry(100, end=400)}, b"0000"), "damaged"),
    "data left over": (header({"a": entry(1)}, b"00000000"), "damaged"),
    "overlap": (header({"a": entry(1), "b": entry(1)}, b"0000"), "damaged"),
    "a gap": (header({"a": entry(1, begin=4, end=8)}, b"00000000"), "damaged"),
    "a negative size": (header({"a": entry(-1)}, b"0000"), "damaged"),
    "a size that overflows": (header({"a": entry(2**62, 2**62)}, b"0000"), "damaged"),
    "5,000 digits": (header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}'), "damaged"),
    "an unknown type": (header({"a": entry(1, dtype="F99")}, b"0000"), "damaged"),
    "metadata that is no text": (header({"__metadata__": {"a": 1}}), "damaged"),
    "nothing": (header({}), "describes 454,288 parameters, .* hold 0: one of them is of another model"),
    "no numbers": (header({"a": entry(0, end=0)}), "hold 0: one of them is of another model"),
    "a name of a megabyte": (header({"x" * 10**6: entry(0, end=0)}), "hold 0: one of them is of another model"),
    "20,000 names": (header({f"a{n}": entry(0, end=0) for n in range(20_000)}), "one of them is of another model"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies_is_refused(case: str, tmp_path: Path) -> None:
    folder = copy_of(HF, tmp_path)
    content, message = HOSTILE[case]
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(folder, device="cpu")
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


@pytest.mark.parametrize("config", [OFFICIAL, HF])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "weights"])
def test_pipes_are_not_opened(config: Path, name: str, tmp_path: Path) -> None:
    folder = copy_of(config, tmp_path)
    path = sorted(folder.glob("*.safetensors"))[-1] if name == "weights" else folder / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises((CheckpointError, ConfigError), match=r"is no regular file"):
        load_model(folder, device="cpu")


INDICES: dict[str, tuple[Any, str]] = {
    "no object": ([1], "should hold a JSON object"),
    "no map": ({}, "has no weight_map"),
    "a list": ({"weight_map": []}, "has no weight_map"),
    "numbers": ({"weight_map": {"a": 1}}, "has no weight_map"),
    "nothing": ({"weight_map": {}}, "hold 0: one of them"),
    "a long name": ({"weight_map": {"a": "x" * 5000}}, "does not exist"),
    "a null byte": ({"weight_map": {"a": "a\0b"}}, "points outside its folder"),
    "half a character": ({"weight_map": {"a": "\ud800"}}, "points outside its folder"),
    "an empty name": ({"weight_map": {"a": ""}}, "points outside its folder"),
    "the folder": ({"weight_map": {"a": "."}}, "points outside its folder"),
    "the config": ({"weight_map": {"a": "config.json"}}, "damaged"),
}


@pytest.mark.parametrize("case", INDICES)
def test_an_index_that_makes_no_sense_is_refused(case: str, tmp_path: Path) -> None:
    folder = copy_of(OFFICIAL, tmp_path)
    content, message = INDICES[case]
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(folder, device="cpu")
    assert len(str(error.value)) < 500


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    folder = copy_of(OFFICIAL, tmp_path)
    first, second = sorted(folder.glob("model*.safetensors"))
    twice = next(iter(load_file(first).items()))
    save_file(dict([*load_file(second).items(), twice]), second)
    with pytest.raises(CheckpointError, match=f"has tensors in two files, .*\n  {re.escape(twice[0])}"):
        load_model(folder, device="cpu")


def test_of_hundreds_of_misfits_the_first_are_shown_and_a_file_has_all(tmp_path: Path) -> None:
    tensors = weights(OFFICIAL) | {f"extra.{n}": torch.zeros(1) for n in range(900)}
    folder = single_file(tmp_path, tensors, json.loads((OFFICIAL / "config.json").read_text()))
    with pytest.raises(CheckpointError, match=r"\(900 of \d+ tensors\)") as error:
        load_model(folder, device="cpu")
    assert len(str(error.value)) < 900
    path = Path(re.search(r"all of them are in (\S+)", str(error.value))[1])
    assert len(path.read_text().splitlines()) == 900
    path.unlink()


@pytest.mark.parametrize(("layers", "described"), [(1000, "describes"), (1, "unexpected")])
def test_a_config_of_another_size_is_refused_before_a_module_is_built(
    layers: int, described: str, tmp_path: Path
) -> None:
    folder = copy_of(OFFICIAL, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    with pytest.raises(CheckpointError, match=described):
        load_model(folder, device="cpu")


def test_names_that_are_not_utf_8_are_refused_before_anything_is_written(model: VideoLLaMA3, tmp_path: Path) -> None:
    folder = tmp_path / "\udcff\udcfe"
    with pytest.raises(CheckpointError, match=r"is no UTF-8, and safetensors reads no other names|cannot be written"):
        save_model(model, folder)
    assert [*tmp_path.iterdir()] == []
    try:
        shutil.copytree(OFFICIAL, folder)
    except OSError:
        return  # a file system that has no such names
    with pytest.raises(CheckpointError, match=r"is no UTF-8, and safetensors reads no other names"):
        load_model(folder, device="cpu")


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    tensors = weights(OFFICIAL)
    tensors["model.norm.weight"] = torch.ones(64, dtype=torch.int8)
    folder = single_file(tmp_path, tensors, json.loads((OFFICIAL / "config.json").read_text()))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is I8"):
        load_model(folder, device="cpu")


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    shutil.copy(OFFICIAL / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="pickled weights"):
        load_model(tmp_path, device="cpu")


def test_a_name_that_is_neither_folder_nor_hub_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match="not a folder"):
        find_checkpoint("no-such-thing")
    with pytest.raises(CheckpointError, match="is a folder or a name"):
        find_checkpoint("")


@pytest.mark.parametrize("dtype", ["int32", torch.int32, torch.complex64, "float8_e5m2", "half-baked"])
def test_dtypes_that_cannot_be_computed_with_are_refused(dtype: str | torch.dtype) -> None:
    with pytest.raises(CheckpointError, match="cannot be computed with"):
        load_model(OFFICIAL, device="cpu", dtype=dtype)


def test_a_dtype_may_be_written_as_torch_prints_it() -> None:
    assert load_model(OFFICIAL, device="cpu", dtype="torch.float16").dtype == torch.float16


@pytest.mark.parametrize(
    "device", ["tpu-like", "cuda:99", "meta", "xla", "hpu", "vulkan", "mtia", "privateuseone", "", "cpu:-7"]
)
def test_devices_that_are_not_there_are_refused(device: str) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be used|holds no weights"):
        load_model(OFFICIAL, device=device)


def test_a_hub_that_cannot_be_reached_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="could not be fetched"):
        find_checkpoint("2b")


def test_downloads_are_huggingface_hubs_with_the_revision_pinned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = {}

    def snapshot_download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert find_checkpoint("7b", revision="abc123") == tmp_path
    assert asked["name"] == "DAMO-NLP-SG/VideoLLaMA3-7B" and asked["revision"] == "abc123"
    assert "*.safetensors" in asked["allow_patterns"] and not any(".bin" in p for p in asked["allow_patterns"])


# ----------------------------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("layout", ["official", "hf"])
@pytest.mark.parametrize("shard", [5_000_000_000, 400_000])
def test_what_is_saved_loads_again(model: VideoLLaMA3, tmp_path: Path, layout: str, shard: int) -> None:
    folder = save_model(model, tmp_path / "saved", layout, max_shard_bytes=shard)
    files = sorted(folder.glob("*.safetensors"))
    assert (len(files) == 1) == (shard > 1_000_000)
    assert all(file.stat().st_size < shard + 100_000 for file in files)
    assert same(model, load_model(folder, device="cpu"))
    assert set(weights(folder)) == set(weights(OFFICIAL if layout == "official" else HF))


def test_transformers_loads_what_is_saved(model: VideoLLaMA3, tmp_path: Path) -> None:
    folder = save_model(model, tmp_path / "saved", "hf", max_shard_bytes=400_000)
    reference, report = transformers.VideoLlama3ForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(report.values())
    ids = torch.randint(4, 250, (1, 12))
    with torch.no_grad():
        assert (model.language_model(ids[0]) - reference(input_ids=ids).logits[0]).abs().max() < 2e-5


def test_what_transformers_saves_loads(model: VideoLLaMA3, tmp_path: Path) -> None:
    reference = transformers.VideoLlama3ForConditionalGeneration.from_pretrained(HF)
    reference.save_pretrained(tmp_path, max_shard_size="400KB")
    assert same(model, load_model(tmp_path, device="cpu"))


def test_parts_are_saved_as_checkpoints_of_their_own(model: VideoLLaMA3, tmp_path: Path) -> None:
    vision = save_model(model.vision_encoder, tmp_path / "vision")
    assert same(model.vision_encoder, load_vision_encoder(vision, device="cpu"))
    decoder = save_model(model.language_model, tmp_path / "decoder")
    assert same(model.language_model, load_language_model(decoder, device="cpu"))
    _, report = transformers.Qwen2ForCausalLM.from_pretrained(decoder, output_loading_info=True)
    assert not any(report.values())


def test_the_dtype_is_kept(model: VideoLLaMA3, tmp_path: Path) -> None:
    folder = save_model(load_model(OFFICIAL, device="cpu", dtype="bfloat16"), tmp_path / "saved")
    assert read_config(folder).dtype == "bfloat16"
    assert {x.dtype for x in weights(folder).values()} == {torch.bfloat16}


def test_saving_over_an_older_checkpoint_leaves_nothing_of_it(model: VideoLLaMA3, tmp_path: Path) -> None:
    folder = save_model(model, tmp_path / "saved", "official", max_shard_bytes=400_000)
    (folder / "tokenizer.json").write_text("{}")
    save_model(model, folder, "hf")
    assert sorted(f.name for f in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert same(model, load_model(folder, device="cpu"))
    assert [f.name for f in tmp_path.iterdir()] == ["saved"]


def test_a_save_takes_nothing_away_that_it_did_not_write(model: VideoLLaMA3, tmp_path: Path) -> None:
    folder = save_model(model, tmp_path / "saved", max_shard_bytes=400_000)
    mine = ["model_backup.safetensors", "model-ema.safetensors", "notes.txt"]
    for name in mine:
        (folder / name).write_text("mine")
    save_model(model, folder)
    assert sorted(f.name for f in folder.iterdir()) == sorted(
        ["config.json", "generation_config.json", "model.safetensors", *mine]
    )


def test_a_part_that_was_changed_is_not_saved_as_what_it_is_not(tmp_path: Path) -> None:
    changed = load_language_model(OFFICIAL, device="cpu")
    changed.norm = torch.nn.LayerNorm(64)
    with pytest.raises(ChangeError, match=r"norm\.bias: \(64,\) instead of none"):
        save_model(changed, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder_to_save_to(model: VideoLLaMA3, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(CheckpointError, match="is a file"):
        save_model(model, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_save_that_fails_leaves_what_was_there(
    model: VideoLLaMA3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(model, tmp_path / "saved")
    before = {f.name: f.read_bytes() for f in folder.iterdir()}

    def disk_full(*args: object, **options: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("vl3ref.checkpoints.tensor_files.save_file", disk_full)
    with pytest.raises(CheckpointError, match="saved cannot be written: no space"):
        save_model(model, folder)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before
    assert [f.name for f in tmp_path.iterdir()] == ["saved"]


def test_saved_weights_can_be_read_by_others(model: VideoLLaMA3, tmp_path: Path) -> None:
    folder = save_model(model, tmp_path / "saved")
    assert {f.stat().st_mode & 0o777 for f in folder.iterdir()} == {(folder / "config.json").stat().st_mode & 0o777}
