"""What unrolled EM has learned from, and what a scan differs in: voxels, views, counts and isotope.

Measured with the weights "lu177" (6.4 mm, 60 views, 5e6 counts), as their error over OSEM's: .44 as trained, .43 with
20 times the counts, .52, .65 and .89 with a third, a tenth and a fiftieth of them; 1.17 with voxels of 12.8 mm and 4.25
with 25.6 mm, whose structures it has not seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from denoisers import weight_files

from ..spect import isotope_name
from .unrolled_em_training import Scan

_KEY = "domain"
_OTHER_VOXELS, _FEWER_COUNTS, _OTHER_VIEWS = 1.05, 0.5, 2.0
"""Ratios to the training's from which on a scan is another one."""
FOREIGN_VOXELS = 1.25
"""Ratio of the voxels from which on the network does worse than what it starts from."""


@dataclass(frozen=True)
class Domain:
    """The scans of a training.

    Attributes:
        isotope: as `pnp.spect.isotope_name` gives it, "" if unknown.
        voxel_mm: (smallest, largest) side of a voxel across the axis.
        views: (fewest, most).
        counts: (fewest, most) in all views, without scatter.
    """

    isotope: str
    voxel_mm: tuple[float, float]
    views: tuple[int, int]
    counts: tuple[float, float]

    def header(self) -> dict[str, str]:
        """Return the entry of a weight file's header."""
        return {_KEY: json.dumps(asdict(self))}

    def check(self, voxel_mm: float, views: int, counts: float, isotope: str) -> list[str]:
        """Return what a scan has other than those of the training, as sentences.

        Args:
            voxel_mm, views, counts: of the scan; counts without scatter.
            isotope: as a file names it, "" if it does not.

        Raises:
            ValueError: its voxels are of another size, whose structures the network has not seen.
        """
        ratio = max(voxel_mm / self.voxel_mm[1], self.voxel_mm[0] / voxel_mm)
        learned = f"{_range(self.voxel_mm)} mm"
        if ratio > FOREIGN_VOXELS:
            raise ValueError(
                f"the network has learned from voxels of {learned}, this scan has {voxel_mm:g} mm: it would be worse "
                "than OSEM; train one on such voxels (pnp train spect), or leave it out"
            )
        said = []
        if ratio > _OTHER_VOXELS:
            said.append(f"the network has learned from voxels of {learned}, this scan has {voxel_mm:g} mm")
        if counts < _FEWER_COUNTS * self.counts[0]:
            said.append(
                f"the network has learned from {_range(self.counts)} counts, this scan has {counts:.3g}: it gains less"
            )
        if not self.views[0] / _OTHER_VIEWS <= views <= self.views[1] * _OTHER_VIEWS:
            said.append(f"the network has learned from {_range(self.views)} views, this scan has {views}")
        mine = isotope_name(isotope)
        if self.isotope and mine is None:
            said.append(f"the network has learned {self.isotope}, and the isotope of this scan is not known")
        elif self.isotope and mine != self.isotope:
            said.append(
                f"the network has learned {self.isotope}, this scan is of {mine}, whose camera and scatter are others"
            )
        return said


_PACKAGED = {
    "lu177": Domain("177Lu", (6.4, 6.4), (60, 60), (5e6, 5e6)),
    "y90": Domain("90Y", (6.4, 6.4), (60, 60), (2e6, 2e6)),
}
"""Those of the package, whose files are older than the entry."""


def domain_of_scans(scans: Sequence[Scan], isotope: str) -> Domain:
    """Return what scans of `make_scan` are like.

    Args:
        scans: of operators with `voxel_size`.
        isotope: of all of them, "" if unknown.
    """
    operators: list[Any] = [scan.operator for scan in scans]
    sizes = [float(np.atleast_1d(A.voxel_size)[0]) for A in operators]
    views = [scan.y.shape[2] for scan in scans]
    counts = [max(float(scan.y.sum() - scan.background.sum()), 1.0) for scan in scans]
    return Domain(
        isotope_name(isotope) or "", (min(sizes), max(sizes)), (min(views), max(views)), (min(counts), max(counts))
    )


def domain_of(name_or_path: str | Path) -> Domain | None:
    """Return what the weights of the package, or of a file, have learned from; None: the file does not say.

    Raises:
        ValueError: the file cannot be read, or its entry is damaged.
    """
    if str(name_or_path) in _PACKAGED:
        return _PACKAGED[str(name_or_path)]
    text = weight_files.header(Path(name_or_path)).get(_KEY)
    if text is None:
        return None
    try:
        found: dict[str, Any] = json.loads(text)
        pairs = {name: tuple(found[name]) for name in ("voxel_mm", "views", "counts")}
        if any(len(pair) != 2 or not all(value > 0 for value in pair) for pair in pairs.values()):
            raise ValueError
        return Domain(str(found["isotope"]), **pairs)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name_or_path}: the header's entry 'domain' is damaged; save the weights again") from error


def _range(values: tuple[float, float]) -> str:
    low, high = (f"{value:.3g}" for value in values)
    return low if low == high else f"{low} to {high}"
