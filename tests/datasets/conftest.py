"""Small data sets of octahedra, shared by the tests of this folder."""

import pytest

from headjax.data import HeadViewsConfig, prepare, sources
from tests.datasets.stand_in import StandInSource

SMALL = HeadViewsConfig(
    train_identities=5,
    val_identities=2,
    train_views=6,
    val_views=4,
    resolution=16,
    supersample=1,
    uv_size=8,
)


@pytest.fixture
def stand_in(monkeypatch):
    """Octahedra for heads, in this process."""
    source = StandInSource()
    monkeypatch.setattr(sources, "_source", lambda kind, folder: source)
    return source


@pytest.fixture(scope="session")
def small_set(tmp_path_factory):
    """A prepared data set of `SMALL`."""
    folder = tmp_path_factory.mktemp("sets") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_source", lambda kind, folder: StandInSource())
        prepare(SMALL, folder, workers=1)
    return folder
