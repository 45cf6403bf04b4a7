"""Scans of discs, whose line integrals are chords: a detector's bins average the intensities of eight rays each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

HEAD = [(0.0, 0.0, 0.85, 2.0), (0.25, 0.3, 0.2, 1.5), (-0.4, 0.1, 0.12, -1.2), (0.1, -0.45, 0.03, 6.0)]
"""Discs (x, y, radius, attenuation) in units of half the detector: a body, a dense part, a hole and a small ball."""
BEADS = [(0.0, 0.0, 0.9, 0.5), *((0.7 * np.cos(3 * k), 0.7 * np.sin(5 * k), 0.012, 40.0) for k in range(9))]
"""Balls that are narrower than a bin of a detector of 96 bins."""


def transmissions(discs: Any, angles: npt.NDArray[Any], n_bins: int, n_rays: int = 8) -> npt.NDArray[np.float64]:
    """Return the expected transmissions (n_angles, n_bins)."""
    u = (np.arange(n_bins * n_rays) + 0.5) / (n_bins * n_rays) * 2 - 1
    y = np.zeros((len(angles), len(u)))
    for cx, cy, radius, attenuation in discs:
        distance = u - (cx * np.cos(angles) + cy * np.sin(angles))[:, None]
        y += 2 * attenuation * np.sqrt(np.clip(radius**2 - distance**2, 0, None))
    return np.exp(-y).reshape(len(angles), n_bins, n_rays).mean(-1)
