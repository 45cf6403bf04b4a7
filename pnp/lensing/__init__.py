"""Weak lensing: simulated convergence maps, survey noise and baseline mass maps."""

from .baselines import best_smoothing, smoothed_kaiser_squires, wiener
from .simulate import LognormalKappa, kappa_spectrum, pixel_spectrum, survey_noise

__all__ = [
    "LognormalKappa",
    "best_smoothing",
    "kappa_spectrum",
    "pixel_spectrum",
    "smoothed_kaiser_squires",
    "survey_noise",
    "wiener",
]
