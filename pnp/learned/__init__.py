"""Reconstructors that are learned from pairs of measurements and images."""

from __future__ import annotations

from ..installation import hidden_package

if hidden_package("operators", "denoisers"):
    raise ImportError(hidden_package("operators", "denoisers"))

from .glimpse import Glimpse
from .glimpse_training import PatchTask, add_noise, held_out_psnr, mean_psnr
from .unrolled_em import UnrolledEM
from .unrolled_em_training import MODES, Scan, held_out_nrmse, make_scan, train_unrolled_em

__all__ = [
    "MODES",
    "Glimpse",
    "PatchTask",
    "Scan",
    "UnrolledEM",
    "add_noise",
    "held_out_nrmse",
    "held_out_psnr",
    "make_scan",
    "mean_psnr",
    "train_unrolled_em",
]
