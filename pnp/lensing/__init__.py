"""Weak lensing: mass maps and their errors, catalogues, signs, spectra, peaks, and simulated surveys."""

from ..installation import hidden_package

if hidden_package("operators", "denoisers"):
    raise ImportError(hidden_package("operators", "denoisers"))

from .baselines import best_smoothing, smoothed_kaiser_squires, smoothed_noise, wiener
from .bin_catalogue import map_catalogue
from .comparison import Comparison, MethodScore, compare_mass_maps
from .diagnostics import BModeNull, b_mode_null, power_ratio, whitened_chi2
from .error_maps import CalibratedError, SimulatedErrors, calibrate_error, simulated_errors
from .mass_map import EModeOnly, MassMap, map_mass
from .padding import OddGrid, next_fast_odd
from .peaks import Peaks, find_peaks, match_peaks, peak_counts
from .prior import PriorFit, ScaledPrior, check_prior
from .reduced_shear import reduced_to_shear, shear_to_reduced, undo_reduction
from .rotated_shapes import rotated_std
from .sign_conventions import ConventionScore, ConventionScores, score_conventions
from .simulate import LognormalKappa, kappa_spectrum, pixel_spectrum, survey_noise
from .spectrum import BandPowers, MeasuredSpectrum, band_powers, gaussian_maps, measured_spectrum
from .starlet import StarletMap, starlet_inverse, starlet_map, starlet_transform
from .statistics import Moments, minima_counts, moments, starlet_l1_norm, starlet_peak_counts, starlet_std
from .wiener_errors import wiener_samples, wiener_std

__all__ = [
    "BModeNull",
    "BandPowers",
    "CalibratedError",
    "Comparison",
    "ConventionScore",
    "ConventionScores",
    "EModeOnly",
    "LognormalKappa",
    "MassMap",
    "MeasuredSpectrum",
    "MethodScore",
    "Moments",
    "OddGrid",
    "Peaks",
    "PriorFit",
    "ScaledPrior",
    "SimulatedErrors",
    "StarletMap",
    "b_mode_null",
    "band_powers",
    "best_smoothing",
    "calibrate_error",
    "check_prior",
    "compare_mass_maps",
    "find_peaks",
    "gaussian_maps",
    "kappa_spectrum",
    "map_catalogue",
    "map_mass",
    "match_peaks",
    "measured_spectrum",
    "minima_counts",
    "moments",
    "next_fast_odd",
    "peak_counts",
    "pixel_spectrum",
    "power_ratio",
    "reduced_to_shear",
    "rotated_std",
    "score_conventions",
    "shear_to_reduced",
    "simulated_errors",
    "smoothed_kaiser_squires",
    "smoothed_noise",
    "starlet_inverse",
    "starlet_l1_norm",
    "starlet_map",
    "starlet_peak_counts",
    "starlet_std",
    "starlet_transform",
    "survey_noise",
    "undo_reduction",
    "whitened_chi2",
    "wiener",
    "wiener_samples",
    "wiener_std",
]
