import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
GOLDENS = Path(__file__).parent / "goldens"

needs_sharding = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="this torch (2.6) cannot spread a model over CPU processes"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def run_page(page: str, **names: Any) -> dict[str, Any]:
    """Run the Python of a page in docs as it stands, and return its names. `names` are what the page takes as given."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL)
    exec("".join(code), names)
    return names


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes: writing fails as it does on a disk that is full."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
