import numpy as np
import pytest

from headjax.errors import UserError
from headjax.train import feed
from headjax.train.mesh import make_mesh


def test_one_process_holds_every_row():
    np.testing.assert_array_equal(feed.local_rows(make_mesh(), 6), np.arange(6))


def test_a_batch_reaches_the_devices_as_it_is():
    batch = {"x": np.arange(12, dtype=np.float32).reshape(6, 2), "n": np.arange(6)}
    placed = feed.put_batch(batch, make_mesh(), size=6)
    np.testing.assert_array_equal(placed["x"], batch["x"])
    assert feed.to_host(placed)["n"].tolist() == list(range(6))


@pytest.mark.parametrize("array", [np.zeros((5, 2), np.float32), np.float32(1)])
def test_an_array_with_other_rows_than_announced_is_named(array):
    with pytest.raises(UserError, match="a batch of 6 was announced.*6 rows"):
        feed.put_batch({"x": array}, make_mesh(), size=6)
