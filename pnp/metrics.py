"""Figures of merit of a reconstruction x against a reference, as Python floats.

psnr = 10 log10(data_range^2 / mean (x - r)^2),  nrmse = ||x - r|| / ||r||,  pearson_r = <x', r'> / (||x'||
||r'||)

with x' = x - mean x. Arrays and tensors of any equal shape are accepted, for psnr and nrmse complex ones too, whose
squares are |x - r|^2; computed in float64. The structural
similarity is that of Wang, Bovik, Sheikh and Simoncelli (2004).
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

Image: TypeAlias = "npt.ArrayLike | Tensor"
_SSIM_WINDOW = 11  # pixels: a Gaussian window of 1.5 pixels cut at 3.5 standard deviations


def psnr(x: Image, reference: Image, *, data_range: float) -> float:
    """Return the peak signal-to-noise ratio in dB; infinity where x equals the reference.

    Args:
        x: the image to judge.
        reference: the true image, same shape.
        data_range: the peak, e.g. 1.0 for images in [0, 1]. It has no default, since the same image gives
            figures 6 dB apart under different conventions.

    >>> psnr([0.0, 1.0], [0.1, 0.9], data_range=1.0)  # doctest: +ELLIPSIS
    20.0...
    """
    a, b = _pair("psnr", x, reference, complex_too=True)
    _check_range("psnr", data_range)
    difference = np.abs(a - b) if np.iscomplexobj(a) or np.iscomplexobj(b) else a - b
    error = float(np.mean(difference**2))
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def ssim(x: Image, reference: Image, *, data_range: float) -> float:
    """Return the structural similarity, at most 1, averaged over the images and channels of (..., H, W).

    Args:
        x: the image to judge, at least 11 x 11 pixels.
        reference: the true image, same shape.
        data_range: the peak, e.g. 1.0 for images in [0, 1].
    """
    from skimage.metrics import structural_similarity

    a, b = _pair("ssim", x, reference)
    _check_range("ssim", data_range)
    if a.ndim < 2 or min(a.shape[-2:]) < _SSIM_WINDOW:
        raise ValueError(f"ssim: x must be (..., H, W), H and W at least {_SSIM_WINDOW} pixels, got {a.shape}")
    planes = zip(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *a.shape[-2:]), strict=True)
    wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(np.mean([structural_similarity(p, q, data_range=data_range, **wang) for p, q in planes]))


def nrmse(x: Image, reference: Image, *, mask: Image | None = None, centred: bool = False) -> float:
    """Return the root mean square error relative to that of an image of zeros.

    Args:
        x: the image to judge.
        reference: the true image, same shape; not zero everywhere.
        mask: true where pixels count, broadcasts against x; None: all of them.
        centred: subtract the mean of each image first, where the mean is not measured (mass maps).
    """
    a, b = _masked("nrmse", x, reference, mask, complex_too=True)
    if centred:
        a, b = a - a.mean(), b - b.mean()
    norm = float(np.linalg.norm(b))
    if norm == 0:
        raise ValueError("nrmse: reference must not be zero (or constant, where centred) over the pixels that count")
    return float(np.linalg.norm(a - b)) / norm


def pearson_r(x: Image, reference: Image, *, mask: Image | None = None) -> float:
    """Return the correlation coefficient, in [-1, 1], over the pixels where the mask is true.

    Args:
        x: the image to judge, not constant.
        reference: the true image, same shape, not constant.
        mask: true where pixels count, broadcasts against x; None: all of them.
    """
    a, b = _masked("pearson_r", x, reference, mask)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norm == 0:
        raise ValueError("pearson_r: x and reference must not be constant over the pixels that count")
    return float(a @ b) / norm


def matthews(x: Image, reference: Image) -> float:
    """Return Matthews' correlation of two segmentations, in [-1, 1]; 0 where either is constant.

    (TP TN - FP FN)/sqrt((TP + FP)(TP + FN)(TN + FP)(TN + FN)), Pearson's r of two binary images; the score of the
    Helsinki Tomography Challenge 2022.

    Args:
        x: boolean segmentation.
        reference: the true one, same shape.

    >>> round(matthews([True, True, False, False], [True, False, False, False]), 4)
    0.5774
    """
    a, b = _pair("matthews", x, reference)
    for name, values in (("x", a), ("reference", b)):
        if not np.isin(values, (0, 1)).all():
            raise ValueError(f"matthews: {name} must be boolean, got values other than 0 and 1; threshold it first")
    if a.min() == a.max() or b.min() == b.max():
        return 0.0
    return pearson_r(a, b)


def _pair(
    caller: str, x: Image, reference: Image, complex_too: bool = False
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    a, b = _array(x), _array(reference)
    for name, values in (("x", a), ("reference", b)):
        if np.iscomplexobj(values) and not complex_too:
            raise TypeError(f"{caller}: {name} must be real, got complex values; compare abs({name}), or its parts")
    if a.shape != b.shape:
        raise ValueError(f"{caller}: x and reference must have one shape, got {a.shape} and {b.shape}")
    if a.size == 0:
        raise ValueError(f"{caller}: x must not be empty, got {a.shape}")
    return a, b


def _masked(
    caller: str, x: Image, reference: Image, mask: Image | None, complex_too: bool = False
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the pixels that count as two vectors."""
    a, b = _pair(caller, x, reference, complex_too)
    if mask is None:
        return a.ravel(), b.ravel()
    try:
        counts = np.broadcast_to(_array(mask) != 0, a.shape)
    except ValueError:
        raise ValueError(f"{caller}: mask must broadcast against {a.shape}, got {_array(mask).shape}") from None
    if not counts.any():
        raise ValueError(f"{caller}: mask must be true somewhere, got no pixel that counts")
    return a[counts], b[counts]


def _array(values: Image) -> npt.NDArray[Any]:
    found = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    return np.asarray(found, dtype=np.complex128 if np.iscomplexobj(found) else np.float64)


def _check_range(caller: str, data_range: float) -> None:
    if not (math.isfinite(data_range) and data_range > 0):
        raise ValueError(f"{caller}: data_range must be positive, got {data_range!r}; 1.0 for images in [0, 1]")
