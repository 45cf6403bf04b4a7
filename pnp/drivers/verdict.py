"""Does x explain y? Sentences on what looks wrong about a reconstruction, each with its likely cause and a remedy.

What is known without a truth: the misfit, about 1 where A and noise_std are right; the residuals, which are then white;
the noise that second differences of y show, an upper bound of the true one where y is sampled on a grid; and the last
residuals of the iteration. The limits leave room for model errors and for the images that x can follow into the noise:
`benchmarks/verdict.py` counts how often the right noise level is warned of, and a wrong one not (docs/results.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..algorithms.noise_estimate import estimate_noise_std, least_noise_std
from .denoiser_verdict import UPPER_QUARTILE, denoiser_faults, in_training, roughness
from .outliers import FAR_OUT, find_impulses, find_outliers
from .parts import Joined
from .physics_noise import gain_of, is_sampled, owners_of
from .problem import Problem
from .result import ESTIMATED, HIGH_MISFIT, LOW_MISFIT, Stop
from .sinogram_verdict import drift_of_views, errors_of_bins, large_errors
from .standard_errors import correlation

HIGH_MISFIT_OF_PIXELS = 5.0
"""HIGH_MISFIT where each measurement has its own pixel, which a denoiser smooths."""
ESTIMATE_TOO_LOW, ESTIMATE_TOO_HIGH = 0.6, 1.8
"""Ratios of estimated to given noise that contradict the given one; the estimate holds texture, too."""
ESTIMATE_LOW, FOLLOWED_MISFIT = 0.8, 0.5
"""A ratio that does so where the misfit is below the second number as well."""
SMOOTH, SMOOTH_MISFIT = 0.6, 0.4
"""x that is smoother than noise does not follow it; then its misfit is not below the second number."""
LEAST_TOO_HIGH = 1.55
"""The same for the noise that y shows at least, which holds no texture."""
CORRELATED = 0.35
"""Correlation of neighbouring residuals that white noise does not have."""
FOLLOWS_NOISE = -0.3
"""Correlation of neighbouring residuals below which x follows all but the highest frequencies of the noise."""
SMOOTHING = 0.9
"""Spectral flatness below which A blurs or projects, so that y has less texture than x."""
NOT_CONVERGED = 0.08
"""Relative residual of the last iteration from which on the image still moves: 12 levels are 1.7 times as far apart as
20 are, and x moves with them."""
MIN_IMPULSES, IMPULSES = 10, 0.001
"""So many measurements, and such a fraction, stand out as impulses; thin lines of clipped pictures are fewer."""
FEW_ITERATIONS = 8
"""With fewer iterations x may leave y unexplained that more of them would explain."""
MIN_MEASUREMENTS = 100
"""Fewer measurements do not determine a misfit."""
UNEVEN = 8.0
"""Ratio of the misfits of two images of a batch that have different noise."""
SPREAD = 0.25
"""Typical error of FBP from continued views over what the continuation changes, measured on 20 phantoms of which the
detector saw three eighths to three quarters (docs/bring_your_data_ct.md)."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a reconstruction.

    Attributes:
        misfit: per measurement that counts.
        n: measurements that count.
        estimated: noise that second differences of y show at most, over the noise that is used; NaN where they show
            nothing.
        correlations: of neighbouring residuals, along the last axes of y.
        contrast: largest minus smallest y, in noise levels.
        flatness: spectral flatness of A*WA, the smallest of the batch.
        is_gaussian: whether the noise level was given or estimated, and not that of counts.
        is_sinogram: whether the last two axes of y are views and detector bins.
        at_least: noise that they show at least, over the noise that is used; NaN where they are too few.
        roughness: of x, where 1 is that of the noise in the pixels that are measured best; NaN if unknown.
    """

    misfit: float
    n: int
    estimated: float
    correlations: tuple[float, ...]
    contrast: float
    flatness: float
    is_gaussian: bool
    is_sinogram: bool = False
    at_least: float = math.nan
    roughness: float = math.nan


def judge(problem: Problem, stop: Stop) -> tuple[str, ...]:
    """Return what looks wrong about the last image of a problem, most likely cause first; empty where nothing does."""
    said = _concerns(problem)
    faults = denoiser_faults(
        problem.first_answers, problem.state, problem.finished, problem.algorithm, problem.settings["bounds"]
    )
    if stop is Stop.DIVERGED:
        return (*said, *faults, _diverged(problem))
    if not hasattr(problem.h, "residuals"):  # a data term of another library
        return (*said, *faults)
    residuals, counted = problem.fit()
    counted = counted.expand(residuals.shape)
    if problem.rejected is not None:
        if problem.robust is None and bool(problem.rejected.any()):
            said.append(_left_out(problem, counted))
        counted = counted & ~problem.rejected
    found = gather(problem, residuals, counted)
    if found.n < MIN_MEASUREMENTS:
        return (*said, *faults)
    if faults:  # misfit and residuals are the denoiser's then
        return (*said, *about_noise(replace(found, misfit=1.0, correlations=())), *faults)
    about_y = about_noise(found)
    if (uneven := _uneven_batch(problem, residuals, counted)) is not None:
        about_y = [uneven]
    elif not about_noise(replace(found, misfit=1.0, correlations=())):  # which is about y alone
        special = (about_y and _few_iterations(problem, stop)) or large_errors(problem) or _truncation(problem)
        special = special or (drift_of_views(problem, residuals, counted) if found.is_sinogram else None)
        special = special or _outliers(problem, residuals, counted) or _impulses(problem, counted)
        special = special or (errors_of_bins(problem, counted) if found.is_sinogram and not about_y else None)
        about_y = [special] if special else about_y
    said += about_y
    if stop is Stop.MAX_ITER and not said and problem.state is not None and not problem.tuned.tried:
        said = not_converged(max(problem.residuals))
    return tuple(said)


def not_converged(residual: float) -> list[str]:
    """Return a sentence where the last iteration had a large relative residual."""
    if not residual > NOT_CONVERGED:
        return []
    return [
        f"not converged: the last iteration still moved x by {residual:.2g} of its norm; raise max_iter, or let the "
        "default schedule take 12 iterations or more"
    ]


def about_noise(found: Evidence) -> list[str]:
    """Return what the evidence says about the noise level or the model, at most one sentence.

    >>> about_noise(Evidence(1.02, 4096, 1.05, (0.01, -0.03), 30.0, 0.2, True))
    []
    """
    level = f"misfit {found.misfit:.2g} where about 1 is expected"
    if found.is_gaussian and found.contrast < 1:
        return [
            f"noise_std is {1 / max(found.contrast, 1e-12):.2g} times the whole range of y, so that y says nothing: is "
            "it meant for data in 0-255? Divide it by 255 for data in [0, 1]; it is in units of y"
        ]
    whiteness = max(found.correlations, default=0.0)
    low = ESTIMATE_LOW if found.misfit < FOLLOWED_MISFIT else ESTIMATE_TOO_LOW
    if found.estimated < low:
        return [
            f"noise_std is too high by about a factor {1 / found.estimated:.2g}, or the noise is correlated: "
            f"neighbours in y differ by less ({level}); lower noise_std, or set it to None where the noise is white"
        ]
    follows = min(found.correlations, default=0.0) < FOLLOWS_NOISE
    if found.at_least > LEAST_TOO_HIGH:
        factor = max(found.estimated, found.at_least)
        return [
            f"noise_std is too low by about a factor {factor:.2g}: y shows white noise of that size ({level}); raise "
            "noise_std, unless it is the grain of the picture itself"
        ]
    if found.misfit > (HIGH_MISFIT if found.flatness < SMOOTHING else HIGH_MISFIT_OF_PIXELS) or (
        found.estimated > ESTIMATE_TOO_HIGH and found.flatness < SMOOTHING and (found.misfit > 1.3 or follows)
    ):
        blurs = found.estimated > ESTIMATE_TOO_HIGH and found.flatness < SMOOTHING
        factor = found.estimated if blurs else math.sqrt(found.misfit)
        cause = "A has an error (geometry, kernel, gain, mask), or the denoiser removes too much"
        if not found.is_gaussian:
            return [f"{level}: x does not explain the counts; check background, gain and the unit of y, or {cause}"]
        return [f"{level}: noise_std is too low by about a factor {factor:.2g}, or {cause}; raise noise_std, or mend A"]
    too_small = SMOOTH_MISFIT if found.roughness < SMOOTH and not found.estimated > ESTIMATE_LOW else LOW_MISFIT
    if found.misfit < too_small and not found.estimated > ESTIMATE_TOO_HIGH:
        if not found.is_gaussian:
            return [f"{level}: y varies less than counts do; is it scaled? Give Poisson(gain=...) the unit of a count"]
        return [f"{level}: noise_std is too high by about a factor {found.misfit**-0.5:.2g} or more; lower it"]
    if whiteness > CORRELATED and found.flatness < SMOOTHING:
        said = f"neighbouring residuals correlate by {whiteness:.2f} where noise would be white: "
        if not found.is_gaussian:
            cause = "an error of A (geometry, background, bins), or x is too smooth"
            return [f"{said}{cause}; mend A, or lower strength"]
        if found.is_sinogram and found.correlations.index(whiteness) == len(found.correlations) - 2:
            return [
                f"residuals of one bin correlate from view to view by {whiteness:.2f}: the detector's bins have errors "
                "common to all views, which make rings; use data_term=LeastSquares(bin_std='estimate')"
            ]
        return [
            f"{said}the noise is correlated, or A has an error (geometry, kernel); whiten y, or raise noise_std if x "
            "shows the noise's texture"
        ]
    return []


def judge_misfit(misfit: float, n: float, *, flatness: float = 0.0, is_gaussian: bool = True) -> list[str]:
    """Return what the misfit of n measurements says, where nothing else is known; NaN says nothing.

    >>> judge_misfit(0.04, 4096)
    ['misfit 0.04 where about 1 is expected: noise_std is too high by about a factor 5 or more; lower it']
    """
    if n < MIN_MEASUREMENTS:
        return []
    return about_noise(Evidence(misfit, int(n), math.nan, (), math.inf, flatness, is_gaussian))


def gather(problem: Problem, residuals: Tensor, counted: Tensor) -> Evidence:
    """Return the evidence on a problem's image, given its residuals in noise levels and which of them count."""
    y, is_gaussian = problem.h.y, problem.noise_std is not None
    estimated, at_least, contrast, roughness = math.nan, math.nan, math.inf, math.nan
    weights = getattr(problem.h, "weights", None)
    if (errors := problem.common_errors()) is not None:
        y = y - errors
    if is_gaussian and isinstance(y, Tensor) and weights is not None and bool(counted.any()):
        values = torch.real(y)[counted]
        # The root of W first: its mean would be set by one exact measurement.
        roughness = _roughness(problem)
        if problem.noise_source != ESTIMATED:
            contrast = float(values.max() - values.min()) * float(weights.sqrt().expand(y.shape)[counted].mean())
            parts = _sampled_parts(problem, y, weights.expand(y.shape), counted)
            estimated = min((_smallest(estimate_noise_std, *part) for part in parts), default=math.nan)
            at_least = max((_smallest(least_noise_std, *part) for part in parts), default=math.nan)
    return Evidence(
        problem.misfit(),
        int(counted.sum()),
        estimated,
        tuple(correlation(residuals, counted, axis) for axis in _grid_axes(problem, residuals)),
        contrast,
        min(problem.flatness),
        is_gaussian,
        _is_sinogram(problem),
        at_least,
        roughness,
    )


def _sampled_parts(problem: Problem, *tensors: Tensor) -> list[tuple[Any, ...]]:
    """Return the operator of each part of y whose neighbours are neighbours in space, with that part of the tensors."""
    operator = problem.operator
    if not isinstance(operator, Joined):
        return [(operator, *tensors)] if is_sampled(operator) else []
    parts = list(zip(*map(operator.split, tensors), strict=True))
    owners = owners_of(operator.operator, len(parts))
    return [
        (owner, *part) for owner, part in zip(owners, parts, strict=True) if owner is not None and is_sampled(owner)
    ]


def _estimates(
    estimate: Callable[[Tensor, Tensor | None, Tensor], float],
    operator: Any,
    y: Tensor,
    weights: Tensor,
    counted: Tensor,
) -> list[float]:
    """Estimated over given noise of each image; NaN where there is no estimate.

    The second differences of y are divided by the noise that they should have: y / noise_std would not do, where the
    noise of counts is in both.
    """
    gain = gain_of(operator, y)
    y = torch.where(counted, y, 0)
    found = [math.nan] * len(y)
    for b in range(len(y)):
        w = weights[b : b + 1]
        if not bool((w > 0).any()):
            continue
        typical = w[w > 0].median()  # variances of faint data leave the range of float32
        variance = torch.where(w > 0, typical / w, 1)
        with suppress(ValueError):
            level = estimate(y[b : b + 1], None if gain is None else gain[b : b + 1], variance)
            found[b] = level * float(typical.sqrt())
    return found


def _smallest(*arguments: Any) -> float:
    """Smallest estimate of a batch, of those above 0; NaN where there is none. Arguments as `_estimates`."""
    return min((level for level in _estimates(*arguments) if level > 0), default=math.nan)


def _roughness(problem: Problem) -> float:
    """Upper quartile of the second differences of z, over that of the noise of the best measured pixel; NaN if none."""
    z, curvature = problem.z, problem.h.curvature()
    rough = []
    for b in range(len(z)):
        noise = float(curvature if isinstance(curvature, float) else curvature.flatten()[b]) ** -0.5
        size = roughness(z[b])
        if not math.isnan(size):
            rough.append(size / (UPPER_QUARTILE * math.sqrt(6) * noise))
    return max(rough, default=math.nan)


def _concerns(problem: Problem) -> list[str]:
    """Return what the operator and the data term have to say about y."""
    said = in_training(problem.denoiser)
    for owner, arguments in ((problem.operator, (problem.h.y,)), (problem.used, ())):
        concerns = getattr(owner, "concerns", None)
        said += [] if concerns is None else concerns(*arguments)
    return said


def _uneven_batch(problem: Problem, residuals: Tensor, counted: Tensor) -> str | None:
    """Say that the images of a batch have other noise than the one level that they share, where they do."""
    if len(residuals) == 1 or not isinstance(problem.noise_std, float):
        return None
    misfits = [float(r[c].abs().square().mean()) for r, c in zip(residuals, counted, strict=True) if bool(c.any())]
    differ = bool(misfits) and max(misfits) > max(UNEVEN * min(misfits), 0.5 * HIGH_MISFIT)
    weights = getattr(problem.h, "weights", None)
    if not differ and weights is not None and is_sampled(problem.operator):
        measured = problem.operator, problem.h.y, weights.expand(counted.shape), counted
        least, most = (_estimates(estimate, *measured) for estimate in (least_noise_std, estimate_noise_std))
        differ = any(low > 2 * high > 0 for low in least for high in most)  # NaN compares as false
    if not differ:
        return None
    return (
        f"the images of the batch have different noise (misfits from {min(misfits):.2g} to {max(misfits):.2g}, where "
        "about 1 is expected): give noise_std as a list with one number for each image, or None to estimate it"
    )


def _diverged(problem: Problem) -> str:
    if problem.adjoint_checked:
        return (
            "the iterates grew without limit, and the image from before is returned: A and its adjoint are sound, so "
            "the denoiser amplifies; take another, check its value range (Rescaled), or raise strength"
        )
    return (
        "the iterates grew without limit, and the image from before is returned: check A_adjoint with "
        "check_adjoint=True, then the denoiser"
    )


def _few_iterations(problem: Problem, stop: Stop) -> str | None:
    """Say that the iterations were few, where max_iter ended them."""
    if stop is not Stop.MAX_ITER or problem.state is None or problem.state.k >= FEW_ITERATIONS:
        return None
    return (
        f"not converged: misfit {problem.misfit():.2g}, where about 1 is expected, after {problem.state.k} iterations; "
        "raise max_iter to 12 or more"
    )


def _left_out(problem: Problem, counted: Tensor) -> str:
    """Say which measurements were left out without being asked for."""
    assert problem.rejected is not None
    return (
        f"of {int(counted.sum())} measurements {int(problem.rejected.sum())} stood out from all others, and were left "
        "out (result.rejected): outliers, such as cosmic rays or dead pixels, or A has an error there, such as its "
        "boundary; LeastSquares(robust=False) keeps them"
    )


def _outliers(problem: Problem, residuals: Tensor, counted: Tensor) -> str | None:
    """Say that some measurements stand out, or that few carry most of a misfit, where they do."""
    is_gaussian, high = problem.noise_std is not None, problem.misfit() > HIGH_MISFIT
    rejection = problem.rejection
    of_all = rejection is not None and rejection.suspects is None and not problem.n_rejected
    found = problem.outliers() if of_all else find_outliers(residuals, counted)
    outliers = [
        one
        for one in found
        # Where few counts are expected, residuals have a tail of their own.
        if one.believable and ((one.stand_out if is_gaussian else one.largest > FAR_OUT) or (one.share > 0.5 and high))
    ]
    if not outliers:
        return None
    n, largest = sum(int(one.found.sum()) for one in outliers), max(one.largest for one in outliers)
    term = type(problem.settings["data_term"]).__name__
    remedy = f"data_term={term}(robust=True) leaves them out"
    if problem.rejection is not None and problem.rejection.put_back:
        if not high:  # their own residuals are all that speaks against them
            return None
        remedy = "without them the others are explained worse; set noise_std to infinity where y is not to be trusted"
    return (
        f"{n} of {int(counted.sum())} measurements are off by up to {largest:.2g} typical residuals and carry "
        f"{100 * max(one.share for one in outliers):.0f} % of the misfit ({problem.misfit():.2g}): outliers, such as "
        f"cosmic rays or dead pixels ({remedy}), or A has an error there, such as its boundary or centre"
    )


def _impulses(problem: Problem, counted: Tensor) -> str | None:
    """Say that measurements that hold one value exactly stand out from those around them, where they do."""
    found = None if problem.robust else find_impulses(problem.h, counted, min(problem.flatness))
    if found is None or int(found.sum()) < max(MIN_IMPULSES, IMPULSES * int(counted.sum())):
        return None
    return (
        f"{int(found.sum())} of {int(counted.sum())} measurements hold a value that others hold exactly, and stand out "
        "from their neighbours: hot or dead pixels, or salt and pepper, which x follows; use "
        "data_term=LeastSquares(robust=True), or set noise_std to infinity there"
    )


def _is_sinogram(problem: Problem) -> bool:
    """Whether y is (B, C, views, bins): operators of tomography alone say whether the detector sees the whole image."""
    return hasattr(problem.operator, "sees_whole_image") and isinstance(problem.h.y, Tensor) and problem.h.y.ndim == 4


def _truncation(problem: Problem) -> str | None:
    """Say that the detector ends inside the object, where y is not 0 at its ends, and what that does to x."""
    operator: Any = problem.operator
    y = problem.h.y
    # Counts are largest beside the object; their noise_std is None.
    if not _is_sinogram(problem) or problem.noise_std is None or not hasattr(operator, "is_truncated"):
        return None
    weights = getattr(problem.used, "weights", None)
    if weights is not None and not bool((weights > 0).all()):  # the ends of y may have none
        y = torch.where(weights > 0, y, operator.A(problem.z))
    truncated = operator.is_truncated(y)
    if not any(truncated):
        return None
    y, shape, misfit = y[torch.tensor(truncated, device=y.device)], problem.z.shape[-2:], problem.misfit()
    level = f"misfit {misfit:.2g}, and " if misfit > HIGH_MISFIT else ""
    said = f"{level}y is not 0 at the ends of the detector: the object reaches beyond it"
    if misfit > HIGH_MISFIT and (n := operator.image_size(y)) > max(shape):
        return f"{said} and beyond the image; give the operator a shape of about {(n, n)}, which holds it, and crop x"
    return (
        f"{said}, and the values of x are uncertain by a smooth background, of about {_spread(operator, y):.0%} in the "
        "middle; compare contrasts only, or scan the whole object"
    )


def _spread(operator: Any, y: Tensor) -> float:
    """Return the relative uncertainty in the middle of the image that is due to truncated views, at least 1 %."""
    whole, cut = operator.fbp(y), operator.fbp(y, extend=False)
    height, width = whole.shape[-2:]
    middle = (..., slice(3 * height // 8, 5 * height // 8 + 1), slice(3 * width // 8, 5 * width // 8 + 1))
    change, mean = (cut - whole)[middle].abs().mean((1, 2, 3)), whole[middle].mean((1, 2, 3)).abs()
    return max(0.01, SPREAD * float((change / mean.clamp(min=1e-30)).max()))


def _grid_axes(problem: Problem, r: Tensor) -> tuple[int, ...]:
    """Axes along which neighbouring measurements are neighbours in space."""
    return tuple(range(2, r.ndim)) if r.ndim > 2 and is_sampled(problem.operator) else ()
