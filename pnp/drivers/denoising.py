"""Call any denoiser as D(x, sigma), in its own dtype and by its own convention for sigma, and check what it returns.

Three optional attributes say what a denoiser takes:

    sigma_range            (lowest, highest) noise level that it was made for
    takes_sigma_per_image  True: sigma may be a tensor (B,); else it gets a float, and one call for each level
    takes_any_dtype        True: it computes in the dtype of x; else a network gets x in the dtype of its weights

A parameter named `sigma` that is not the second one is passed by name, as deepinv's RAM wants it.
"""

from __future__ import annotations

import cmath
import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import short

Denoise = Callable[[Tensor, float | Tensor], Tensor]
"""D(x, sigma), sigma a number or one level for each image."""
DEEPINV_SIGMA_PER_IMAGE = {
    "BilateralFilter", "DRUNet", "DnCNN", "EPLLDenoiser", "FFDNet", "GSPnP", "MedianFilter", "RAM", "Restormer", "UNet",
}  # fmt: skip
"""deepinv's denoisers that were found to denoise each image at its own level when sigma is (B,); TVDenoiser does not,
and EquivariantDenoiser and ComplexDenoiserWrapper refuse it, although their documentation allows it."""

DTYPE_MISMATCH = re.compile(r"dtype|scalar type|input type", re.IGNORECASE)
"""What torch's errors say where weights and images differ in dtype."""


def as_denoiser(denoiser: Any, caller: str = "solve") -> Denoise:
    """Return a denoiser D(x, sigma) for images x of any dtype, sigma a number or a tensor (B,), one level an image.

    A network is called in the dtype of its weights, complex images in the matching complex dtype, and the answer is
    cast back. Images of equal level are denoised in one call, unless the denoiser takes a level for each image.
    """
    if isinstance(denoiser, type):
        raise TypeError(f"{caller}: denoiser must be an instance, got the class {denoiser.__name__}; call it first")
    if not callable(denoiser):
        raise TypeError(
            f"{caller}: denoiser must be a function D(x, sigma), got {type(denoiser).__name__}; use one of "
            "`denoisers`, a deepinv denoiser, or a function"
        )
    _check_range(getattr(denoiser, "sigma_range", None), caller)
    by_name = _sigma_by_name(denoiser, caller)
    if _takes_sigma_per_image(denoiser) and not by_name and _own_dtype(denoiser) is None:
        return denoiser  # type: ignore[no-any-return]
    return BoundDenoiser(denoiser, by_name, caller)


class BoundDenoiser(nn.Module):
    """A denoiser as D(x, sigma) for images of any dtype, with sigma a number or one level for each image."""

    takes_sigma_per_image = True
    takes_any_dtype = True

    def __init__(self, denoiser: Callable[..., Any], by_name: bool, caller: str) -> None:
        super().__init__()
        self.denoiser, self.by_name, self.caller = denoiser, by_name, caller
        if getattr(denoiser, "sigma_range", None) is not None:
            self.sigma_range: Any = denoiser.sigma_range  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return repr(self.denoiser)

    def forward(self, x: Tensor, sigma: float | Tensor, /) -> Tensor:
        """Denoise images x (B, C, H, W); sigma in units of x."""
        if not isinstance(sigma, Tensor) or not sigma.numel() == len(x) > 1:
            return self._in_own_dtype(x, sigma)
        sigma = sigma.reshape(-1)
        levels = torch.unique(sigma.detach())
        if len(levels) > 1 and _takes_sigma_per_image(self.denoiser):
            return self._in_own_dtype(x, sigma.to(x.real.dtype).to(x.device))  # in this order: MPS has no float64
        indices = [(sigma == level).nonzero()[:, 0] for level in levels]
        numbers = [sigma[i[0]] if sigma.requires_grad else float(sigma[i[0]]) for i in indices]
        if len(numbers) == 1:
            return self._in_own_dtype(x, numbers[0])
        parts = [self._in_own_dtype(x[i.to(x.device)], s).clone() for i, s in zip(indices, numbers, strict=True)]
        return torch.cat(parts)[torch.cat(indices).argsort().to(x.device)]

    def _in_own_dtype(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        own = _own_dtype(self.denoiser)
        v = x if own is None else self._cast(x, own)
        if own is not None and isinstance(sigma, Tensor):
            sigma = sigma.to(own)
        try:
            z = self.denoiser(v, sigma=sigma) if self.by_name else self.denoiser(v, sigma)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:  # what networks raise for a dtype that they do not take
            if (remedy := _remedy(error, x)) is None:
                raise
            raise TypeError(
                f"{self.caller}: denoiser {type(self.denoiser).__name__:.60} failed for images in {x.dtype}: "
                f"{short(error, 150)}; {remedy}"
            ) from error
        return _check_answer(z, x, self.caller).to(x.dtype)

    def _cast(self, x: Tensor, own: torch.dtype) -> Tensor:
        """Return x in the dtype of the weights, or in the complex dtype of that precision."""
        if not x.is_complex():
            v = x.to(own)
            if own == torch.float16 and bool((v.isinf() & x.isfinite()).any()):
                raise ValueError(
                    f"{self.caller}: denoiser has {own} weights and x reaches {float(x.abs().max()):.4g}, beyond the "
                    "range of that dtype; use denoiser.float(), or denoisers.Rescaled"
                )
            return v
        if own not in (torch.float32, torch.float64):
            raise TypeError(
                f"{self.caller}: denoiser must have float32 or float64 weights for complex images, got {own}; use "
                "denoiser.float()"
            )
        return x.to(own.to_complex())


def guard_denoiser(
    denoiser: Callable[[Tensor, Any], Any], low: float | None, high: float | None, caller: str = "solve"
) -> Denoise:
    """Return D(x, sigma) that answers in x's shape and dtype and within the bounds, or explains what went wrong.

    The denoiser gets a copy of x, and its answer is copied: it may overwrite both at its next call.
    """

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        if not _all_finite(x):
            raise ValueError(
                f"{caller}: the x-update gave NaN or infinity before the denoiser's turn at sigma = {_text(sigma)}; "
                "check that the operator is finite and its adjoint right, and the scale of y and noise_std"
            )
        z = _check_answer(denoiser(x.clone(), sigma), x, caller)
        if not _all_finite(z):
            real = torch.real(x)
            raise ValueError(
                f"{caller}: denoiser returned NaN or infinity at sigma = {_text(sigma)} for an input in "
                f"[{float(real.min()):.4g}, {float(real.max()):.4g}], expected finite values; check its weights and "
                "the range of sigma it was made for"
            )
        return z.to(x.dtype, copy=True) if low is None and high is None else z.to(x.dtype).clamp(low, high)

    return denoise


def _all_finite(x: Tensor) -> bool:
    """Return whether x has neither NaN nor infinity: its sum has them if x has, or if it leaves the dtype's range.

    >>> _all_finite(torch.full((2,), 3e38)), _all_finite(torch.tensor([torch.inf, -torch.inf]))
    (True, False)
    """
    return cmath.isfinite(x.detach().sum().item()) or bool(x.isfinite().all())


def _check_answer(z: Any, x: Tensor, caller: str) -> Tensor:
    """Return the answer z to images x if it is an image of their shape and device, complex where they are."""
    if not isinstance(z, Tensor):
        raise TypeError(f"{caller}: denoiser must return a torch.Tensor, got {type(z).__name__}")
    if z.shape != x.shape:
        raise ValueError(
            f"{caller}: denoiser must keep the shape {tuple(x.shape)}, got {tuple(z.shape)}; check its channels, "
            "or pad and crop inside it"
        )
    if z.layout != torch.strided or z.device != x.device:
        raise ValueError(f"{caller}: denoiser must return a dense tensor on {x.device}, got {z.layout} on {z.device}")
    if z.is_complex() and not x.is_complex():
        raise TypeError(f"{caller}: denoiser must return real images for real ones, got {z.dtype}; return z.real")
    if x.is_complex() and not z.is_complex():
        raise TypeError(
            f"{caller}: denoiser must return complex images for complex ones, got {z.dtype} without the imaginary "
            "part; use denoisers.ComplexParts(denoiser), or return z + 0j where the image is known to be real"
        )
    return z


def _remedy(error: Exception, x: Tensor) -> str | None:
    """Return what helps a denoiser that failed because of x's dtype; None if it failed for another reason."""
    if "ComplexParts" in str(error):
        return None
    if x.is_complex():
        return "if it is made for real images, use denoisers.ComplexParts(denoiser)"
    if x.dtype == torch.float64 and isinstance(error, RuntimeError) and DTYPE_MISMATCH.search(str(error)):
        return "pass the network itself, which is called in its own dtype, or call it on x.float() inside the function"
    return None


def _takes_sigma_per_image(denoiser: Any) -> bool:
    """Return whether sigma may be a tensor (B,): the denoiser says so, or it is one of deepinv's that do."""
    said = getattr(denoiser, "takes_sigma_per_image", None)
    if said is not None:
        return bool(said)
    kind = type(denoiser)
    return kind.__module__.startswith("deepinv.") and kind.__name__ in DEEPINV_SIGMA_PER_IMAGE


def _own_dtype(denoiser: Any) -> torch.dtype | None:
    """Return the real dtype of a network's weights; None where it has none, or takes any dtype."""
    if not isinstance(denoiser, nn.Module) or getattr(denoiser, "takes_any_dtype", False):
        return None
    weight = next((p for p in denoiser.parameters() if p.is_floating_point() or p.is_complex()), None)
    return None if weight is None else weight.dtype.to_real()


def _sigma_by_name(denoiser: Any, caller: str) -> bool:
    """Return whether sigma is to be passed by name; refuse what cannot be called with x and sigma."""
    try:
        signature = inspect.signature(denoiser.forward if isinstance(denoiser, nn.Module) else denoiser)
    except (TypeError, ValueError):  # built-in functions have none
        return False
    parameters = signature.parameters.values()
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = "sigma" in signature.parameters and positional[1:2] != ["sigma"]
    try:
        signature.bind(None, sigma=None) if by_name else signature.bind(None, None)
        fits = by_name or positional[1:2] != ["physics"]  # deepinv's networks from measurements to images
    except TypeError:
        fits = False
    if not fits:
        blind = len(positional) == 1 and "sigma" not in positional
        remedy = "denoisers.Blind(denoiser), which leaves sigma out" if blind else "a function of x and sigma"
        raise TypeError(
            f"{caller}: denoiser must be callable as D(x, sigma), but the arguments of "
            f"{type(denoiser).__name__:.60} are {short(str(signature), 120)}; use {remedy}"
        )
    return by_name


def _check_range(levels: Any, caller: str) -> None:
    """Refuse a `sigma_range` that is not (lowest, highest), where a denoiser has one."""
    if levels is None:
        return
    try:
        lowest, highest = map(float, levels)
        fits = 0 <= lowest <= highest and highest > 0
    except (TypeError, ValueError, OverflowError, RuntimeError):
        fits = False
    if not fits:
        got = short(repr(levels), 60)
        raise ValueError(f"{caller}: denoiser.sigma_range must be (lowest, highest), 0 <= lowest <= highest, got {got}")


def _text(sigma: float | Tensor) -> str:
    """Return noise levels as text."""
    if not isinstance(sigma, Tensor) or sigma.numel() == 1:
        return f"{float(sigma):.4g}"
    return f"{float(sigma.min()):.4g} to {float(sigma.max()):.4g}"
