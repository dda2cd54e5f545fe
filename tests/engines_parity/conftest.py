"""The peer that is installed, built once for all tests of this folder."""

import pytest
from trl_oracle import make_oracle


@pytest.fixture(scope="session")
def oracle(tmp_path_factory):
    """Return a function from GRPOConfig arguments to a trainer on a tiny random model."""
    trl = pytest.importorskip("trl", reason="the parity oracle is not installed: pip install 'forkpoint[test]'")
    if trl.__version__ != "1.16.0":
        pytest.skip(f"the oracle is TRL 1.16.0, not {trl.__version__}")
    return make_oracle(tmp_path_factory.mktemp("trl"))
