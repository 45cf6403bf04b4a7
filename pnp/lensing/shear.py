"""Checks of shear and its noise, and simulated noise."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import broadcasts
from ..drivers.arguments import as_weights


def check_shear(caller: str, y: Tensor, noise_std: Tensor) -> Tensor:
    """Return the weights 1/noise_std^2, in y's dtype, 0 where not observed.

    Args:
        caller: function name at the start of messages.
        y: shear (B, 2, H, W); finite where observed.
        noise_std: positive, broadcasts against y, infinity where not observed.

    Raises:
        TypeError: one of them is not a real floating tensor.
        ValueError: wrong shape, device or sign, NaN, values beyond the range of the dtype, or nothing observed.
    """
    for argument, value in (("y", y), ("noise_std", noise_std)):
        if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
            got = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"{caller}: {argument} must be a floating torch.Tensor, got {got}; use torch.as_tensor({argument})"
            )
    if y.ndim != 4 or y.shape[1] != 2 or y.numel() == 0:
        remedy = "use y[None]" if y.ndim == 3 else "stack gamma1 and gamma2: torch.stack([gamma1, gamma2])[None]"
        raise ValueError(f"{caller}: y must be (B, 2, H, W), got {tuple(y.shape)}; {remedy}")
    if not broadcasts(tuple(noise_std.shape), tuple(y.shape)):
        raise ValueError(
            f"{caller}: noise_std must broadcast to y {tuple(y.shape)}, got {tuple(noise_std.shape)}; "
            "give (1, 2, H, W), or a scalar tensor"
        )
    if noise_std.device != y.device:
        raise ValueError(f"{caller}: noise_std is on {noise_std.device}, y on {y.device}; move one to the other")
    positive = noise_std > 0  # NaN fails too
    if not bool(positive.all()):
        raise ValueError(
            f"{caller}: noise_std must be positive where observed, got 0, negative or NaN in {int((~positive).sum())} "
            f"of {noise_std.numel()} values; set it to infinity where nothing is observed: "
            "torch.where(mask, noise_std, torch.inf)"
        )
    weights = as_weights(noise_std, y, caller=caller)  # explains what is infinite everywhere, or beyond the dtype
    bad = ~y.isfinite() & (weights > 0)
    if bool(bad.any()):
        raise ValueError(
            f"{caller}: y must be finite where noise_std is, got NaN or infinity in {int(bad.sum())} of "
            f"{y.numel()} values; set noise_std to infinity there"
        )
    return weights


def noise_like(y: Tensor, noise_std: Tensor, *, generator: torch.Generator) -> Tensor:
    """Draw the noise of shear y (B, 2, H, W): Gaussian of noise_std, 0 where that is infinite.

    Args:
        y: shear whose shape, dtype and device are used.
        noise_std: noise standard deviation per component, broadcasts against y.
        generator: source of randomness, on its own device.
    """
    white = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=generator.device).to(y.device)
    return torch.where(torch.isfinite(noise_std), noise_std, torch.zeros_like(noise_std)).to(y.dtype) * white
