"""Which signs does a survey's shear want? Shear made by lensing has E modes only, and more peaks than troughs.

Shear e1 + i e2 with a component of the wrong sign is its conjugate, up to a sign, and its E modes are spread evenly
over E and B; with components exchanged as well, E modes are B modes. So the ratio of E to B tells the handedness and
the order of the components (a map's axes exchanged are the handedness again). The global sign turns E into -E and B
into -B and is invisible to that ratio: it shows in the correlation with a true map, or in the skewness of E, for
overdensities grow without bound and voids end at emptiness (e.g. Jain, Seljak and White 2000, ApJ 530, 547).

Everything is judged against chance, on maps smoothed within the mask: the spread of each figure over maps made from
this one that know no difference between E and B. Those are, first, the map with the shear of each pixel turned by a
random angle, which keeps its noise and holes, and second, the Kaiser-Squires map with random phases, which keeps its
spectrum; the larger spread counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from operators import KaiserSquires

from ..checks import check_number
from ..readers.shear_map import ShearMap
from .gaussian_filter import Gaussian
from .padding import OddGrid

_SMOOTHINGS = (1, 2, 4, 8)  # pixels: from a pixel's to a cluster's scale in maps of 256 pixels
_LARGEST = 256  # pixels a side: scoring larger maps at full resolution would add noise, not certainty


class EBInverse(Protocol):
    """Shear (B, 2, H, W) to E and B maps (B, 2, H, W), as `operators.KaiserSquires`."""

    def inverse_eb(self, y: Tensor, /) -> Tensor:
        """Return the maps."""
        ...


@dataclass(frozen=True)
class ConventionScore:
    """How well one choice fits: the components, exchanged where `swap`, times `signs`.

    Attributes:
        signs: of the two components.
        swap: they were exchanged before.
        e_over_b: power of E over power of B.
        skewness: of E.
        r: correlation of E with the truth; None without truth.
        sigmas: (log e_over_b, skewness, r) in standard deviations of what chance gives; r's is 0 without truth.
    """

    signs: tuple[int, int]
    swap: bool
    e_over_b: float
    skewness: float
    r: float | None
    sigmas: tuple[float, float, float]

    def __str__(self) -> str:
        name = ("e2 e1" if self.swap else "e1 e2") + f"  {self.signs[0]:+d} {self.signs[1]:+d}"
        row = f"{name}  {self.e_over_b:8.3g} ({self.sigmas[0]:+5.1f})  {self.skewness:+8.3f} ({self.sigmas[1]:+5.1f})"
        return row if self.r is None else f"{row}  {self.r:+7.3f} ({self.sigmas[2]:+5.1f})"


@dataclass(frozen=True)
class ConventionScores:
    """The eight choices, the best first as far as the data tell, and the verdict.

    Attributes:
        rows: a score for each choice.
        best: the one that fits; None: the data cannot tell.
        verdict: a sentence.
        smoothing_px: standard deviation of the Gaussian that the maps were smoothed with, in pixels of the map.
        made: signs, swap and convention that the map came with.
    """

    rows: tuple[ConventionScore, ...] = field(repr=False)
    best: ConventionScore | None
    verdict: str
    smoothing_px: float
    made: tuple[tuple[int, int], bool, str] = ((1, 1), False, "lenspack")

    @property
    def options(self) -> dict[str, Any]:
        """The signs, swap and convention by which `map_catalogue` maps the file's galaxies as fits.

        Unlike `apply`, that is right near a pole, too: `map_catalogue(galaxies, 2.0, **scores.options)`.

        Raises:
            ValueError: the data cannot tell.
        """
        best, (signs, swap, convention) = self._fits("options"), self.made
        signs = signs[::-1] if best.swap else signs
        return {
            "signs": (signs[0] * best.signs[0], signs[1] * best.signs[1]),
            "swap": swap != best.swap,
            "convention": convention,
        }

    def __str__(self) -> str:
        head = "order  signs       E/B (sigma)   skewness (sigma)"
        head += "" if self.rows[0].r is None else "  r of truth (sigma)"
        return "\n".join([head, *map(str, self.rows), self.verdict])

    def apply(self, shear_map: ShearMap) -> ShearMap:
        """Return the map by the signs that fit.

        Raises:
            ValueError: the data cannot tell.
        """
        best = self._fits("apply")
        return shear_map.with_signs(*best.signs, swap=best.swap)

    def _fits(self, method: str) -> ConventionScore:
        if self.best is None:
            raise ValueError(f"ConventionScores.{method}: {self.verdict}"[:399])
        return self.best


def score_conventions(
    shear_map: ShearMap,
    *,
    make_operator: Callable[[tuple[int, int]], EBInverse] | None = None,
    truth: Tensor | None = None,
    n_random: int = 64,
    n_sigma: float = 3.0,
    generator: torch.Generator | None = None,
) -> ConventionScores:
    """Return how well each order and each pair of signs of the components fits, and which one does, if any.

    Near a pole, map the catalogue again by `options`: there the signs matter to how shear turns with the sky's axes.

    Args:
        shear_map: shear (1, 2, H, W) with its noise and mask.
        make_operator: called with a grid's (height, width), returns an operator with `inverse_eb`, in the map's
            convention; None: `KaiserSquires` in it.
        truth: true convergence (1, 1, H, W), of simulations; None: not known.
        n_random: random maps of each kind, from which the spread is taken: to 1/sqrt(2 n_random).
        n_sigma: standard deviations that E/B and, without truth, skewness must exceed for a verdict.
        generator: source of randomness; None: seeded with 0, so that equal maps have equal verdicts.

    Raises:
        ValueError: truth has another shape or is not finite, or the map is narrower than 16 pixels.
    """
    check_number("n_random", n_random, above=8, integer=True, or_equal=True, caller="score_conventions")
    check_number("n_sigma", n_sigma, above=0, caller="score_conventions")
    if min(shear_map.shape) < 16:
        raise ValueError(f"score_conventions: the map must be at least 16 x 16 pixels, got {shear_map.shape}")
    if truth is not None and truth.shape != (1, 1, *shear_map.shape):
        raise ValueError(
            f"score_conventions: truth must be (1, 1, {shear_map.shape[0]}, {shear_map.shape[1]}), got "
            f"{tuple(truth.shape)}"
        )
    if truth is not None and not bool(truth.masked_select(shear_map.mask.to(truth.device)).isfinite().all()):
        raise ValueError("score_conventions: truth must be finite where observed, got NaN or infinity; fill it in")
    generator = generator or torch.Generator().manual_seed(0)
    shear, weight, kappa, factor = _reduced(shear_map, truth)
    scales = [s for s in _SMOOTHINGS if s <= max(1, min(shear.shape[-2:]) / 16)]
    make = make_operator or partial(KaiserSquires, convention=shear_map.convention)
    tables = [_table(shear, weight, kappa, s, make, n_random, generator) for s in scales]
    # The scale at which E and B differ most clearly, or the truth shows best, for whichever choice: it favours none.
    decides = 0 if truth is None else 2
    rows, smoothing = max(zip(tables, scales, strict=True), key=lambda t: max(row.sigmas[decides] for row in t[0]))
    best, verdict = _verdict(rows, n_sigma)
    made = (shear_map.signs, shear_map.swap, shear_map.convention)
    return ConventionScores(tuple(rows), best, verdict, float(smoothing * factor), made)


def _verdict(rows: list[ConventionScore], n_sigma: float) -> tuple[ConventionScore | None, str]:
    """Return the row that fits, or None, and a sentence; put the rows in order."""
    known = rows[0].r is not None
    rows.sort(key=lambda row: row.sigmas[::-1] if known else row.sigmas, reverse=True)
    if known:
        best = rows[0]
        if best.sigmas[2] < n_sigma or best.sigmas[2] - rows[1].sigmas[2] < n_sigma:
            return None, (
                f"cannot tell: the best two correlate with the truth by {best.r:.3f} and {rows[1].r:.3f} "
                f"({best.sigmas[2]:.1f} and {rows[1].sigmas[2]:.1f} sigma); is it the same field and orientation?"
            )
        return best, f"{_named(best)} fits: it correlates with the truth by {best.r:.3f} ({best.sigmas[2]:.1f} sigma)"
    # Of each pair that differs by the global sign, the one whose E is skewed to the right.
    pairs = sorted((row for row in rows if row.skewness >= 0), key=lambda row: row.sigmas[0], reverse=True)
    best = pairs[0]
    ahead = best.sigmas[0] - pairs[1].sigmas[0]
    ratio = f"E/B {best.e_over_b:.3g} ({best.sigmas[0]:.1f} sigma)"
    if best.sigmas[0] < n_sigma or ahead < n_sigma:
        return None, (
            f"cannot tell: {_named(best)} fits best, but chance may give its {ratio}, or that lead over the next, "
            f"{pairs[1].e_over_b:.3g} ({pairs[1].sigmas[0]:.1f} sigma); more galaxies, or a true map, would decide"
        )
    rows.sort(key=lambda row: (row.sigmas[0], row.sigmas[1]), reverse=True)
    skewness = f"skewness {best.skewness:+.2f} ({best.sigmas[1]:+.1f} sigma)"
    if best.sigmas[1] < n_sigma:
        s1, s2 = best.signs
        return None, (
            f"cannot tell: {_named(best)} or its negative ({-s1:+d}, {-s2:+d}), by {ratio}; the global sign is "
            f"invisible to E and B, and the {skewness} does not decide it; a true map or the survey's paper would"
        )
    return best, f"{_named(best)} fits: {ratio} tells the handedness, {skewness} the global sign"


def _named(row: ConventionScore) -> str:
    order = "(e2, e1)" if row.swap else "(e1, e2)"
    return f"{order} times ({row.signs[0]:+d}, {row.signs[1]:+d})"


# ------------------------------------------------------------------------------------------- figures


def _table(
    shear: Tensor,
    weight: Tensor,
    truth: Tensor | None,
    smoothing_px: float,
    make_operator: Callable[[tuple[int, int]], EBInverse],
    n_random: int,
    generator: torch.Generator,
) -> list[ConventionScore]:
    """Return the eight scores at one smoothing."""
    grid = OddGrid((int(shear.shape[-2]), int(shear.shape[-1])), margin_px=math.ceil(8 * smoothing_px))
    mask, weights = grid.embed(weight > 0, False), grid.embed(weight, 0.0)
    smooth = Gaussian(grid.shape, smoothing_px)
    density = smooth(weights)
    inverse = make_operator(grid.shape)

    def modes(values: Tensor) -> Tensor:
        """Return E + iB (H, W) of the shear (1, 2, h, w), smoothed within the mask (a weighted local mean)."""
        local = smooth(weights * grid.embed(values, 0.0)) / density
        E, B = inverse.inverse_eb(torch.where(mask, local, torch.zeros_like(local)))[0]
        return torch.complex(E, B)

    inside = mask[0, 0]
    kappa = None if truth is None else (smooth(weights * grid.embed(truth, 0.0)) / density)[0, 0][inside]
    # The two hands; in each, the global sign turns (E, B) into (-E, -B) and an exchange of components into (+-B, -+E).
    right = modes(shear)
    left = modes(torch.stack([shear[:, 0], -shear[:, 1]], dim=1))
    chance = [_figures(K.real, K.imag, inside, kappa) for K in _by_chance(shear, modes, right, n_random, generator)]
    turned, phases = torch.tensor(chance, dtype=torch.float64).reshape(2, n_random, 3).square().mean(1).sqrt()
    spread = torch.maximum(turned, phases).tolist()
    rows = []
    for swap in (False, True):
        for s1, s2 in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            hand = right if (s1 * s2 == 1) != swap else left
            # exchanged: s1 e2 + i s2 e1 = i s2 (e1 - i s1 s2 e2), the same hand as e1 - i s1 s2 e2
            K = hand * (1j * s2 if swap else s1)
            figures = _figures(K.real, K.imag, inside, kappa)
            sigmas = [f / s if s > 0 else 0.0 for f, s in zip(figures, spread, strict=True)]
            r = None if kappa is None else figures[2]
            rows.append(
                ConventionScore((s1, s2), swap, math.exp(figures[0]), figures[1], r, (sigmas[0], sigmas[1], sigmas[2]))
            )
    return rows


def _by_chance(
    shear: Tensor, modes: Callable[[Tensor], Tensor], K: Tensor, n: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield n maps of randomly turned shear, then n of random phases."""
    for _ in range(n):
        turn = _random_turns(shear.shape[-2:], generator)
        turned = torch.complex(shear[0, 0], shear[0, 1]) * turn
        yield modes(torch.stack([turned.real, turned.imag])[None])
    spectrum = torch.fft.fft2(K)
    for _ in range(n):
        yield torch.fft.ifft2(spectrum * _random_turns(spectrum.shape, generator))


def _random_turns(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    angle = 2 * math.pi * torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device).cpu()
    return torch.polar(torch.ones_like(angle), angle)


def _figures(E: Tensor, B: Tensor, mask: Tensor, truth: Tensor | None) -> tuple[float, float, float]:
    """Return log(E/B), the skewness of E and its correlation with the truth, where observed."""
    e, b = E[mask] - E[mask].mean(), B[mask] - B[mask].mean()
    power_e, power_b = float(e.square().mean()), float(b.square().mean())
    ratio = math.log(power_e / power_b) if power_e > 0 and power_b > 0 else 0.0
    skewness = float(e.pow(3).mean()) / power_e**1.5 if power_e > 0 else 0.0
    if truth is None:
        return ratio, skewness, 0.0
    t = truth - truth.mean()
    scale = float(e.norm() * t.norm())
    return ratio, skewness, float(e @ t) / scale if scale > 0 else 0.0


def _reduced(shear_map: ShearMap, truth: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Return shear less its mean, weights and truth on at most 256 pixels a side, float64, and by what factor."""
    noise = shear_map.noise_std.double().cpu().square().mean(1, keepdim=True)
    weight = torch.where(shear_map.mask.cpu(), 1 / noise, torch.zeros_like(noise))
    weight = weight / weight.max()
    weight = torch.where(weight > 1e-6, weight, torch.zeros_like(weight))  # what knows a thousandth knows nothing
    factor = math.ceil(max(shear_map.shape) / _LARGEST)
    height, width = shear_map.shape
    edge = (0, -width % factor, 0, -height % factor)

    def mean(values: Tensor) -> Tensor:
        return avg_pool2d(pad(values, edge), factor)

    coarse = mean(weight)
    divisor = torch.where(coarse > 0, coarse, torch.ones_like(coarse))
    shear = mean(weight * shear_map.shear.double().cpu()) / divisor
    # A constant shear, which no mass within the field makes, would show at the mask's edges.
    shear = shear - (coarse * shear).sum((-2, -1), keepdim=True) / coarse.sum()
    known = None if truth is None else torch.where(weight > 0, truth.double().cpu(), torch.zeros_like(weight))
    kappa = None if known is None else mean(weight * known) / divisor
    return torch.where(coarse > 0, shear, torch.zeros_like(shear)), coarse, kappa, factor
