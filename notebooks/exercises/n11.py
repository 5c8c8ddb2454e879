"""Checks of notebook 11, debugging a port. Reading `second_port` spoils the third exercise."""

from collections.abc import Callable
from functools import cache
from types import MethodType

import torch
import torch.nn.functional as F
from a_port import Attention, Port
from check import NotYet, same
from torch import Tensor, nn

import vl3ref
from vl3ref import ModelInputs, VideoLLaMA3
from vl3ref.parity import compare_activations, record, record_by_name
from vl3ref.parity.activations import record_modules

MORE = {
    "vision.layers.{n}.layer_norm2": "eye.blocks.{n}.norm2",
    "language.layers.{n}.post_attention_layernorm": "mind.blocks.{n}.norm2",
    "language.layers.{n}.mlp.down_proj": "mind.blocks.{n}.mlp.down",
}
ALL = {
    "vision.patch_embedding": "eye.patch",
    "vision.layers.{n}.attention": "eye.blocks.{n}.attn",
    "vision.layers.{n}": "eye.blocks.{n}",
    "projected": "bridge",
    "embeddings": "input of mind.blocks.0",
    "language.layers.{n}.attention": "mind.blocks.{n}.attn",
    "language.layers.{n}": "mind.blocks.{n}",
    "logits": "mind.head",
}


@cache
def model_and_clip() -> tuple[VideoLLaMA3, ModelInputs, Tensor]:
    """vl3-tiny, a clip, and which of its tokens are kept."""
    model, processor = vl3ref.load("vl3-tiny", "cpu")
    clip = {"type": "video", "video": "../docs/media/tinyworld/turns.mp4"}
    inputs = processor([{"role": "user", "content": [clip, {"type": "text", "text": "What happens?"}]}])
    return model, inputs, model.pruner(inputs, None)


def second_port(model: VideoLLaMA3) -> Port:
    port = Port(model).eval()
    port.positions = lambda kept: torch.arange(int(kept.sum()))
    for block in port.eye.blocks:
        block.mlp.gelu = nn.GELU("tanh")
    for block in port.mind.blocks:
        block.attn.share = MethodType(_share, block.attn)
    with torch.no_grad():
        square = port.eye.blocks[-1].attn.o.weight
        square.copy_(square.T.clone())
    port.mind.theta *= 2
    return port


def _share(attention: Attention, x: Tensor) -> Tensor:
    return x.repeat_interleave(attention.heads // attention.kv_heads, dim=1)


@torch.no_grad()
def exercise_1(more_names: Callable[[], dict[str, str]]) -> None:
    model, inputs, keep = model_and_clip()
    port, names = Port(model).eval(), more_names()
    same(None if names is None else sorted(names), sorted(MORE), "the names on the left")
    with record_by_name(port, names) as found:
        port(inputs, keep)
    right = {}
    for name, path in MORE.items():
        for n in range(len(port.eye.blocks if name.startswith("vision") else port.mind.blocks)):
            right[name.replace("{n}", str(n))] = port.get_submodule(path.replace("{n}", str(n)))
    with record_modules(right) as wanted:
        port(inputs, keep)
    for name in right:
        same(found.get(name), wanted[name], name)


def exercise_2(mistaken: Callable[[Tensor, Tensor, Tensor], bool]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 100, generator=generator)
    exact = F.gelu(x.double(), approximate="tanh")
    cancelling = torch.cat([x * 1e6, -x * 1e6, x], dim=1)  # float32 holds little of what such a sum leaves
    sums = [cancelling[:, order].cumsum(1)[:, -1] for order in (torch.randperm(300, generator=generator), slice(None))]
    gelu = F.gelu(x, approximate="tanh")
    cases = {
        "rounding alone": (x * (0.5 * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))), gelu, exact),
        "another function, much alike": (F.gelu(x), gelu, exact),
        "computed in bfloat16": (F.gelu(x.bfloat16(), approximate="tanh"), gelu, exact),
        "theirs in bfloat16, mine not": (gelu, F.gelu(x.bfloat16(), approximate="tanh"), exact),
        "sums that cancel, in two orders": (sums[0], sums[1], x.double().sum(1)),
        "nothing differs": (x, x, x.double()),
    }
    wanted = dict.fromkeys(cases, False) | {"another function, much alike": True, "computed in bfloat16": True}
    for name, tensors in cases.items():
        given = mistaken(*tensors)
        same(given if isinstance(given, bool) or given is None else bool(given), wanted[name], f"mistaken ({name})")


@torch.no_grad()
def exercise_3(mend: Callable[[Port], None]) -> None:
    model, inputs, keep = model_and_clip()
    port = second_port(model)
    mend(port)
    with record_by_name(port, ALL) as theirs:
        port(inputs, keep)
    report = compare_activations(record(model, inputs, 1), theirs)
    if report.first_divergence is not None:
        raise NotYet(f"the port that `mend` left first diverges at {report.first_divergence}")
