from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
GOLDENS = Path(__file__).parent / "goldens"

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
