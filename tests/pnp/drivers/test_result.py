"""What a `Result` says of itself."""

from __future__ import annotations

import math
import types
from typing import Any

import pytest
import torch
from arrays import F64, rand
from toys import SHAPE

from operators import Mask
from pnp import Poisson, Result, Stop, solve
from pnp.drivers.verdict import MIN_MEASUREMENTS, judge_misfit

Y = 1 + 0.1 * rand(1, 1, *SHAPE)


def result(**changes: Any) -> Result:
    fields = {"x": None, "n_iter": 3, "stop": Stop.MAX_ITER, "history": {}, "noise_std": 0.5, "noise_source": "given"}
    return Result(**fields | {"misfit": 1.0} | changes)  # type: ignore[arg-type]


def test_the_verdict_claims_no_more_than_the_misfit_shows() -> None:
    assert "explains y" in result().verdict
    assert result(misfit=math.nan).verdict == "misfit unknown"
    for misfit in (50.0, 0.01, math.inf):
        assert "expected" in result(misfit=misfit).verdict
    assert result(misfit=50.0, warnings=("it is wrong",)).verdict == "misfit 50: it is wrong"
    assert "2 measurements rejected" in result(misfit=math.nan, rejected=torch.eye(2, dtype=torch.bool)).verdict


def test_a_misfit_alone_names_the_factor() -> None:
    for misfit, factor in ((16.0, "factor 4"), (0.04, "factor 5")):
        (said,) = judge_misfit(misfit, 1000)
        assert factor in said and judge_misfit(misfit, MIN_MEASUREMENTS - 1) == []
    assert judge_misfit(math.nan, 1000) == judge_misfit(1.0, 1000) == []
    assert "counts" in judge_misfit(16.0, 1000, is_gaussian=False)[0]


def physics(sigma: float) -> Any:
    """An operator with a noise model of deepinv's name."""
    noise = type("GaussianNoise", (), {"__module__": "deepinv.physics.noise", "sigma": sigma})
    return types.SimpleNamespace(A=lambda x: x, A_adjoint=lambda y: y, noise_model=noise())


@pytest.mark.parametrize(
    ("operator", "options", "source"),
    [
        (physics(0.1), {}, "from the operator's noise_model"),
        (physics(0.1), {"noise_std": 0.1}, "given"),
        (Mask(torch.ones(SHAPE, dtype=F64)), {}, "estimated from y"),
        (Mask(torch.ones(SHAPE, dtype=F64)), {"data_term": Poisson()}, None),
    ],
)
def test_where_the_noise_level_is_from(operator: Any, options: dict[str, Any], source: str | None) -> None:
    found = solve(operator, Y, lambda x, sigma: x, max_iter=2, **options)
    assert found.noise_source == source and found.noise_estimated is (source == "estimated from y")
    assert (
        "noise" not in str(found).splitlines()[0]
        if source is None
        else f"0.1 {source}" in str(found) or (source == "estimated from y" and source in str(found))
    )
