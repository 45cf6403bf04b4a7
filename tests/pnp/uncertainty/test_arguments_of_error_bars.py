"""Arguments of error bars that cannot be right, each named in its message."""

from __future__ import annotations

import pytest
import torch

from denoisers import TV
from operators import Identity
from pnp import solve
from pnp.uncertainty import bootstrap, calibrate

Y = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
A = Identity((16, 16))


def test_a_result_of_another_noise_level_is_refused() -> None:
    result = solve(A, Y, TV(), noise_std=0.1, max_iter=2)
    with pytest.raises(ValueError, match="noise_std"):
        bootstrap(A, Y, TV(), n=2, noise_std=0.5, hold_out=None, result=result, max_iter=2)
    with pytest.raises(ValueError, match="noise_std"):
        bootstrap(A, Y, TV(), n=2, noise_std=torch.full_like(Y, 0.5), hold_out=None, result=result, max_iter=2)
    same = bootstrap(A, Y, TV(), n=2, noise_std=torch.full_like(Y, 0.1), hold_out=None, result=result, max_iter=2)
    assert same.result is result


def test_held_out_is_of_solve() -> None:
    with pytest.raises(TypeError, match="hold_out"):
        bootstrap(A, Y, TV(), n=2, noise_std=0.1, held_out="views")

    bars = bootstrap(A, Y, TV(), n=2, noise_std=0.1, hold_out=None, max_iter=2, strength="auto", held_out="blocks")
    assert bars.result is not None and "held out" in bars.result.strength_source


def test_each_image_of_a_batch_has_its_noise_level() -> None:
    y, std = torch.cat([Y, Y.flip(-1)]), torch.tensor([0.05, 0.2])
    result = solve(A, y, TV(), noise_std=std, max_iter=2)
    options = {"n": 2, "hold_out": None, "result": result, "max_iter": 2}
    assert bootstrap(A, y, TV(), noise_std=std, **options).result is result
    with pytest.raises(ValueError, match="noise_std"):  # of the second image alone
        bootstrap(A, y, TV(), noise_std=torch.tensor([0.05, 0.1]), **options)


def test_calibrate_takes_pairs() -> None:
    bars = bootstrap(A, Y, TV(), n=2, noise_std=0.1, hold_out=None, max_iter=2)
    for wrong in ((bars, Y), [(Y, bars)], [bars]):
        with pytest.raises(TypeError, match="images"):
            calibrate(wrong)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_labels_are_no_mask(dtype: torch.dtype) -> None:
    bars = bootstrap(A, Y, TV(), n=2, noise_std=0.1, hold_out=None, max_iter=2)
    labels = (torch.arange(256).reshape(16, 16) % 3).to(dtype)
    for use in (bars.region, lambda mask: bars.covered(Y, 0.9, mask)):
        with pytest.raises(ValueError, match=r"mask .* labels == 2"):
            use(labels)
    assert bars.region((labels == 2).to(dtype)) == bars.region(labels == 2) == bars.region((labels == 2).double())
