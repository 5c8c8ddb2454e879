"""LoRA: adapters go between this package, peft on transformers' model, and plain weights without changing a number."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vl3ref
from tests.goldens_cases import inputs_of
from tests.helpers import GOLDENS
from tests.small_runs import Killed, Mixed, Run, arm, column, processor, raise_killed, small_model
from vl3ref.checkpoints import add_adapter, convert, load_model, merge_adapters, save, save_adapter, use_adapter
from vl3ref.checkpoints.adapter_files import read_adapter
from vl3ref.checkpoints.adapters import active_adapters, adapter_names, adapter_tensors, inject
from vl3ref.errors import VL3Error
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.parity.reference import reference_inputs, reference_model
from vl3ref.training.checkpoints import checkpoints
from vl3ref.training.lora import LoRA, adapted_stage, read_lora
from vl3ref.training.run import train, train_stage
from vl3ref.training.stages import TINY

peft = pytest.importorskip("peft")

LAYOUTS = ("official", "hf")
CASES = ("one_image", "video")


def base(layout: str = "official") -> VideoLLaMA3:
    return load_model(GOLDENS / f"{layout}-tiny", "cpu", "float64")


def linear(model: nn.Module) -> list[str]:
    return [name for name, x in model.named_modules() if isinstance(x, nn.Linear) and ".layers." in name]


def adapted(model: VideoLLaMA3, name: str = "default", seed: int = 0) -> VideoLLaMA3:
    """A random adapter, of two ranks, of both towers, with a projector of its own."""
    layers = linear(model) if name == "default" else [x for x in linear(model) if "language" in x]
    layers = [x.removesuffix(".base_layer") for x in layers if ".lora_" not in x]
    ranks = {layer: 2 if "mlp" in layer else 4 for layer in layers}
    inject(
        model, name, ranks, {layer: 8.0 if "k_proj" in layer else 16.0 for layer in layers}, False, 0.05, ["projector"]
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for x in adapter_tensors(model, name).values():
            x.add_(torch.randn(x.shape, generator=generator, dtype=x.dtype) * 0.05)
    return model


@torch.no_grad()
def logits(model: VideoLLaMA3, case: str = "video") -> Tensor:
    return model(inputs_of(case, model.config.layout)).logits


def near(a: Tensor, b: Tensor, most: float = 1e-10) -> bool:
    return float((a - b).abs().max()) < most


THEIR_FLOAT32 = 1e-5
"""transformers' norms and rotations are float32 in a float64 model."""


# ---------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("names", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_saved_and_loaded_in_either_layout(layout: str, names: Any, tmp_path: Path) -> None:
    plain, model = logits(base(layout)), adapted(base(layout))
    with_adapter = logits(model)
    assert float((with_adapter - plain).abs().max()) > 0.1
    folder = save_adapter(model, tmp_path / "a", names)
    assert (folder / "non_lora_trainables.safetensors").exists() == (names == "official")
    loaded = base(layout)
    add_adapter(loaded, folder)
    assert torch.equal(logits(loaded), with_adapter) and not loaded.training
    use_adapter(loaded, None)
    assert torch.equal(logits(loaded), plain)
    use_adapter(loaded, "default")
    assert torch.equal(logits(loaded), with_adapter)
    merge_adapters(loaded)
    assert near(logits(loaded), with_adapter) and loaded.state_dict().keys() == base(layout).state_dict().keys()


@torch.no_grad()
def theirs(model: Any, base_model: VideoLLaMA3, case: str) -> Tensor:
    return model(**reference_inputs(base_model, inputs_of(case, "hf"))).logits[0]


@pytest.mark.filterwarnings("ignore")
def test_peft_on_transformers_loads_ours(tmp_path: Path) -> None:
    model = adapted(base("hf"))
    folder = save_adapter(model, tmp_path / "a", "hf")
    loaded = peft.PeftModel.from_pretrained(reference_model(base("hf")), folder)
    for case in CASES:
        assert near(theirs(loaded, base("hf"), case), logits(model, case), THEIR_FLOAT32)
    merged = loaded.merge_and_unload()
    assert near(theirs(merged, base("hf"), "video"), logits(model), THEIR_FLOAT32)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rslora", [False, True])
def test_we_load_what_peft_on_transformers_saves(rslora: bool, tmp_path: Path) -> None:
    """With the traps of names: "q_proj" finds both towers', and patterns of ranks and alphas are for ends of names."""
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "fc1", "down_proj"],
        rank_pattern={"language_model.layers.1.self_attn.q_proj": 2},
        alpha_pattern={r"vision_model\.encoder\.layers\.0\.mlp\.fc1": 3},
        modules_to_save=["projector"],
        use_rslora=rslora,
        init_lora_weights=False,
    )
    saved = peft.get_peft_model(reference_model(base("hf")), config)
    with torch.no_grad():
        saved.base_model.model.model.projector.readout[0].weight.add_(0.1)
    saved.save_pretrained(tmp_path / "a")
    for layout in LAYOUTS:
        model = base(layout)
        add_adapter(model, tmp_path / "a")
        for case in CASES:
            assert near(logits(model, case), theirs(saved, base("hf"), case), THEIR_FLOAT32)


def test_the_official_trainers_files(tmp_path: Path) -> None:
    """Its names have one layer more in the encoder, and the projector is pickled."""
    model = adapted(base())
    folder = save_adapter(model, tmp_path / "a")
    weights, in_full = (folder / f"{name}.safetensors" for name in ("adapter_model", "non_lora_trainables"))
    one, two = ".vision_encoder.", ".vision_encoder.vision_encoder."
    save_file({name.replace(one, two): x for name, x in load_file(weights).items()}, weights)
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace(r"vision_encoder\\.", r"vision_encoder\\.vision_encoder\\."))
    torch.save(load_file(in_full), folder / "non_lora_trainables.bin")
    in_full.unlink()
    assert "base_model.model.model.mm_projector.readout.0.weight" in torch.load(folder / "non_lora_trainables.bin")
    loaded = base()
    add_adapter(loaded, folder)
    assert torch.equal(logits(loaded), logits(model))


# ---------------------------------------------------------------------------------------------------- several, merging


def test_several_by_name(tmp_path: Path) -> None:
    one, two = (
        save_adapter(adapted(base(), name, seed), tmp_path / name) for seed, name in enumerate(("default", "b"))
    )
    alone = {"one": logits(adapted(base())), "two": logits(adapted(base(), "b", 1)), None: logits(base())}
    model = base()
    add_adapter(model, one, "one")
    add_adapter(model, two, "two")
    assert adapter_names(model) == ["one", "two"] and active_adapters(model) == ["two"]
    for name in ("one", None, "two", "one"):
        use_adapter(model, name)
        assert torch.equal(logits(model), alone[name])
    trains = {name for name, x in model.named_parameters() if x.requires_grad}
    assert trains and all(".one." in name for name in trains)
    own = base().state_dict()
    merge_adapters(model, {"one": 0.5, "two": -2.0})
    expected = {name: x.clone() for name, x in own.items()}
    for share, folder in ((0.5, one), (-2.0, two)):
        adapter = read_adapter(folder)
        for layer, r in adapter.ranks.items():
            a, b = (adapter.tensors[f"{layer}.lora_{x}.weight"] for x in "AB")
            expected[f"{layer}.weight"] += share * adapter.alphas[layer] / r * b @ a
        for part in ("projector.readout.0.weight", "projector.readout.2.bias"):
            expected[part] += share * (adapter.tensors[part] - own[part])
    for name in (*expected.keys() - {x for x in expected if x.startswith("projector")}, "projector.readout.2.bias"):
        assert near(model.state_dict()[name], expected[name])


def test_convert_and_load(tmp_path: Path, vl3ref_main: Callable[..., tuple[str, str]]) -> None:
    """The command merges into the checkpoint's dtype, Python computes beside it, and both see as it was trained."""
    stage = TINY[0]
    lora = LoRA(2, 4, targets="vision")
    final = train(Mixed("sts"), stage, vl3ref.load("vl3-tiny"), tmp_path / "run", few(1), lora=lora)
    model, seen = vl3ref.load("vl3-tiny", adapter=final)
    assert seen.config.video_merge_size == stage.video_merge_size
    _, err = vl3ref_main(
        "convert",
        "vl3-tiny",
        tmp_path / "merged",
        "--merge",
        f"{final}=0.5",
        "--merge",
        final.parent / "checkpoint-000001=0.5",
    )
    assert "wrote" in err
    merged, _ = vl3ref.load(tmp_path / "merged", dtype="float32")
    inputs = seen([{"role": "user", "content": "Hello"}])
    assert torch.allclose(merged(inputs).logits, model(inputs).logits, atol=1e-3)
    out, _ = vl3ref_main("ask", "What is it?", "--adapter", final, "--max-tokens", 2)
    assert out.strip()
    several, _ = vl3ref.load("vl3-tiny", adapter={"one": final, "two": final})
    assert active_adapters(several) == ["one"]
    with pytest.raises(VL3Error, match="save_adapter"):
        save(model, seen, tmp_path / "whole")
    with pytest.raises(VL3Error, match="holds an adapter, not a model"):
        vl3ref.load(final)
    assert convert("vl3-tiny", tmp_path / "same").is_dir()


# ------------------------------------------------------------------------------------------------------------training

LORA = LoRA(2, 8, 0.1, "both")
KINDS = "stg" * 4


def few(steps: int) -> Any:
    return Run(Path(), "s" * 4 * steps).plan


def run_lora(folder: Path, model: VideoLLaMA3 | None = None, lora: LoRA = LORA, **settings: Any) -> VideoLLaMA3:
    model, run = model or small_model(), Run(folder, KINDS, batch=3, **settings)
    train_stage(model, processor(), Mixed(KINDS), run.stage, run.plan, folder, None, True, lora=lora)
    return model


def test_only_adapters_and_the_projector_train(tmp_path: Path) -> None:
    before, model = small_model().state_dict(), run_lora(tmp_path)
    assert all(torch.equal(x, before[name]) for name, x in adapter_tensors(model, None).items())
    changed = adapter_tensors(model, "default")
    assert all(bool(x.any()) for name, x in changed.items() if ".lora_B" in name)
    assert not torch.equal(changed["projector.readout.0.weight"], before["projector.readout.0.weight"])
    last = checkpoints(tmp_path)[-1]
    names = {"adapter_config.json", "adapter_model.safetensors", "non_lora_trainables.safetensors", "trainer.pt"}
    assert {file.name for file in last.iterdir()} - names == {"processor_config.json", "preprocessor_config.json"}
    held = torch.load(last / "trainer.pt")["optimiser"]["state"]
    assert len(held) == len(changed) and all("lora_" in x or "projector" in x for x in held)
    fresh = small_model()
    add_adapter(fresh, last)
    assert all(torch.equal(x, adapter_tensors(fresh, "default")[name]) for name, x in changed.items())


def test_resumed_after_a_kill_to_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_lora(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        arm("its gradients are there", 4, raise_killed, patch.setattr)
        run_lora(tmp_path / "killed")
    run_lora(tmp_path / "killed")
    assert torch.equal(column(tmp_path / "killed", "loss"), column(tmp_path / "whole", "loss"))
    with pytest.raises(VL3Error, match="not of stage-3, LoRA r=2"):
        run_lora(tmp_path / "killed", lora=LoRA(2, 9, 0.1, "both"))
    with pytest.raises(VL3Error, match="it is of stage-3, LoRA"):
        Run(tmp_path / "killed", KINDS, batch=3).train()


def test_frozen_layers_in_bfloat16_change_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = run_lora(tmp_path / "narrow", bfloat16=True)
    kinds = {x.dtype for name, x in model.named_parameters() if "q_proj.base_layer" in name}
    assert kinds == {torch.bfloat16} and model.dtype == torch.float32
    monkeypatch.setattr("vl3ref.training.run.freeze_base", lambda model, _: freeze(model, False))
    from vl3ref.training.lora import freeze_base as freeze

    run_lora(tmp_path / "wide", bfloat16=True)
    assert torch.equal(column(tmp_path / "narrow", "loss"), column(tmp_path / "wide", "loss"))


FOUR = LoRA(2, 8, 0.1, bits=4)


def model_of_whole_blocks() -> VideoLLaMA3:
    return small_model(hidden_size=64, intermediate_size=128, head_dim=16)


def test_qlora(tmp_path: Path) -> None:
    """Frozen layers are in 4 bits, and their numbers are near the others: training learns what LoRA learns."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = run_lora(tmp_path / "four", model_of_whole_blocks(), FOUR)
    plain = run_lora(tmp_path / "sixteen", model_of_whole_blocks(), replace(FOUR, bits=16))
    frozen = {name: module.base_layer for name, module in model.named_modules() if hasattr(module, "base_layer")}
    assert len(frozen) > 10 and all(isinstance(x, bitsandbytes.nn.Linear4bit) for x in frozen.values())
    for name, layer in frozen.items():
        whole = plain.get_submodule(name).base_layer.weight
        assert layer.weight.dtype == torch.uint8 and layer.weight.numel() * 2 == whole.numel()
        numbers = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        assert (numbers - whole).abs().mean() < 0.13 * whole.abs().mean()  # NF4 loses 9 % of normal values
    losses, others = (column(tmp_path / x, "loss") for x in ("four", "sixteen"))
    assert not torch.equal(losses, others) and torch.allclose(losses, others, rtol=0.05)
    fresh = model_of_whole_blocks()  # the adapter's files are like any other's
    add_adapter(fresh, checkpoints(tmp_path / "four")[-1])
    trained = adapter_tensors(model, "default")
    assert all(torch.equal(x, trained[name]) for name, x in adapter_tensors(fresh, "default").items())


def test_qlora_leaves_layers_that_are_no_whole_blocks(tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = run_lora(tmp_path, small_model(hidden_size=64, intermediate_size=96), FOUR)
    layer = model.language_model.layers[0]
    assert type(layer.mlp.down_proj.base_layer) is nn.Linear
    assert isinstance(layer.mlp.up_proj.base_layer, bitsandbytes.nn.Linear4bit)


def test_qlora_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes")
    run_lora(tmp_path / "whole", model_of_whole_blocks(), FOUR)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        arm("its gradients are there", 4, raise_killed, patch.setattr)
        run_lora(tmp_path / "killed", model_of_whole_blocks(), FOUR)
    run_lora(tmp_path / "killed", model_of_whole_blocks(), FOUR)
    assert torch.equal(column(tmp_path / "killed", "loss"), column(tmp_path / "whole", "loss"))
    with pytest.raises(VL3Error, match="not of stage-3, LoRA r=2"):
        run_lora(tmp_path / "killed", model_of_whole_blocks(), replace(FOUR, bits=16))


def test_without_bitsandbytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(VL3Error, match=r"pip install 'vl3ref\[qlora\]'"):
        run_lora(tmp_path, lora=LoRA(2, bits=4))


def test_what_a_change_adds_trains_in_full(tmp_path: Path) -> None:
    def change(model: VideoLLaMA3) -> None:
        model.pruner = Scorer(model.config.vision.hidden_size, 1)

    model = small_model()
    change(model)
    run_lora(tmp_path, model)
    last = checkpoints(tmp_path)[-1]
    assert read_adapter(last).in_full == ["projector", "pruner"]
    fresh = small_model()
    with pytest.raises(VL3Error, match=r"pruner.weight is \(1, 16\), the model's missing"):
        add_adapter(fresh, last)
    change(fresh)
    add_adapter(fresh, last)
    assert torch.equal(*(adapter_tensors(x, "default")["pruner.weight"] for x in (fresh, model)))


class Scorer(nn.Linear):
    def forward(self, inputs: Any, features: Any) -> Tensor:
        return 1 + super().forward(features)[:, 0].tanh() / 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("r=64,alpha=16", LoRA()),
        ("", LoRA()),
        ("r=8, dropout=0", LoRA(8, dropout=0)),
        ("alpha=0.5", LoRA(alpha=0.5)),
        ("r=8,bits=4", LoRA(8, bits=4)),
        ("bits=8", "bits should be 16, or 4 for QLoRA, not 8"),
        ("r=0", "r should be a whole number from 1"),
        ("r=2.5", "is not understood"),
        ("alpha=0", "alpha should be a number from"),
        ("dropout=1", "from 0 to below 1"),
        ("rank=3", "is given as r=64,alpha=16,dropout=0.05,bits=16; 'rank=3'"),
        ("r=-1", "is not understood"),
        ("r=nan", "is not understood"),
    ],
)
def test_the_option(text: str, expected: Any) -> None:
    if isinstance(expected, LoRA):
        assert read_lora(text) == expected
    else:
        with pytest.raises(VL3Error, match=expected):
            read_lora(text)


# --------------------------------------------------------------------------------------------------------------- wrong


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], Any], file: str = "adapter_model") -> None:
    path = folder / f"{file}.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no settings": (lambda x: (x / "adapter_config.json").unlink(), "adapter_config.json' does not exist"),
    "settings that are none": (lambda x: (x / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
    "another method": (lambda x: edit_config(x, peft_type="IA3"), "peft_type 'IA3' is not implemented"),
    "DoRA": (lambda x: edit_config(x, use_dora=True), "use_dora True is not implemented"),
    "biases": (lambda x: edit_config(x, bias="all"), "bias 'all' is not implemented"),
    "no alpha": (lambda x: edit_config(x, lora_alpha=None), "has no lora_alpha"),
    "alpha of 0": (lambda x: edit_config(x, lora_alpha=0), "lora_alpha should be a number above 0"),
    "an alpha that is text": (lambda x: edit_config(x, alpha_pattern={"q_proj": "x"}), "alpha_pattern"),
    "no weights": (lambda x: (x / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "damaged weights": (lambda x: (x / "adapter_model.safetensors").write_bytes(b"x"), "is damaged"),
    "nothing adapted": (lambda x: edit_weights(x, lambda w: [w.pop(n) for n in [*w]]), "holds no LoRA adapters"),
    "half a pair": (lambda x: edit_weights(x, lambda w: w.pop(FIRST.replace("_A", "_B"))), "q_proj has A and B"),
    "a wide A": (
        lambda x: edit_weights(x, lambda w: w.update({FIRST: torch.ones(4, 7)})),
        r"q_proj has A and B \(\(4, 7\)",
    ),
    "a flat A": (lambda x: edit_weights(x, lambda w: w.update({FIRST: torch.ones(7)})), "q_proj has A and B"),
    "whole numbers": (lambda x: edit_weights(x, lambda w: w.update({FIRST: torch.ones(4, 7).long()})), "real numbers"),
    "another model's": (
        lambda x: edit_weights(x, lambda w: w.update({FIRST.replace(".0.", ".9."): w[FIRST].clone()})),
        "the model's would be missing",
    ),
    "weights of a tower": (
        lambda x: edit_weights(x, lambda w: w.update({"base_model.model.model.norm.weight": torch.ones(3)})),
        "holds weights of the language_model itself",
    ),
    "half a projector": (
        lambda x: edit_weights(x, lambda w: w.popitem(), "non_lora_trainables"),
        "projector.readout.* is missing",
    ),
    "a pickle that runs code": (
        lambda x: ((x / "non_lora_trainables.safetensors").unlink(), torch.save(print, x / "non_lora_trainables.bin")),
        "non_lora_trainables.bin is damaged",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(adapted(base()), tmp_path_factory.mktemp("whole") / "a")


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_adapter_of_the_model(case: str, whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "a")
    spoil, said = WRONG[case]
    spoil(folder)
    model = base()
    with pytest.raises(VL3Error, match=said):
        add_adapter(model, folder)
    assert not adapter_names(model) and model.state_dict().keys() == base().state_dict().keys()


def test_names(whole: Path) -> None:
    model = base()
    for call in (lambda: use_adapter(model, "x"), lambda: merge_adapters(model), lambda: save_adapter(model, whole)):
        with pytest.raises(VL3Error, match="the model has no adapters"):
            call()
    add_adapter(model, whole, "x")
    with pytest.raises(VL3Error, match="another than those the model has"):
        add_adapter(model, whole, "x")
    with pytest.raises(VL3Error, match=r"letters, digits and _, unlike 'a\.b'"):
        add_adapter(model, whole, "a.b")
    with pytest.raises(VL3Error, match="has x"):
        use_adapter(model, "y")
    with pytest.raises(VL3Error, match="has LoRA adapters already"):
        train_stage(model, processor(), Mixed("s"), TINY[3], few(1), whole, lora=LoRA())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convert", "vl3-tiny", "OUT"], "say what to convert to"),
        (["convert", "vl3-tiny", "OUT", "--merge", "nowhere"], "nowhere"),
        (["convert", "vl3-tiny", "OUT", "--merge", "A=1e9"], "between -1000 and 1000"),
        (["convert", "vl3-tiny", "OUT", "--merge", "A", "--merge", "A=2"], "the same adapter twice"),
        (["ask", "Hello?", "--adapter", "nowhere"], "nowhere"),
        (["ask", "Hello?", "--adapter", "A"], "does not fit the model"),
        (["ask", "Hello?", "--model", "A"], "holds an adapter, not a model"),
        (["train", "DATA", "--stage", "4", "--model", "vl3-tiny", "--lora", "x"], "is not understood"),
        (["train", "DATA", "--stage", "4", "--model", "vl3-tiny", "--lora-targets", "both"], "give --lora"),
        (["train", "DATA", "--stage", "1", "--model", "vl3-tiny", "--lora", "r=4"], "give --decoder-lr above 0"),
        (["train", "--recipe", "tiny", "--lora", "r=4"], "leave --lora out"),
    ],
)
def test_commands(
    arguments: list[str], said: str, whole: Path, tmp_path: Path, vl3ref_main: Callable[..., tuple[str, str]]
) -> None:
    (tmp_path / "data.jsonl").write_text('{"conversations": [{"from": "human", "value": "Hi"}]}\n')
    places = {
        "OUT": tmp_path / "out",
        "A": whole,
        "A=1e9": f"{whole}=1e9",
        "A=2": f"{whole}=2",
        "DATA": tmp_path / "data.jsonl",
    }
    assert said in vl3ref_main(*(places.get(x, x) for x in arguments), rc=2)[1]
    assert not (tmp_path / "out").exists()


def test_without_peft(monkeypatch: pytest.MonkeyPatch, whole: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(VL3Error, match=r"pip install 'vl3ref\[lora\]'"):
        add_adapter(base(), whole)


def test_the_stage() -> None:
    assert adapted_stage(TINY[3], LoRA()).vision_lr is None
    assert adapted_stage(TINY[3], LoRA(targets="vision")).decoder_lr is None
    assert adapted_stage(TINY[3], LoRA(targets="both")) == TINY[3]
