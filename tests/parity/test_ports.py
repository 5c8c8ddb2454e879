"""Other people's ports: recorded by a table of names, and a mistake located where it was made."""

import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers import ROOT, run_page
from tests.parity.pairs import conversation, random_parameters
from vl3ref import InputError
from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.model.diff_fp import keep_all
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity import (
    Activations,
    Report,
    compare_activations,
    html_page,
    load_activations,
    record,
    record_by_name,
    save_activations,
)
from vl3ref.parity.synthetic import random_geometry

CONFIG = ModelConfig(VisionConfig(32, 40, 2, 2, patch_size=4), LanguageConfig(60, 32, 48, 2, 4, 4), 58, 59)
TEXT, FRAME = 4, 16
"""Tokens of the text before and behind the video, and of each of its two frames."""


@pytest.fixture(scope="module")
def model() -> VideoLLaMA3:
    model = random_parameters(VideoLLaMA3(CONFIG), 0)
    model.language_model.embed_tokens.weight.data *= 0.02  # as small as those of trained models
    model.pruner = keep_all
    return model


@pytest.fixture(scope="module")
def inputs() -> ModelInputs:
    return conversation(CONFIG, [(2, 4, 4)], [1], ["video"], 0, TEXT)


# ------------------------------------------------------------------------------------------------------------- a port


class Norm(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor | None, eps: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.dtype = weight, bias, eps, torch.float32

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        if self.bias is not None:
            x = x - x.mean(-1, keepdim=True)
        x = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight.to(self.dtype)
        return (x if self.bias is None else x + self.bias.to(self.dtype)).float()


class Rope(nn.Module):
    """Rotates (1, tokens, heads * dim) by angles (tokens, dim / 2)."""

    swapped = False

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        halves = x.view(*x.shape[:2], -1, 2, angles.shape[-1])
        a, b = halves.unbind(3)
        if self.swapped:
            a, b = b, a
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(2)


class Attention(nn.Module):
    def __init__(self, theirs: nn.Module, heads: int, out: str, causal: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (self._linear(theirs, name) for name in ("q_proj", "k_proj", "v_proj", out))
        self.rope_q, self.rope_k, self.heads, self.causal = Rope(), Rope(), heads, causal

    @staticmethod
    def _linear(theirs: nn.Module, name: str) -> nn.Linear:
        source = theirs.get_submodule(name)
        linear = nn.Linear(source.in_features, source.out_features, bias=source.bias is not None)
        linear.load_state_dict(source.state_dict())
        return linear

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        q, k = self.rope_q(self.q(x), angles), self.rope_k(self.k(x), angles)
        q, k, v = (y.view(*y.shape[:2], self.heads, -1).transpose(1, 2) for y in (q, k, self.v(x)))
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, ours: nn.Module, names: tuple[str, str, str], heads: int, eps: float, causal: bool) -> None:
        super().__init__()
        first, second, out = names
        norms = [ours.get_submodule(name) for name in (first, second)]
        self.norm1, self.norm2 = (Norm(norm.weight, getattr(norm, "bias", None), eps) for norm in norms)
        self.attn = Attention(ours.self_attn, heads, out, causal)
        self.feed = ours.mlp

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), angles)
        return x + self.feed(self.norm2(x)[0])[None]


class Port(nn.Module):
    """A second implementation of the model: other names, a batch axis, one video that is not merged, frame by frame."""

    def __init__(self, ours: VideoLLaMA3) -> None:
        super().__init__()
        vision, language = CONFIG.vision, CONFIG.language
        self.patch, self.project = ours.vision_encoder.embeddings, ours.projector
        names = ("layer_norm1", "layer_norm2", "out_proj"), ("input_layernorm", "post_attention_layernorm", "o_proj")
        self.eyes = nn.ModuleList(
            Block(layer, names[0], vision.num_attention_heads, vision.layer_norm_eps, causal=False)
            for layer in ours.vision_encoder.encoder.layers
        )
        last = ours.vision_encoder.post_layernorm
        self.eyes_norm = Norm(last.weight, last.bias, vision.layer_norm_eps)
        self.words = ours.language_model.embed_tokens
        self.brain = nn.ModuleList(
            Block(layer, names[1], language.num_attention_heads, language.rms_norm_eps, causal=True)
            for layer in ours.language_model.layers
        )
        self.brain_norm = Norm(ours.language_model.norm.weight, None, language.rms_norm_eps)
        self.head = nn.Linear(language.hidden_size, language.vocab_size, bias=False)
        self.head.weight = ours.language_model.lm_head.weight if ours.language_model.lm_head else self.words.weight
        self.late = 0
        """By how much the text behind the video is placed too far."""

    @torch.no_grad()
    def forward(self, inputs: ModelInputs) -> Tensor:
        dim = CONFIG.vision.hidden_size // CONFIG.vision.num_attention_heads
        frequencies = 10000.0 ** (-torch.arange(0, dim // 2, 2) / (dim // 2))
        row, column = torch.arange(FRAME).div(4, rounding_mode="floor"), torch.arange(FRAME) % 4
        angles = torch.cat([row[:, None] * frequencies, column[:, None] * frequencies], dim=1)
        frames = []
        for pixels in inputs.pixel_values.split(FRAME):
            x = self.patch(pixels, torch.stack([row, column], 1))[None]
            for block in self.eyes:
                x = block(x, angles)
            frames.append(self.eyes_norm(x)[0])
        x = self.words(inputs.input_ids)[None].clone()
        x[0, TEXT : TEXT + 2 * FRAME] = self.project(torch.cat(frames))
        positions = torch.arange(len(inputs.input_ids))
        positions[TEXT + 2 * FRAME :] += self.late
        dim = CONFIG.language.head_dim
        angles = positions[:, None] * CONFIG.language.rope_theta ** (-torch.arange(0, dim, 2) / dim)
        for block in self.brain:
            x = block(x, angles)
        return self.head(self.brain_norm(x))


NAMES = {
    "vision.patch_embedding": "patch",
    "vision.layers.{n}.attention": "eyes.{n}.attn",
    "vision.layers.{n}.mlp": "eyes.{n}.feed",
    "vision.layers.{n}": "eyes.{n}",
    "vision.norm": "eyes_norm",
    "projected": "project",
    "embeddings": "input of brain.0",
    "language.layers.{n}.attention": "brain.{n}.attn",
    "language.layers.{n}.mlp": "brain.{n}.feed",
    "language.layers.{n}": "brain.{n}",
    "language.norm": "brain_norm",
    "logits": "head",
}
CLOSER = {
    "vision.layers.{n}.layer_norm1": "eyes.{n}.norm1",
    "vision.layers.{n}.queries": "eyes.{n}.attn.rope_q",
    "vision.layers.{n}.self_attn.out_proj": "eyes.{n}.attn.o",
    "language.layers.{n}.input_layernorm": "brain.{n}.norm1",
    "language.layers.{n}.self_attn.q_proj": "brain.{n}.attn.q",
    "language.layers.{n}.self_attn.k_proj": "brain.{n}.attn.k",
    "language.layers.{n}.self_attn.v_proj": "brain.{n}.attn.v",
    "language.layers.{n}.queries": "brain.{n}.attn.rope_q",
    "language.layers.{n}.keys": "brain.{n}.attn.rope_k",
    "language.layers.{n}.self_attn.o_proj": "brain.{n}.attn.o",
}


def compared(model: VideoLLaMA3, port: Port, inputs: ModelInputs, names: dict[str, str]) -> tuple[Report, str]:
    """The report and the page, of a file that the port wrote."""
    with record_by_name(port, names) as found:
        port(inputs)
    ours = record(model, inputs, 1, found)
    report = compare_activations(ours, found)
    return report, html_page(report, ours, found, inputs, CONFIG.visual_token_ids)


def transposed(linear: nn.Linear) -> None:
    linear.weight = nn.Parameter(linear.weight.T.contiguous())


def wrong_epsilon(port: Port) -> None:
    for block in port.brain:
        block.norm1.eps = block.norm2.eps = 1e-5


def swapped_halves(port: Port, blocks: str) -> None:
    for block in getattr(port, blocks):
        block.attn.rope_q.swapped = block.attn.rope_k.swapped = True


MISTAKES = {
    "a transposed weight": (
        lambda port: transposed(port.brain[1].attn.o),
        "language.layers.1.self_attn.o_proj",
        "language.layers.1.attention",
    ),
    "a transposed weight of the encoder": (
        lambda port: transposed(port.eyes[1].attn.o),
        "vision.layers.1.self_attn.out_proj",
        "vision.layers.1.attention",
    ),
    "a wrong epsilon": (wrong_epsilon, "language.layers.0.input_layernorm", "language.layers.0.attention"),
    "halves swapped": (
        lambda port: swapped_halves(port, "brain"),
        "language.layers.0.queries",
        "language.layers.0.attention",
    ),
    "halves swapped in the encoder": (
        lambda port: swapped_halves(port, "eyes"),
        "vision.layers.0.queries",
        "vision.layers.0.attention",
    ),
    "an off-by-one position": (
        lambda port: setattr(port, "late", 1),
        "language.layers.0.queries",
        "language.layers.0.attention",
    ),
    "a norm in bfloat16": (
        lambda port: setattr(port.brain_norm, "dtype", torch.bfloat16),
        "language.norm",
        "language.norm",
    ),
    "a norm of the encoder in bfloat16": (
        lambda port: setattr(port.eyes[1].norm1, "dtype", torch.bfloat16),
        "vision.layers.1.layer_norm1",
        "vision.layers.1.attention",
    ),
}


def test_a_port_without_mistakes_is_within_the_tolerance(model, inputs) -> None:
    report, page = compared(model, Port(model), inputs, NAMES | CLOSER)
    assert report.passed and report.first_divergence is None and 'class="past' not in page
    expected = {name.format(n=n) for name in NAMES | CLOSER for n in range(2)}
    assert {row.name for row in report.rows} == expected


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_located_where_it_was_made(model, inputs, mistake) -> None:
    make, closer, coarse = MISTAKES[mistake]
    for names, expected in ((NAMES | CLOSER, closer), (NAMES, coarse)):
        port = Port(model)
        make(port)
        report, page = compared(model, port, inputs, names)
        assert report.first_divergence == expected
        [marked] = re.findall(r'<details [^>]*class="past first" open><summary><b>(.*?)</b>', page)
        assert marked == expected
        assert f"<b>{expected}</b></a>, after " in page


def test_an_off_by_one_position_shows_in_the_rows_behind_the_video_alone(model, inputs) -> None:
    port = Port(model)
    port.late = 1
    _, page = compared(model, port, inputs, NAMES | CLOSER)
    body = page[page.index('class="past first"') :]
    first = TEXT + 2 * FRAME
    assert f"rows past the tolerance: {TEXT}, from {first} to {first + TEXT - 1}:" in body[: body.index("</details>")]


def test_transformers_by_the_table_of_the_page(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "docs" / "media" / "bunny.mp4", "clip.mp4")
    names = run_page("recipes/parity_of_a_port.md")
    report = names["report"]
    assert report.passed and report.first_divergence is None and len(report.rows) == 4 * 4 + 4 * 5 + 5
    back, inputs = load_activations("theirs.safetensors")
    assert back.keys() == names["found"].keys() and torch.equal(inputs.input_ids, names["inputs"].input_ids)
    assert "<h1>" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize("path", ["brian.{n}", "brain.7", "input of brain.", "brain.0.attn.O"])
def test_a_path_that_leads_nowhere_is_named(model, path) -> None:
    where = re.escape(repr(path.removeprefix("input of ")))
    said = f"there is no module {where} for 'logits'; there are .*patch"
    with pytest.raises(InputError, match=said), record_by_name(Port(model), {"logits": path}):
        pass


# ------------------------------------------------------------------------------------------------------------ the page


class Page(HTMLParser):
    """Fails on elements that are not closed, and keeps what they are and refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.add(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img", "rect", "line", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        if self.open and tag not in ("rect", "line", "circle"):
            assert self.open.pop() == tag


def page_of(ours: Activations, theirs: Activations, *others, tolerance: float | None = None) -> str:
    return html_page(compare_activations(ours, theirs, tolerance=tolerance), ours, theirs, *others)


def test_the_page_holds_all_that_it_needs(model, inputs) -> None:
    port = Port(model)
    transposed(port.eyes[1].attn.o)
    _, text = compared(model, port, inputs, NAMES)
    page = Page(text)
    assert "script" not in page.tags and "link" not in page.tags
    assert all(source.startswith(("data:image/png;base64,", "#row-")) for source in page.sources)
    assert re.findall(r"url\((.{16})", text) == ["data:image/jpeg;"] * 2  # the two frames
    assert text.count("On the frames") == text.count('class="past') + text.count('class="differs"')


def test_names_and_all_else_from_outside_are_escaped() -> None:
    name = '<script>alert("&")</script>'
    ours, theirs = {name: torch.ones(3, 2)}, {name: torch.zeros(3, 2), "<b>": torch.ones(1)}
    report = compare_activations(ours, theirs, about={"<i>": "<u>'\""})
    page = html_page(report, ours, theirs)
    assert "&lt;script&gt;alert" in page and "&lt;i&gt;" in page and "&lt;u&gt;" in page and "&lt;b&gt;." in page
    assert Page(page).tags.isdisjoint({"script", "i", "u"})


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.tensor([[1.0, float("nan")], [2.0, float("inf")]]), "2 differ by what is no number"),
        (torch.zeros(0, 3), "0 of 0 elements are equal"),
        (torch.tensor(2.0), "0 of 1 elements are equal"),
        (torch.tensor([1, 2, 3]), "0 of 3 elements are equal"),
        (torch.zeros(2000, 2), "rows past the tolerance: 2000, from 0 to 1999"),
    ],
)
def test_odd_activations_are_shown(x, said) -> None:
    assert said in page_of({"x": x}, {"x": torch.full_like(x, 7)})
    assert "equal" in page_of({"x": x}, {"x": x.clone()})
    Page(page_of({"x": x}, {"x": torch.full_like(x, 7)}, tolerance=0.0))


@pytest.mark.parametrize(
    ("name", "rows", "frame", "place"),
    [
        ("vision.layers.0", 32 + 48, 1, (1, 2)),  # of patches, in merge-block order
        ("vision.merged", 8 + 12, 1, (0, 1)),
        ("projected", 15, 3, (1, 0)),  # kept tokens alone
        ("language.layers.0", 15 + 12, 3, (1, 0)),
    ],
)
def test_an_error_is_shown_at_its_place_on_the_frames(name, rows, frame, place) -> None:
    from vl3ref.parity.html import Frames

    inputs = conversation(CONFIG, [(2, 4, 4), (3, 4, 4)], [2, 2], ["video", "video"], 0, TEXT)
    keep = torch.ones(20, dtype=torch.bool)
    keep[[1, 5, 8, 9, 19]] = False
    row = {"vision.layers.0": 16 + 6, "vision.merged": 5, "projected": 14 - 4, "language.layers.0": 8 + 14 - 4}[name]
    errors = torch.zeros(rows, dtype=torch.float64)
    errors[row] = 1.0
    maps = Frames(inputs, keep, CONFIG.visual_token_ids).maps(name, errors)
    assert [x.shape for x in maps] == [(4, 4) if name == "vision.layers.0" else (2, 2)] * 5
    assert [(n, *np.argwhere(x == 1)[0]) for n, x in enumerate(maps) if (x == 1).any()] == [(frame, *place)]
    assert np.isnan(np.stack(maps)).sum() == (0 if name.startswith("vision") else 5)
    worst = Frames(inputs, keep, CONFIG.visual_token_ids).worst(name, errors)
    assert frame in worst


# ---------------------------------------------------------------------------------------------------- the command line


def test_the_command_writes_the_page_and_looks_inside_blocks_where_the_file_does(vl3ref_main, tmp_path) -> None:
    small = ("--random", "tiny", "--layers", "1", "--frames", "2", "--max-tokens", "1", "--device", "cpu")
    vl3ref_main("parity", *small, "--no-float64", "--dump", tmp_path / "ours.safetensors")
    found, inputs = load_activations(tmp_path / "ours.safetensors")
    network = random_geometry("tiny", 1, "cpu", torch.float32)
    close = ["language.layers.0.self_attn.k_proj", "language.layers.0.queries"]
    found = record(network, inputs, 1, close)
    assert found[close[1]].shape == (len(found["logits"]), network.config.language.hidden_size)
    found[close[1]][5] *= 1.01
    save_activations(tmp_path / "theirs.safetensors", found, inputs)
    against = ("--against", tmp_path / "theirs.safetensors", "--html", tmp_path / "report.html")
    _, err = vl3ref_main("parity", *small, *against, rc=1)
    assert f"wrote {tmp_path / 'report.html'}" in err
    text = (tmp_path / "report.html").read_text("utf-8")
    Page(text)
    assert re.findall(r'past first" open><summary><b>(.*?)</b>', text) == ["language.layers.0.queries"]
    assert "rows past the tolerance: 1, from 5 to 5" in text and "theirs.safetensors" in text
