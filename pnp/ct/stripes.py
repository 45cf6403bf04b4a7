"""Stripe filters for sinograms, which make rings in images: those of algotom, in this package's axes and types.

A detector bin whose response is wrong by a factor adds the same to its line integrals in all views. The filters compare
each bin with its neighbours, view by view after sorting or smoothing along the angle, and know nothing of noise or of
the operator. Methods, with algotom's function and source:

    "sorting"        remove_stripe_based_sorting: N. T. Vo, R. C. Atwood and M. Drakopoulos, Opt. Express 26 (2018)
                     28396, algorithm 3: bins sorted by value, a median over neighbours
    "filtering"      remove_stripe_based_filtering, algorithm 2: the part that is smooth along the angle is sorted and
                     filtered
    "fitting"        remove_stripe_based_fitting, algorithm 1: polynomials along the angle, smoothed over bins; for
                     objects whose sinogram is smooth
    "large"          remove_large_stripe, algorithm 5: wide stripes
    "dead"           remove_dead_stripe, algorithm 6: unresponsive and fluctuating bins, interpolated
    "interpolation"  remove_stripe_based_interpolation, algorithms 4 to 6: stripes are found and interpolated
    "all"            remove_all_stripe, algorithms 6, 5, 4 and 3: when in doubt
    "wavelet-fft"    remove_stripe_based_wavelet_fft: B. Muench, P. Trtik, F. Marone and M. Stampanoni, Opt. Express 17
                     (2009) 8567
    "fft"            remove_stripe_based_fft: C. Raven, Rev. Sci. Instrum. 69 (1998) 2978
    "normalization"  remove_stripe_based_normalization: the mean over views, smoothed over bins (M. Rivers)

Axes: (..., n_angles, n_detectors), rows one by one. Views must be in the order of their angles.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import short
from .arrays import as_floats

_FUNCTIONS = {
    "sorting": "remove_stripe_based_sorting",
    "filtering": "remove_stripe_based_filtering",
    "fitting": "remove_stripe_based_fitting",
    "large": "remove_large_stripe",
    "dead": "remove_dead_stripe",
    "interpolation": "remove_stripe_based_interpolation",
    "all": "remove_all_stripe",
    "wavelet-fft": "remove_stripe_based_wavelet_fft",
    "fft": "remove_stripe_based_fft",
    "normalization": "remove_stripe_based_normalization",
}
STRIPE_METHODS = tuple(_FUNCTIONS)
"""Names of `remove_stripes`'s methods."""
_MIN_SIZE = 16
"""Smallest number of views and of bins that the filters take."""


def remove_stripes(y: Any, method: str = "all", **options: Any) -> Any:
    """Return line integrals without stripes, in the shape and type of y.

    Window sizes are algotom's own and suit detectors of a thousand bins and more; smaller ones take smaller windows
    (128 bins: size=5 for "sorting" and "filtering", 9 for "large" and "dead", la_size=9 and sm_size=5 for "all"),
    where the usual ones remove part of the object.

    For FBP, and before `find_centre` and `fit_beam_hardening`. `solve` loses less with stripes in its noise model,
    `LeastSquares(bin_std=...)`: a filter also removes what resembles a stripe, such as arcs about the axis. noise_std
    stays that of the counts; where a bin was interpolated ("dead", "all") set it to infinity.

    Args:
        y: line integrals (..., n_angles, n_detectors), numpy or torch, 16 views and bins or more.
        method: one of those in the module's list.
        options: of algotom's function, e.g. size=31 for "sorting", snr=2.0 for "large", level=4 for "wavelet-fft".

    Raises:
        ImportError: algotom is not installed.
        ValueError, TypeError: method or an option is not known, y does not fit, or the filter fails.

    >>> remove_stripes(np.ones((64, 64), "float32"), "sorting").shape  # doctest: +SKIP
    (64, 64)
    """
    caller = "remove_stripes"
    if method not in _FUNCTIONS:
        raise ValueError(f"{caller}: method must be one of {', '.join(_FUNCTIONS)}, got {short(repr(method), 60)}")
    t, is_numpy = as_floats(caller, "y", y, ndim=2)
    if min(t.shape[-2:]) < _MIN_SIZE:
        raise ValueError(
            f"{caller}: y must be (..., n_angles, n_detectors) of {_MIN_SIZE} or more each, got {tuple(t.shape)}"
        )
    function = _function(method)
    known = [name for name in inspect.signature(function).parameters if name not in ("sinogram", "options")]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"{caller}: options of {method!r} are {', '.join(known)}, got {short(', '.join(unknown), 60)}")
    rows = t.detach().cpu().numpy().reshape(-1, *t.shape[-2:])
    filtered = np.stack([_filtered(function, method, row, options) for row in rows]).reshape(tuple(t.shape))
    if is_numpy:
        return filtered.astype(rows.dtype)
    return t.new_tensor(filtered)


def _filtered(function: Any, method: str, row: npt.NDArray[Any], options: dict[str, Any]) -> npt.NDArray[Any]:
    # "large" divides by a bin's level and "fft" takes magnitudes: all are lifted above 0, where air is noise about 0.
    level = 1 - float(row.min())
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused below
            out: npt.NDArray[Any] = np.asarray(function(row.astype(np.float64) + level, **options)) - level
    except (ValueError, TypeError, IndexError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise ValueError(
            f"remove_stripes: algotom's {method!r} fails for y of {row.shape[0]} views and {row.shape[1]} bins "
            f"({short(error, 120)}); use other options or another method"
        ) from error
    if not np.isfinite(out).all():
        n = int((~np.isfinite(out)).sum())
        raise ValueError(
            f"remove_stripes: algotom's {method!r} gives NaN or infinity in {n} values; use another method"
        )
    return out


def _function(method: str) -> Any:
    try:
        removal = importlib.import_module("algotom.prep.removal")
    except ImportError as error:
        raise ImportError(
            'remove_stripes needs algotom, which is not installed; install it by: pip install "pnp-local[ct]"'
        ) from error
    return getattr(removal, _FUNCTIONS[method])
