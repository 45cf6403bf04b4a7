"""Reconstructors that are learned from pairs of measurements and images."""

from __future__ import annotations

from .files import load_glimpse, save_glimpse
from .glimpse import Glimpse
from .pairs import Pairs, add_noise, held_out_psnr, mean_psnr

__all__ = ["Glimpse", "Pairs", "add_noise", "held_out_psnr", "load_glimpse", "mean_psnr", "save_glimpse"]
