"""Error bars of OSEM and MLEM: counts of copies of the image are drawn and reconstructed with the same settings.

    y_i ~ Poisson(A x + r),    z_i = OSEM(y_i),    E_i = (z_i - mean z) (n/(n - 1))^(1/2),    i = 1 ... n

the parametric bootstrap (D. R. Haynor and S. D. Woods, Resampling estimates of precision in emission tomography, IEEE
Trans. Med. Imaging 8 (1989) 337). It sees the noise of the counts, and how it grows with iterations: what many scans
would scatter by. Errors that they would have in common are not in it: of attenuation, scatter and calibration, and of
the resolution, which small objects lack in x (`pnp.spect.fit_recovery`) and twice in z_i, therefore taken about their
mean.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..algorithms.poisson import as_background
from ..algorithms.protocols import Operator
from ..checks import as_tensor, check_number
from ..drivers.arguments import as_measurements, as_operator
from ..drivers.em import osem
from ..drivers.progress import progress_bar
from ..drivers.result import Result, Stop
from ..drivers.result_warning import ignore_result_warnings
from .record import Bootstrap
from .runs import MIN_COPIES


@torch.no_grad()
def bootstrap_osem(
    operator: Operator,
    y: Any,
    *,
    n_subsets: int,
    background: Any = 0.0,
    max_iter: int = 16,
    n: int = 24,
    result: Result | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Bootstrap:
    """Return an OSEM image with error bars from its counts: n + 1 calls of `osem`.

    Args:
        operator, y, n_subsets, background, max_iter: as of `osem`; one subset is MLEM.
        n: copies, at least 2. The standard deviation of a region scatters by a fraction (2 n)^(-1/2), 14 % for 24.
        result: the `Result` of `osem` for the same arguments, if it is there; None: it is computed.
        seed: of the counts; copy i depends on the seed and i alone.
        progress: show a bar on stderr.

    Returns:
        See `Bootstrap`; its factor is 1, as nothing is held out. Ctrl-C returns the copies so far.

    Raises:
        ValueError, TypeError: an argument does not fit.
        KeyboardInterrupt: Ctrl-C came before two copies were there.

    >>> from types import SimpleNamespace
    >>> A = SimpleNamespace(A=lambda x: x, A_adjoint=lambda y: y)
    >>> bars = bootstrap_osem(A, torch.full((1, 1, 1, 4000), 100.0), n_subsets=1, max_iter=1, n=10)
    >>> round(float(bars.std.mean()))
    10
    """
    n = check_number("n", n, above=MIN_COPIES, or_equal=True, integer=True, caller="bootstrap_osem")
    seed = check_number("seed", seed, above=0, or_equal=True, integer=True, caller="bootstrap_osem")
    operator = as_operator(operator, "bootstrap_osem")
    y, is_numpy = as_measurements(y, caller="bootstrap_osem")
    options: dict[str, Any] = {"n_subsets": n_subsets, "background": background, "max_iter": max_iter}
    if result is None:
        result = osem(operator, y, **options, progress=progress)
        if result.stop is Stop.INTERRUPTED:
            raise KeyboardInterrupt("bootstrap_osem: Ctrl-C came in the first reconstruction; nothing is kept")
    x = as_tensor("result.x", result.x, y.device, caller="bootstrap_osem")
    expected = operator.A(x).clamp(min=0) + as_background("bootstrap_osem", background, y)
    if expected.shape != y.shape:
        raise ValueError(f"bootstrap_osem: result must be of these measurements, with A x {tuple(y.shape)}")
    bar: Any = progress_bar("bootstrap", n) if progress else None
    copies: list[Tensor] = []
    with warnings.catch_warnings():
        ignore_result_warnings()
        for i in range(n):
            (state,) = np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(state) % 2**63)
            counts = torch.poisson(expected.cpu(), generator=generator).to(y)
            copy = osem(operator, counts, **options, check_adjoint=False)
            if copy.stop is Stop.INTERRUPTED:
                break
            copies.append(copy.x)
            if bar is not None:
                bar.update(1)
    if bar is not None:
        bar.close()
    m = len(copies)
    if m < MIN_COPIES:
        raise KeyboardInterrupt(f"bootstrap_osem: Ctrl-C came after {m} copies, error bars need {MIN_COPIES}")
    z = torch.stack(copies)
    samples = (z - z.mean(0)) * math.sqrt(m / (m - 1))

    def as_given(value: Tensor) -> Any:
        return value.cpu().numpy() if is_numpy else value

    return Bootstrap(
        x=as_given(x),
        samples=as_given(samples),
        factor=1.0,
        factor_std=math.nan,
        hold_out=None,
        moves=(),
        window=1,
        result=result,
        interrupted=m < n,
        n_asked=n,
    )
