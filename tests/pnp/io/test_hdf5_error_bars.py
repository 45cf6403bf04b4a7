"""Error bars in a file of a result: what is written comes back, and what cannot be right is refused."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from pnp.io import SavedErrorBars, read_result, write_result

X = np.arange(12.0).reshape(1, 1, 3, 4)
BARS = SavedErrorBars(
    std=X + 1,
    low=X - 1.645,
    high=X + 1.645,
    level=0.9,
    attributes={"n": 24, "moves": "shift, flip", "factor": (1.0, 1.5), "hold_out": "views"},
    regions={name: np.array([k, k + 1.5]) for k, name in enumerate(("image", "channel", "label", "mean", "std"))},
)


@pytest.fixture
def path(tmp_path):
    write_result(tmp_path / "x.h5", X, error_bars=BARS)
    return tmp_path / "x.h5"


def test_they_come_back(path, tmp_path):
    found = read_result(path).error_bars
    for name in ("std", "low", "high"):
        np.testing.assert_array_equal(getattr(found, name), getattr(BARS, name))
    assert found.level == 0.9 and found.attributes == BARS.attributes
    assert {name: column.tolist() for name, column in found.regions.items()} == {
        name: column.tolist() for name, column in BARS.regions.items()
    }
    write_result(tmp_path / "none.h5", X)
    assert read_result(tmp_path / "none.h5").error_bars is None


def shortened(file):
    del file["error_bars/std"]
    file["error_bars/std"] = X[..., :2]


def without_a_row(file):
    del file["error_bars/regions/mean"]
    file["error_bars/regions/mean"] = [1.0]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.pop("error_bars/low"), "low"),
        (shortened, "shape"),
        (without_a_row, "regions"),
        (lambda file: file["error_bars"].attrs.pop("level"), "level"),
        (lambda file: file["error_bars"].attrs.__setitem__("level", "high"), "level"),
    ],
)
def test_what_cannot_be_right_is_refused(path, damage, said):
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(ValueError, match=said) as caught:
        read_result(path)
    assert len(str(caught.value)) < 400
