"""Solutions of notebook 6, Qwen2.5 from scratch."""

from einops import rearrange
from torch import Tensor

from vl3ref.config import LanguageConfig


def solution_1(config: LanguageConfig, tokens: int, width: int) -> int:
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * tokens * width


def solution_2(weight: Tensor, heads: int, kv_heads: int) -> Tensor:
    """The heads of a group are neighbours, since `attend` repeats each key head for neighbours."""
    by_group = weight.view(kv_heads, heads // kv_heads, -1, weight.shape[1])
    return by_group.mean(dim=1).flatten(0, 1)


def solution_3(weight: Tensor, head_dim: int) -> Tensor:
    """Values are not rotated: the weights that attention gives them are the same."""
    return rearrange(weight, "(heads half pair) dim -> (heads pair half) dim", half=2, pair=head_dim // 2)
