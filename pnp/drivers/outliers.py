"""Measurements that x contradicts: cosmic rays, dead and saturated pixels, bins that do not respond, salt and pepper.

After a solve the residuals r of x, in noise levels, tell outliers from noise where x is determined by many measurements
together: with the scale s = max(1, median |r| / 0.6745), which a model error raises, those with |r| > 6 s are rejected
and x is solved for again without them, until the same ones are found. A rejected measurement whose residual is small
again counts again. White noise exceeds 6 s twice in 10^9 measurements. A denoiser that cannot represent the image
leaves such residuals too; without those measurements x then explains the others worse, and all are kept.

Outliers stand out where they are rare and few residuals lie between 4 s and 6 s, or where some are beyond 25 s and all
carry a quarter of the misfit; a denoiser's own errors have a tail instead. Those that stand out are left out unasked.

Where each measurement has its own pixel (masks, denoising), x follows an outlier, and its residual stays small. There,
a value that several measurements hold exactly, as stuck pixels and salt and pepper do and noise does not, is suspect
from the start: its measurements are left out, and only those come back which the others predict to within 3 s. So is a
row or a column of y that mostly holds one value, as a detector's bin that does not respond: x explains it by a ring.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..algorithms.least_squares import LeastSquaresStep
from ..algorithms.protocols import BoundDataTerm
from .result import HIGH_MISFIT

THRESHOLD = 6.0
"""Residual of an outlier, in robust standard deviations."""
SUSPECT_THRESHOLD = 3.0
"""The same for a measurement that was suspect from its value alone."""
TAIL, P_TAIL = 4.0, 6.3e-5
"""Between so many robust standard deviations and THRESHOLD lies this fraction of white noise."""
MAX_TAIL, MAX_TAIL_RATIO = 10, 5.0
"""Residuals there, and multiples of those expected, that outliers bring about by what they change in x."""
RARE, STANDS_OUT = 5e-3, 8.0
"""Fraction of the measurements that outliers then are at most, and the residual that the largest exceeds."""
MIN_MEASUREMENTS = 100
"""Fewer measurements do not show what stands out."""
FAR_OUT, FAR_SHARE = 25.0, 0.25
"""A residual beyond those that denoisers leave of images they can represent, and the part of the misfit beside it."""
MAX_FRACTION = 0.25
"""If more than this fraction of the measurements are outliers, the model is wrong and not they."""
MAX_ROUNDS = 4
"""Solves at most after the first one, beside one that puts back what was left out."""
OTHERS_RTOL = 0.05
"""The measurements that are left may be explained worse by this fraction where outliers are left out."""
MAX_SPREAD = 2.0
"""Without the outliers at most so many times as many are found, unless they are rare."""
OWN_PIXEL = 0.5
"""Spectral flatness of A*WA from which on each measurement mainly sees a pixel of its own."""
MIN_REPEATS = 3
"""So many equal values are no coincidence where other values differ."""


class Outliers(NamedTuple):
    """Measurements that an image contradicts."""

    found: Tensor
    """A mask like the image's measurements."""
    others: float
    """Mean square of the other residuals, in noise levels."""
    largest: float
    """Largest residual, in robust standard deviations."""
    share: float
    """Fraction of the misfit that the outliers carry."""
    stand_out: bool
    """Whether they differ from all others, and not by the tail of an error of the model."""
    believable: bool
    """Whether they are so few that they, and not the model, are wrong."""


def find_outliers(r: Tensor, counted: Tensor, suspects: Tensor | None = None) -> list[Outliers]:
    """Return which measurements each image of a batch contradicts.

    Args:
        r: residuals in noise levels, like y, batch first.
        counted: which of them count, broadcasting to r.
        suspects: measurements that `find_suspects` found.
    """
    counted = counted.expand(r.shape)
    return [_find(r[b], counted[b], None if suspects is None else suspects[b]) for b in range(len(r))]


def _find(r: Tensor, counted: Tensor, suspects: Tensor | None) -> Outliers:
    size, n = r.abs(), int(counted.sum())
    if n == 0:
        return Outliers(torch.zeros_like(counted), math.inf, 0.0, 0.0, False, True)
    scaled = size / max(1.0, float(size[counted].median()) / _median_of_noise(r))
    limit = THRESHOLD if suspects is None else torch.where(suspects, SUSPECT_THRESHOLD, THRESHOLD)
    found = counted & (scaled > limit)
    others, square = size[counted & ~found], float(size[found].square().sum())
    n_found, n_tail = int(found.sum()), int((counted & (scaled > TAIL) & (scaled <= THRESHOLD)).sum())
    whole, largest = square + float(others.square().sum()), float(scaled[found].max()) if n_found else 0.0
    share = square / whole if whole > 0 else 0.0
    is_rare = largest > STANDS_OUT and n_found <= RARE * n and n_tail <= MAX_TAIL + MAX_TAIL_RATIO * P_TAIL * n
    return Outliers(
        found,
        float(others.square().mean()) if others.numel() else math.inf,
        largest,
        share,
        n >= MIN_MEASUREMENTS and (is_rare or (largest > FAR_OUT and share > FAR_SHARE)),
        n_found <= MAX_FRACTION * n,
    )


class Rejection:
    """Measurements that are left out, from one solve to the next.

    Args:
        robust: None: outliers are looked for in images where they stand out; True: in all.
        rejected: those that are left out in the first solve, a mask like y: suspects, or none.

    Attributes:
        rejected: those of the current solve.
        n_rounds: solves that were judged.
        tried: for each image whether outliers are looked for.
        put_back: whether outliers of an image were put back.
        others: for each image the mean square of the other residuals in the solve that was judged last.
    """

    def __init__(self, robust: bool | None, rejected: Tensor) -> None:
        self.robust, self.rejected = robust, rejected
        self.suspects = rejected.clone() if bool(rejected.any()) else None
        self.n_rounds, self.tried, self.others = 0, [True] * len(rejected), [math.inf] * len(rejected)
        self.put_back = False

    def update(self, outliers: Sequence[Outliers], counted: Tensor) -> bool:
        """Judge a solve by its outliers, and return whether other measurements are to be left out than before.

        Without outliers the others are explained at least as well as with them. Where they are not, as where the
        denoiser cannot represent the image, those that were left out are put back, and no others are tried.
        """
        before = self.rejected.clone()
        for b, one in enumerate(outliers):
            if self.n_rounds == 0:
                self.tried[b] = self.robust is True or one.stand_out
            elif self.tried[b] and (one.others > (1 + OTHERS_RTOL) * self.others[b] or self._spreads(b, one, counted)):
                self.tried[b], self.rejected[b], self.put_back = False, False, True
            if self.tried[b] and one.believable and self.n_rounds < MAX_ROUNDS:
                self.rejected[b] = one.found
            self.others[b] = one.others
        self.n_rounds += 1
        return not torch.equal(before, self.rejected)

    def _spreads(self, b: int, one: Outliers, counted: Tensor) -> bool:
        """Whether, unasked, the others are not explained, or many more are found: those left out determined x."""
        if self.robust is None and one.others > HIGH_MISFIT:
            return True
        n = int(counted.expand(self.rejected.shape)[b].sum())
        return self.robust is None and int(one.found.sum()) > max(RARE * n, MAX_SPREAD * int(self.rejected[b].sum()))

    @property
    def numbers(self) -> dict[str, Any]:
        """State beside `rejected`, for a checkpoint."""
        names = ("n_rounds", "tried", "others", "put_back")
        return {name: copy.copy(getattr(self, name)) for name in names}

    def restore(self, rejected: Tensor, numbers: dict[str, Any]) -> None:
        """Take over the state of a checkpoint."""
        self.rejected = rejected
        for name in self.numbers:
            setattr(self, name, numbers[name])


def find_suspects(h: BoundDataTerm, counted: Tensor, flatness: float) -> Tensor | None:
    """Return which measurements hold a value that several hold exactly, a mask like y; None where there are none.

    Only of least squares: counts repeat. Where each measurement mainly sees a pixel of its own, any such value, see
    `repeated_values`; elsewhere that of a row or a column which mostly holds one value, see `stuck_lines`.

    Args:
        h: the data term with all measurements.
        counted: which measurements count, broadcasting to y.
        flatness: the spectral flatness of A*WA.
    """
    if not isinstance(h, LeastSquaresStep) or not isinstance(h.y, Tensor):
        return None
    if flatness >= OWN_PIXEL:
        found = repeated_values(h.y, counted, SUSPECT_THRESHOLD * h.weights**-0.5)
    else:
        found = stuck_lines(h.y, counted)
    return found if 0 < int(found.sum()) <= MAX_FRACTION * int(counted.expand(found.shape).sum()) else None


def stuck_lines(y: Tensor, counted: Tensor) -> Tensor:
    """Return where rows or columns of y (B, C, m, n) hold the value that more than half of the row or column holds.

    So does a detector's bin that answers alike to every view, which x would explain by a ring.
    """
    found = torch.zeros(y.shape, dtype=torch.bool, device=y.device)
    if y.is_complex() or y.ndim != 4:
        return found
    counted = counted.expand(y.shape)
    values = torch.where(counted, y, math.nan)
    for axis in (2, 3):
        same = values == values.nanmedian(axis, keepdim=True).values
        n = same.sum(axis, keepdim=True)
        found |= same & (2 * n > counted.sum(axis, keepdim=True)) & (n >= MIN_REPEATS)
    return found


def repeated_values(y: Tensor, counted: Tensor, tolerance: Tensor | float = 0.0) -> Tensor:
    """Return which measurements y (B, ...) hold a value that several hold exactly, among those that count.

    Where most values differ from each other, any repeated value is suspect; where values are whole numbers or otherwise
    quantised, only the lowest and the highest. An area of one value, as of a saturated sky, is not suspect: one whose
    neighbours within a distance of two often hold the same value, or one within the tolerance.
    """
    found = torch.zeros(y.shape, dtype=torch.bool, device=y.device)
    if y.is_complex():
        return found
    for b in range(len(y)):
        counts = counted.expand(y.shape)[b]
        values, index, repeats = torch.unique(y[b][counts], return_inverse=True, return_counts=True)
        if values.numel() < MIN_REPEATS:
            continue
        suspect = repeats >= MIN_REPEATS
        if 2 * int((repeats == 1).sum()) < int(counts.sum()):
            suspect[1:-1] = False
        found[b][counts] = suspect[index]
    return found & ~_in_area(y, counted, found, tolerance) if y.ndim == 4 and bool(found.any()) else found


def find_impulses(h: BoundDataTerm, counted: Tensor, flatness: float) -> Tensor | None:
    """Return which suspects stand out from the measurements around them, a mask like y; None where there are none.

    They differ by 6 noise levels, and by 6 times the median deviation there, from the median of the 5 x 5 measurements
    around them that are no suspects. A value that mainly fills areas, as of clipped documents, is not suspect.

    Args:
        h, counted, flatness: as for `find_suspects`.
    """
    suspects = find_suspects(h, counted, flatness)
    if suspects is None or not isinstance(h, LeastSquaresStep) or h.y.ndim != 4:
        return None
    y, counted = h.y, counted.expand(h.y.shape)
    alike = counted & torch.isin(y, y[suspects].unique())
    if 2 * int(suspects.sum()) < int(alike.sum()):
        return None
    others = pad(torch.where(counted & ~suspects, y, math.nan), (2, 2, 2, 2), value=math.nan)
    b, c, i, j = suspects.nonzero(as_tuple=True)
    around = torch.stack([others[b, c, i + di, j + dj] for di in range(5) for dj in range(5)])
    median = around.nanmedian(0).values
    deviation = (around - median).abs().nanmedian(0).values / _median_of_noise(y)
    noise = h.weights.expand(y.shape)[suspects] ** -0.5
    found = torch.zeros_like(suspects)
    found[suspects] = (y[suspects] - median).abs() > THRESHOLD * torch.maximum(deviation, noise)
    return found


def _in_area(y: Tensor, counted: Tensor, found: Tensor, tolerance: Tensor | float) -> Tensor:
    """Whether a measurement, or one beside it that is like it, is like a third of the 24 around it, and like three.

    Where noise is clipped, as at the black of a sky, half of them have its value, and the others nearly. Only those
    that count: what a mask drops is stored as zeros, which are no pepper. Salt beside pepper in black is unlike it.
    """
    inside = pad(torch.where(counted, y, math.nan), (2, 2, 2, 2), value=math.nan)
    height, width = y.shape[-2:]
    same, near = torch.zeros_like(y), torch.zeros_like(y)
    beside = []
    for i in range(5):
        for j in range(5):
            window = (..., slice(i, i + height), slice(j, j + width))
            alike = (inside[window] - y).abs() <= tolerance
            same, near = same + alike, near + ~inside[window].isnan()
            if 1 <= i <= 3 and 1 <= j <= 3:
                beside.append((window, alike))
    core = pad(found & (same >= 4) & (3 * (same - 1) >= near - 1), (2, 2, 2, 2))  # itself among both
    return found & torch.stack([core[window] & alike for window, alike in beside]).any(0)


def _median_of_noise(r: Tensor) -> float:
    """Median of |r| for white noise with a mean square of 1, real or complex."""
    return math.sqrt(math.log(2)) if r.is_complex() else 0.6744898
