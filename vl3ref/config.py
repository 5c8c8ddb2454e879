"""The numbers that define a model, and those of the released ones.

Plain frozen dataclasses. No file is read here: `checkpoints/official.py` and `checkpoints/hf.py` do that.
"""

from dataclasses import dataclass, replace
from typing import Literal

from vl3ref.errors import ConfigError, quoted

Layout = Literal["official", "hf"]

LIMITS = {
    "vocab_size": 10_000_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_hidden_layers": 1000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "head_dim": 10_000,
    "patch_size": 1000,
    "num_channels": 1000,
    "max_position_embeddings": 2**31 - 1,
}
"""The largest sizes that are believed: several times those of any published model."""

MOST_REAL = 1e30
"""The largest of the other numbers, so that their products stay finite."""


@dataclass(frozen=True)
class VisionConfig:
    """The SigLIP encoder. Defaults are those of keys the official `vision_encoder_config` leaves out."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    patch_size: int = 14
    num_channels: int = 3
    layer_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        _check_numbers("vision encoder", self, ("layer_norm_eps", "rope_theta"))
        _check_multiple("vision encoder", self, "hidden_size", "num_attention_heads")
        if self.head_dim % 4:
            raise ConfigError(
                f"vision encoder: head size {self.head_dim} is not a multiple of 4, which 2D RoPE needs "
                "(a quarter of the pairs for rows, a quarter for columns)"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened patch: channels x patch_size x patch_size (588 for every released model)."""
        return self.num_channels * self.patch_size**2

    @property
    def parameters(self) -> int:
        """How many numbers the encoder's weights have."""
        dim, wide = self.hidden_size, self.intermediate_size
        layer = 4 * (dim + 1) * dim + (dim + 1) * wide + (wide + 1) * dim + 4 * dim  # attention, MLP, two norms
        return (self.patch_values + 1) * dim + self.num_hidden_layers * layer + 2 * dim


@dataclass(frozen=True)
class RopeScaling:
    """The decoder's rotary frequencies, changed for longer texts than it was pretrained on, as in transformers.

    Attributes:
        low_freq_factor, high_freq_factor: llama3's.
        beta_fast, beta_slow, attention_factor: yarn's; None stands for a factor of 0.1 ln(factor) + 1.
        original_max_position_embeddings: llama3's and yarn's: the length of the texts in pretraining.
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "llama3", "yarn"):
            raise ConfigError(
                f"decoder: no rope scaling of kind {quoted(self.kind)}; there are linear, llama3 and yarn"
            )
        if not 1 <= self.factor <= MOST_REAL:
            raise ConfigError(
                f"decoder: the factor of its rope scaling should be at least 1, not {quoted(self.factor)}"
            )
        if not self.low_freq_factor < self.high_freq_factor:
            raise ConfigError("decoder: low_freq_factor of its rope scaling should be below high_freq_factor")


@dataclass(frozen=True)
class LanguageConfig:
    """The decoder. The defaults are Qwen2.5's; Qwen3 and Llama differ in the fields from head_dim on.

    Attributes:
        head_dim: numbers per head; 0 stands for hidden_size // num_attention_heads.
        qk_norm: queries and keys are RMS-normalised per head before they are rotated (Qwen3).
        qkv_bias, output_bias, mlp_bias: of q_proj, k_proj, v_proj; of o_proj; of the MLP's three layers.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 32768
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    head_dim: int = 0
    qk_norm: bool = False
    qkv_bias: bool = True
    output_bias: bool = False
    mlp_bias: bool = False
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        _check_numbers("decoder", self, ("rms_norm_eps", "rope_theta"))
        _check_multiple("decoder", self, "num_attention_heads", "num_key_value_heads")
        if not self.head_dim:
            _check_multiple("decoder", self, "hidden_size", "num_attention_heads")
        object.__setattr__(self, "head_dim", self.head_dim or self.hidden_size // self.num_attention_heads)
        if self.head_dim % 2:
            raise ConfigError(f"decoder: head size {self.head_dim} is odd, and RoPE rotates pairs")
        if self.rope_scaling is not None and self.rope_scaling.kind == "yarn" and self.rope_theta <= 1:
            raise ConfigError(f"decoder: yarn needs a rope_theta above 1, not {self.rope_theta}")

    @property
    def parameters(self) -> int:
        """How many numbers the decoder's weights have, a head of its own included."""
        dim, heads = self.hidden_size, self.num_attention_heads * self.head_dim
        inner = heads + 2 * self.num_key_value_heads * self.head_dim  # q, k and v
        layer = dim * inner + heads * dim + 3 * dim * self.intermediate_size + 2 * dim
        layer += inner * self.qkv_bias + dim * self.output_bias + 2 * self.head_dim * self.qk_norm
        layer += (2 * self.intermediate_size + dim) * self.mlp_bias
        tables = 1 if self.tie_word_embeddings else 2
        return tables * self.vocab_size * dim + self.num_hidden_layers * layer + dim


@dataclass(frozen=True)
class ModelConfig:
    """A whole VideoLLaMA 3: two towers, the projector between them, and the ids that stand for visual tokens.

    The official layout has one visual token id for everything (`image_token_id == video_token_id`), Hugging Face's has
    two; either marks a visual token.
    """

    vision: VisionConfig
    language: LanguageConfig
    image_token_id: int
    video_token_id: int
    projector_depth: int = 2
    use_token_compression: bool = True
    dtype: str = "float32"
    layout: Layout = "official"

    @property
    def parameters(self) -> int:
        """How many numbers the model's weights have."""
        dim = self.language.hidden_size
        projector = (self.vision.hidden_size + 1) * dim + (self.projector_depth - 1) * (dim + 1) * dim
        return self.vision.parameters + projector + self.language.parameters

    @property
    def visual_token_ids(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((self.image_token_id, self.video_token_id)))

    def token_id_for(self, modal: str) -> int:
        """The id that stands for one visual token of an "image" or a "video"."""
        return self.video_token_id if modal == "video" else self.image_token_id


def _check_numbers(tower: str, config: VisionConfig | LanguageConfig, real: tuple[str, ...]) -> None:
    """Whole numbers within LIMITS, and real ones above 0."""
    for name, value in vars(config).items():
        most, least = LIMITS.get(name), 0 if name == "head_dim" else 1
        if most is not None and not (type(value) is int and least <= value <= most):
            raise ConfigError(f"{tower}: {name} should be a whole number from 1 to {most}, not {quoted(value)}")
        if name in real and not (type(value) in (int, float) and 0 < value <= MOST_REAL):
            raise ConfigError(
                f"{tower}: {name} should be a number above 0 and at most {MOST_REAL:g}, not {quoted(value)}"
            )


def _check_multiple(tower: str, config: VisionConfig | LanguageConfig, whole: str, part: str) -> None:
    a, b = getattr(config, whole), getattr(config, part)
    if a % b:
        raise ConfigError(f"{tower}: {whole} {a} is not a multiple of {part} {b}")


def preset(name: str) -> ModelConfig:
    """The released geometries: "2b" and "7b". Values from the published config.json files.

    Raises:
        ConfigError: for any other name.
    """
    if not isinstance(name, str) or name.lower() not in PRESETS:
        raise ConfigError(f"no preset named {quoted(name)}; there are {', '.join(PRESETS)}")
    return PRESETS[name.lower()]


VISION_ENCODER = VisionConfig(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16)
"""VL3-SigLIP-NaViT, the encoder of both released models (and of SigLIP-NaViT, where stage 1 starts)."""

QWEN_1_5B = LanguageConfig(
    vocab_size=151936,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    rope_theta=1e6,
    tie_word_embeddings=True,
    bos_token_id=151643,
    eos_token_ids=(151645,),
)

QWEN_7B = replace(
    QWEN_1_5B,
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_attention_heads=28,
    num_key_value_heads=4,
    tie_word_embeddings=False,
)

PRESETS = {
    name: ModelConfig(VISION_ENCODER, decoder, image_token_id=151665, video_token_id=151665, dtype="bfloat16")
    for name, decoder in {"2b": QWEN_1_5B, "7b": QWEN_7B}.items()
}
