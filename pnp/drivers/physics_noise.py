"""What an operator says about the noise of its measurements: ours by attributes, deepinv's physics by their classes.

deepinv is not imported; its classes are known by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import broadcasts

PIXELWISE = frozenset({"Decolorize", "Demosaicing", "Denoising", "Inpainting"})
"""deepinv's physics that act pixel by pixel: their measurements are images where their input is one."""
SAMPLED = frozenset(
    {
        "Blur",
        "BlurFFT",
        "Downsampling",
        "DownsamplingMatlab",
        "HyperSpectralUnmixing",
        "PET",
        "SpaceVaryingBlur",
        "TiledSpaceVaryingBlur",
        "Tomography",
        "TomographyWithAstra",
        "Upsampling",
    }
)
"""deepinv's physics that measure images or sinograms. Absent: k-space, visibilities, random codes."""
OTHER_NOISE = {
    "FisherTippettNoise": "give noise_std, the standard deviation in units of y",
    "GammaNoise": "give noise_std, the standard deviation in units of y",
    "LaplaceNoise": "give noise_std, sqrt(2) times its scale",
    "LogPoissonNoise": "give noise_std, the standard deviation in units of y, or counts to ct.Transmission",
    "PoissonGaussianNoise": "use data_term=Poisson(gain=..., read_noise=...) with its gain and sigma",
    "PoissonNoise": "use data_term=Poisson(gain=...) with its gain",
    "RicianNoise": "give noise_std, the standard deviation in units of y",
    "SaltPepperNoise": "give noise_std, the standard deviation of the other pixels' noise",
    "UniformGaussianNoise": "give noise_std, the sigma that was drawn",
    "UniformNoise": "give noise_std, a/sqrt(3)",
}
"""deepinv's noise models that are not Gaussian noise of a known level, and what to pass instead."""


def declared_noise_std(operator: Any, y: Tensor) -> Tensor | float | None:
    """Return the sigma of deepinv's GaussianNoise in `operator.noise_model`, one for each image where it has several.

    None: there is no noise model, or it adds nothing (ZeroNoise, the default of most physics; sigma = 0).

    Raises:
        ValueError: the noise model is another one, or has a number of sigmas that is not that of images.
    """
    model: Any = getattr(operator, "noise_model", None)
    names = _deepinv_names(model)
    for name in names:
        if name in OTHER_NOISE:
            raise ValueError(
                f"solve: noise_std must be given where the operator's noise_model is {name}, got None; "
                f"{OTHER_NOISE[name]}"
            )
    if "GaussianNoise" not in names:
        return None
    sigma = torch.as_tensor(model.sigma).detach().to(y.device, torch.real(y).dtype)
    if bool((sigma == 0).all()):
        return None
    if sigma.numel() == 1:
        return float(sigma)
    if y.ndim == 0 or sigma.numel() != len(y):
        raise ValueError(
            f"solve: noise_model.sigma of the operator must be a number or one for each of the {len(y)} images of y, "
            f"got {tuple(sigma.shape)}; pass noise_std"
        )
    return sigma.reshape(-1, *[1] * (y.ndim - 1)).clamp(min=torch.finfo(sigma.dtype).tiny ** 0.5)


def check_sampled(operator: Any, name: str) -> None:
    """Refuse to estimate the noise where neighbours in y are not known to be neighbours on a grid."""
    if not is_sampled(operator):
        raise ValueError(
            f"solve: noise_std must be given for {name}, got None; it is estimated only where neighbours in y are "
            "neighbours in an image or a sinogram; give the standard deviation in units of y, or an operator with "
            "y_is_sampled = True or estimate_noise(y)"
        )


def is_sampled(operator: Any) -> bool:
    """Return whether neighbours in y are known to be neighbours on a grid."""
    return _is_sampled(operator) is not False


def gain_of(operator: Any, y: Tensor) -> Tensor | None:
    """Return the gains of the measurements, as y, 0 where y is not measured; None where the operator has none."""
    gain = getattr(operator, "y_gain", None)
    if gain is None:
        for physics in reversed(_factors(operator)):
            mask = getattr(physics, "mask", None) if "Inpainting" in _deepinv_names(physics) else None
            if isinstance(mask, Tensor):
                gain = mask if gain is None else gain * mask
            if _is_sampled(physics) is not None:
                break
    return gain.expand(y.shape) if gain is not None and broadcasts(tuple(gain.shape), tuple(y.shape)) else None


def owners_of(operator: Any, n: int) -> Sequence[Any]:
    """Return the n operators of a stack of ours or of deepinv's, None for each where they are not known."""
    owners = getattr(operator, "operators", None)  # of `operators.stack`
    if owners is None and "StackedPhysics" in _deepinv_names(operator):
        owners = operator.physics_list
    return owners if owners is not None and len(owners) == n else [None] * n


def _is_sampled(operator: Any) -> bool | None:
    """Return whether neighbours in y are neighbours on a grid; None: as in the operator's input."""
    if hasattr(operator, "y_is_sampled"):
        known: bool | None = operator.y_is_sampled
        return known
    factors = _factors(operator)
    if len(factors) > 1:  # the outermost that does not act pixel by pixel decides
        return next((known for known in map(_is_sampled, reversed(factors)) if known is not None), None)
    names = _deepinv_names(operator)
    return None if PIXELWISE.intersection(names) else bool(SAMPLED.intersection(names))


def _factors(operator: Any) -> list[Any]:
    """Return the physics that a ComposedPhysics applies one after another, or the operator alone."""
    return list(operator.physics_list) if "ComposedPhysics" in _deepinv_names(operator) else [operator]


def _deepinv_names(obj: Any) -> list[str]:
    """Return the names of deepinv's classes among an object's own and their bases."""
    return [kind.__name__ for kind in type(obj).__mro__ if kind.__module__.split(".")[0] == "deepinv"]
