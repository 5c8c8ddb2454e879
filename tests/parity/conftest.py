import pytest

from tests.parity.pairs import CONFIGS, Pair, pair_of


@pytest.fixture(params=list(CONFIGS))
def pair(request: pytest.FixtureRequest) -> Pair:
    return pair_of(request.param)
