"""Find the signs of a survey's shear: lensing makes E modes only, and more peaks than troughs.

Shear e1 + i e2 with a component of the wrong sign is its conjugate, up to a sign, and its E modes are spread evenly
over E and B; with components exchanged as well, E modes are B modes. So the ratio of E to B determines the handedness
and the order of the components (an exchange of the map's axes also changes the handedness). The global sign turns E
into -E and B into -B and does not change that ratio. It follows from the correlation with a true map, or from the
skewness of E: overdensities have no upper limit, voids end at density zero (Jain, Seljak and White 2000, ApJ 530,
547).

All figures are of maps smoothed within the mask, and are compared with their spread by chance, over random maps without
a difference between E and B. Those are, first, the map with the shear of each pixel turned by a random angle, which
keeps its noise and holes, and second, the Kaiser-Squires map with random phases, which keeps its spectrum; the larger
spread is used.
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

_SMOOTHINGS_PX = (1, 2, 4, 8)  # from the scale of a pixel to that of a cluster in maps of 256 pixels
_MAX_SIDE = 256  # pixels; the full resolution of larger maps would add only noise


class EBInverse(Protocol):
    """An operator from shear to E and B maps, such as `operators.KaiserSquires`."""

    def inverse_eb(self, y: Tensor, /) -> Tensor:
        """Return E and B maps (B, 2, H, W) of shear y (B, 2, H, W)."""
        ...


@dataclass(frozen=True)
class ConventionScore:
    """Scores of one choice: the components, exchanged where `swap`, times `signs`.

    Attributes:
        signs: factors of the two components.
        swap: whether they are exchanged before.
        e_over_b: power of E over power of B.
        skewness: skewness of E.
        r: correlation of E with the truth; None without truth.
        sigmas: (log e_over_b, skewness, r) in standard deviations by chance; 0 for r without truth.
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
    """Result of `score_conventions`: the eight choices, the best first as far as the data decide, and the verdict.

    Attributes:
        rows: scores of each choice.
        best: the choice that fits; None: the data do not decide.
        verdict: the verdict as a sentence.
        smoothing_px: standard deviation of the Gaussian by which the maps were smoothed, in pixels of the map.
        made: signs, swap and convention of the given map.
    """

    rows: tuple[ConventionScore, ...] = field(repr=False)
    best: ConventionScore | None
    verdict: str
    smoothing_px: float
    made: tuple[tuple[int, int], bool, str] = ((1, 1), False, "lenspack")

    @property
    def options(self) -> dict[str, Any]:
        """Return the signs, swap and convention for `map_catalogue` by which the galaxies fit.

        Unlike `apply`, this is also right near a pole: `map_catalogue(galaxies, 2.0, **scores.options)`.

        Raises:
            ValueError: the data do not decide.
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
        """Return the map with the signs that fit.

        Raises:
            ValueError: the data do not decide.
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
    """Score each order and each pair of signs of the shear components, and return which one fits, if any.

    Near a pole, map the catalogue again with `options`: there the turn of the sky's axes depends on the signs.

    Args:
        shear_map: shear (1, 2, H, W) with its noise and mask.
        make_operator: called with a grid's (height, width), returns an operator with `inverse_eb`, in the map's
            convention; None: `KaiserSquires` in it.
        truth: true convergence (1, 1, H, W) of simulations; None: unknown.
        n_random: number of random maps of each kind, which determine the spread to 1/sqrt(2 n_random).
        n_sigma: standard deviations that E/B and, without truth, skewness must exceed for a verdict.
        generator: source of randomness; None: seed 0, so that equal maps have equal verdicts.

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
        raise ValueError("score_conventions: truth must be finite where observed, got NaN or infinity")
    generator = generator or torch.Generator().manual_seed(0)
    shear, weight, kappa, factor = _reduced(shear_map, truth)
    scales = [s for s in _SMOOTHINGS_PX if s <= max(1, min(shear.shape[-2:]) / 16)]
    make = make_operator or partial(KaiserSquires, convention=shear_map.convention)
    tables = [_table(shear, weight, kappa, s, make, n_random, generator) for s in scales]
    # The scale at which E and B, or the truth, stand out most clearly for any choice: this favours none of them.
    decides = 0 if truth is None else 2
    rows, smoothing = max(zip(tables, scales, strict=True), key=lambda t: max(row.sigmas[decides] for row in t[0]))
    best, verdict = _verdict(rows, n_sigma)
    made = (shear_map.signs, shear_map.swap, shear_map.convention)
    return ConventionScores(tuple(rows), best, verdict, float(smoothing * factor), made)


def _verdict(rows: list[ConventionScore], n_sigma: float) -> tuple[ConventionScore | None, str]:
    """Sort the rows; return the one that fits, or None, and a sentence."""
    known = rows[0].r is not None
    rows.sort(key=lambda row: row.sigmas[::-1] if known else row.sigmas, reverse=True)
    if known:
        best = rows[0]
        if best.sigmas[2] < n_sigma or best.sigmas[2] - rows[1].sigmas[2] < n_sigma:
            return None, (
                f"undecided: the best two correlate with the truth by {best.r:.3f} and {rows[1].r:.3f} "
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
            f"undecided: {_named(best)} fits best, but its {ratio}, or its lead over the next, may be chance: "
            f"{pairs[1].e_over_b:.3g} ({pairs[1].sigmas[0]:.1f} sigma); more galaxies, or a true map, would decide"
        )
    rows.sort(key=lambda row: (row.sigmas[0], row.sigmas[1]), reverse=True)
    skewness = f"skewness {best.skewness:+.2f} ({best.sigmas[1]:+.1f} sigma)"
    if best.sigmas[1] < n_sigma:
        s1, s2 = best.signs
        return None, (
            f"undecided: {_named(best)} or its negative ({-s1:+d}, {-s2:+d}), by {ratio}; E/B does not "
            f"depend on the global sign, and the {skewness} does not decide it; a true map or the survey's paper would"
        )
    return best, f"{_named(best)} fits: {ratio} decides the handedness, {skewness} the global sign"


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
    """Return the scores of the eight choices at one smoothing."""
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
    # The two hands; the global sign turns (E, B) into (-E, -B), an exchange of components into (+-B, -+E).
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
    """Return complex numbers of modulus 1 with random phases."""
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
    """Return shear without its mean, weights and truth, binned to at most 256 pixels per side, and the factor."""
    noise = shear_map.noise_std.double().cpu().square().mean(1, keepdim=True)
    weight = torch.where(shear_map.mask.cpu(), 1 / noise, torch.zeros_like(noise))
    weight = weight / weight.max()
    weight = torch.where(
        weight > 1e-6, weight, torch.zeros_like(weight)
    )  # noise a thousand times larger carries no information
    factor = math.ceil(max(shear_map.shape) / _MAX_SIDE)
    height, width = shear_map.shape
    edge = (0, -width % factor, 0, -height % factor)

    def mean(values: Tensor) -> Tensor:
        return avg_pool2d(pad(values, edge), factor)

    coarse = mean(weight)
    divisor = torch.where(coarse > 0, coarse, torch.ones_like(coarse))
    shear = mean(weight * shear_map.shear.double().cpu()) / divisor
    # No mass within the field makes a constant shear, which would appear at the mask's edges.
    shear = shear - (coarse * shear).sum((-2, -1), keepdim=True) / coarse.sum()
    known = None if truth is None else torch.where(weight > 0, truth.double().cpu(), torch.zeros_like(weight))
    kappa = None if known is None else mean(weight * known) / divisor
    return torch.where(coarse > 0, shear, torch.zeros_like(shear)), coarse, kappa, factor
