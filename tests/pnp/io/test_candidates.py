"""What strength="auto" tried, in files of results."""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest

from pnp.io import read_result, write_result


@pytest.mark.parametrize("batch", [False, True])
def test_a_result_keeps_what_was_tried(tmp_path, batch):
    first = ((1.0, 8, 1.09, 0.02), (1.0, 24, 1.14, 0.03))
    tried = (first, ((0.5, 12, 2.0, math.inf),)) if batch else first
    write_result(tmp_path / "x.h5", np.ones((1 + batch, 1, 4, 4)), candidates=tried)
    assert read_result(tmp_path / "x.h5").candidates == (tried if batch else (first,))
    with h5py.File(tmp_path / "x.h5") as f:
        assert f["candidates/n_iter"][:2].tolist() == [8, 24] and f["candidates/strength"].shape == (2 + batch,)
    write_result(tmp_path / "none.h5", np.ones((1, 1, 4, 4)))
    assert read_result(tmp_path / "none.h5").candidates == ()


def test_images_for_which_nothing_was_tried_keep_their_place(tmp_path):
    tried = ((), ((1.0, 8, 1.09, 0.02),), (), ((0.5, 12, 2.0, 0.1),))
    write_result(tmp_path / "x.h5", np.ones((4, 1, 4, 4)), candidates=tried)
    assert read_result(tmp_path / "x.h5").candidates == tried
    write_result(tmp_path / "none.h5", np.ones((2, 1, 4, 4)), candidates=((), ()))
    assert read_result(tmp_path / "none.h5").candidates == ()


@pytest.mark.parametrize(
    ("column", "values"),
    [("error", None), ("error", [1.0]), ("image", [0, 1.5]), ("image", [-1, 0]), ("image", [0, 1e18]),
     ("image", [0, math.nan]), ("image", [[0, 1]]), ("n_iter", [8, math.nan]), ("n_iter", [8, 1e300])],
)  # fmt: skip
def test_broken_columns_of_what_was_tried_are_named(tmp_path, column, values):
    write_result(tmp_path / "x.h5", np.ones((1, 1, 4, 4)), candidates=((1.0, 8, 1.09, 0.02), (1.0, 24, 1.14, 0.03)))
    with h5py.File(tmp_path / "x.h5", "r+") as f:
        del f[f"candidates/{column}"]
        if values is not None:
            f[f"candidates/{column}"] = values
    with pytest.raises(ValueError, match="candidates"):
        read_result(tmp_path / "x.h5")
