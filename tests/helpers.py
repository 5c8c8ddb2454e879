from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
GOLDENS = Path(__file__).parent / "goldens"

needs_sharding = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="this torch (2.6) cannot spread a model over CPU processes"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
