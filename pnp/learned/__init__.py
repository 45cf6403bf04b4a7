"""Reconstructors that are learned from pairs of measurements and images."""

from __future__ import annotations

from ..installation import hidden_package

if hidden_package("operators"):
    raise ImportError(hidden_package("operators"))

from .glimpse import Glimpse
from .glimpse_training import Pairs, add_noise, held_out_psnr, mean_psnr
from .unrolled_em import UnrolledEM
from .unrolled_em_training import MODES, Scan, held_out_nrmse, make_scan, train_unrolled_em
from .weight_files import load_glimpse, load_unrolled_em, save_glimpse, save_unrolled_em

__all__ = [
    "MODES",
    "Glimpse",
    "Pairs",
    "Scan",
    "UnrolledEM",
    "add_noise",
    "held_out_nrmse",
    "held_out_psnr",
    "load_glimpse",
    "load_unrolled_em",
    "make_scan",
    "mean_psnr",
    "save_glimpse",
    "save_unrolled_em",
    "train_unrolled_em",
]
