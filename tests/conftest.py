"""What many tests share: a tiny phantom tree and tiny stores made from it."""

import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from evenhand.cases.store import CaseStore
from evenhand.config import PhantomConfig
from evenhand.ingest.bids import ingest_bids
from evenhand.ingest.phantom import make_phantoms

# A background job of a shell ignores Ctrl-C, and so does all that it starts; tests need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("evenhand", deadline=None)  # machines that share cores stall at times
settings.load_profile("evenhand")

TINY = PhantomConfig(patients={"north": 3, "south": 2}, shape=(32, 32, 6))
"""Two hospitals whose volumes are read and written in milliseconds."""


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test charges a ledger, or reads a policy, in the home of whoever runs it."""
    monkeypatch.setenv("EVENHAND_HOME", str(tmp_path_factory.getbasetemp() / "no-home"))
    monkeypatch.delenv("EVENHAND_SITE_POLICY", raising=False)


@pytest.fixture(autouse=True)
def _own_main() -> Iterator[None]:
    """Streamlit's AppTest leaves its script as `__main__`; a process spawned later would run it."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(scope="session")
def tiny_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom BIDS tree of hospitals north (3 patients) and south (2). Read only."""
    return make_phantoms(TINY, tmp_path_factory.mktemp("tiny") / "tree", seed=7)


@pytest.fixture
def bids_tree(tiny_tree: Path, tmp_path: Path) -> Path:
    """A copy of the tiny tree that a test may break."""
    return Path(shutil.copytree(tiny_tree, tmp_path / "tree"))


@pytest.fixture(scope="session")
def tiny_stores(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, CaseStore]:
    """The stores of the tiny tree's hospitals, by name. Read only."""
    report = ingest_bids(tiny_tree, tmp_path_factory.mktemp("stores"))
    return {own.hospital: CaseStore(own.store) for own in report.hospitals}


@pytest.fixture(scope="session")
def tiny_store(tiny_stores: dict[str, CaseStore]) -> CaseStore:
    """The store of hospital north: three cases. Read only."""
    return tiny_stores["north"]
