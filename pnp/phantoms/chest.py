"""A slice of a chest: lungs with vessels and bronchi, heart or great vessels, aorta, spine, ribs, muscle and fat.

Seen from the feet, breastbone up, as radiologists see it: the heart points to the right. Half of the slices, drawn by
the generator, go through the heart, the others through the great vessels above it; half have contrast agent in their
blood. Body, fat, muscle, ribs and lungs vary in shape and size, and the patient lies a little turned.

Attenuation is that of the tissues at 65 keV, where water has 0.02 per mm: mass attenuation of ICRU-44 tissues from
J. H. Hubbell and S. M. Seltzer, NIST Standard Reference Database 126, table 4, between 60 and 80 keV in logarithms,
times their densities (fat 0.95, muscle 1.05, blood 1.06, lung filled with air 0.26 g/cm^3). Thin cortical bone is
taken at 1.45 g/cm^3; spongy bone, 300 HU, cartilage, 120 HU, and skin, 60 HU, are chosen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .random_fields import check_size, random_fields
from .tubes import tube_coverage

# Attenuation in 1/mm.
_AIR, _LUNG, _FAT, _SKIN, _FLUID, _MUSCLE, _BLOOD = 0.0, 0.0052, 0.0183, 0.0212, 0.0200, 0.0208, 0.0211
_CARTILAGE, _SPONGY, _CORTEX = 0.0224, 0.0260, 0.0415
_MAX_CONTRAST = 0.0040
"""Largest attenuation, in 1/mm, that contrast agent adds to blood: 200 HU."""

_N_ROOTS, _N_GENERATIONS = 7, 8
"""Trees of vessels: number of branches that leave the hilum, and of forks along each."""


def chest(size: int = 512, *, generator: torch.Generator | None = None) -> Tensor:
    """Return a slice of a chest (1, 1, size, size) in 1/mm, breastbone up, edges averaged over 2 x 2 samples.

    Args:
        size: pixels on a side; the chest is 0.75 to 0.95 of it wide, 310 to 390 mm with 0.8 mm a pixel at 512.
        generator: draws the patient, the height of the slice and all texture; None: one seeded with 0.
    """
    check_size(size, "chest")
    return _Chest(size, torch.Generator().manual_seed(0) if generator is None else generator).draw()


class _Chest:
    """One patient: x to the left hand, y to the breastbone, in half widths of the image (about 200 mm)."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.n, self.g = size, 2 * size, generator
        self.turn, self.shift = self.uniform(-0.1, 0.1), (self.uniform(-0.03, 0.03), self.uniform(-0.03, 0.03))
        t = (torch.arange(self.n) - (self.n - 1) / 2) / (self.n / 2)
        u, v = t[None, :] - self.shift[0], -t[:, None] - self.shift[1]
        c, s = math.cos(self.turn), math.sin(self.turn)
        self.x, self.y = c * u + s * v, c * v - s * u
        self.image = torch.zeros(self.n, self.n)
        self.slow, self.edge, self.knots, self.fine = random_fields(
            self.n, ((3.0, 0.5), (7.0, 0.4), (16.0, 0.4), (45.0, 0.5)), generator, drawn=128
        )
        self.half = (self.uniform(0.63, 0.74), self.uniform(0.43, 0.52))  # of the rib cage
        self.power = self.uniform(2.1, 2.5)  # 2: an ellipse
        self.fat = self.uniform(0.015, 0.08)  # under the skin
        self.heart_seen = self.uniform(0, 1) < 0.5
        contrast = _MAX_CONTRAST * max(0.0, self.uniform(-1, 1))
        self.blood = [_BLOOD + contrast * self.uniform(0.4, 1.0) for _ in range(2)]  # of the left and the right heart
        self.spine = 0.16 - self.half[1]  # y of the vertebra's centre

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.g))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.g)

    def paint(self, where: Tensor, value: float | Tensor) -> None:
        """Paint a mask, or a fraction of every sample."""
        w = where.to(self.image.dtype)
        self.image += w * (value - self.image)

    def ellipse(self, cx: float, cy: float, rx: float, ry: float, turn: float = 0.0) -> Tensor:
        """Return the distance from an ellipse, roughly: below 0 inside."""
        c, s = math.cos(turn), math.sin(turn)
        u, v = self.x - cx, self.y - cy
        return ((((c * u + s * v) / rx) ** 2 + ((c * v - s * u) / ry) ** 2).sqrt() - 1) * min(rx, ry)

    def box(self, cx: float, cy: float, reach: float) -> tuple[slice, slice]:
        """Return the rows and columns within reach of a point."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        column = 0.5 * self.n * (1 + c * cx - s * cy + self.shift[0])
        row = 0.5 * self.n * (1 - s * cx - c * cy - self.shift[1])
        k = 0.5 * self.n * reach + 2
        return slice(max(0, int(row - k)), int(row + k) + 1), slice(max(0, int(column - k)), int(column + k) + 1)

    def spot(
        self,
        cx: float,
        cy: float,
        rx: float,
        ry: float,
        value: float | Tensor,
        turn: float = 0.0,
        *,
        rough: Tensor | float = 0.0,
        within: Tensor | None = None,
    ) -> None:
        """Paint an ellipse, its edge moved by a field; only its surroundings are visited."""
        box = self.box(cx, cy, max(rx, ry) + 0.02)
        c, s = math.cos(turn), math.sin(turn)
        u, v = self.x[box] - cx, self.y[box] - cy
        norm = ((c * u + s * v) / rx) ** 2 + ((c * v - s * u) / ry) ** 2
        bend = rough[box] if isinstance(rough, Tensor) else rough
        where = norm < (1 - bend / min(rx, ry)) ** 2
        if within is not None:
            where &= within[box]
        self.image[box] = torch.where(where, value[box] if isinstance(value, Tensor) else value, self.image[box])

    def tubes(self, a: Tensor, b: Tensor, ra: Tensor, rb: Tensor) -> Tensor:
        """Return the fraction of every sample that tubes cover; ends (n, 3) in the patient's frame."""
        c, s = math.cos(self.turn), math.sin(self.turn)
        to_image = torch.tensor([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
        shift = torch.tensor([*self.shift, 0.0])
        return tube_coverage(self.n, a @ to_image + shift, b @ to_image + shift, ra, rb)

    def lines(self, *points: tuple[float, float], radius: float) -> Tensor:
        """Return the fraction of every sample that a line of this radius through points (x, y) covers."""
        p = torch.tensor([(*q, 0.0) for q in points])
        r = torch.full((len(p) - 1,), radius)
        return self.tubes(p[:-1], p[1:], r, r)

    def rim(self, phi: Tensor, outside: float | Tensor) -> Tensor:
        """Return points (n, 2) in direction phi, at this distance outside the rib cage's inner side."""
        c, s = phi.cos(), phi.sin()
        r = ((c / self.half[0]).abs() ** self.power + (s / self.half[1]).abs() ** self.power) ** (-1 / self.power)
        return (r + outside)[:, None] * torch.stack((c, s), 1)

    def draw(self) -> Tensor:
        self.draw_wall()
        self.draw_mediastinum()
        self.draw_lungs()
        if self.heart_seen:
            self.draw_heart()
        else:
            self.draw_great_vessels()
        self.draw_aorta()
        self.draw_spine()
        self.draw_ribs()
        s = self.size
        return self.image.clamp(min=0).reshape(1, 1, s, 2, s, 2).mean((3, 5))

    def draw_wall(self) -> None:
        """Draw skin, fat and muscle outside the rib cage."""
        x, y = self.x, self.y
        norm = ((x / self.half[0]).abs() ** self.power + (y / self.half[1]).abs() ** self.power) ** (1 / self.power)
        r = (x * x + y * y).sqrt()
        self.outside = r - r / norm.clamp(min=1e-3)  # of the cage, along the ray from the centre
        side, up = x.abs() / r.clamp(min=1e-3), y / r.clamp(min=1e-3)
        phi = torch.atan2(up, side)  # pi/2 at the breastbone, 0 at the sides, -pi/2 at the back
        bumps = (
            (0.95, 0.33, self.uniform(0.03, 0.09)),  # chest muscles
            (-0.45, 0.40, self.uniform(0.04, 0.08)),  # latissimus dorsi, shoulder blade
            (-1.25, 0.20, self.uniform(0.06, 0.09)),  # beside the spine
        )
        muscle = 0.05 + 0.004 * self.slow
        for centre, width, height in bumps:
            muscle = muscle + height * torch.exp(-0.5 * ((phi - centre) / width) ** 2)
        fat = self.fat * (1 + 0.1 * self.slow) + 0.012 + 0.6 * self.fat * torch.exp(-(((phi - 0.6) / 0.4) ** 2))
        skin = muscle + fat.clamp(min=0.012)
        self.paint(self.outside < skin, _SKIN)
        self.paint(self.outside < skin - 0.010, _FAT + 0.0001 * self.fine)
        tissue = _MUSCLE + 0.00015 * self.fine + 0.0001 * self.knots
        self.paint(self.outside < muscle, tissue)
        # Fat between the muscles: sheets around the cage, and streaks along them.
        sheet = (self.outside - 0.052 - 0.010 * self.edge).abs() < 0.005
        streak = (self.outside - 0.085 - 0.03 * self.slow + 0.012 * self.knots).abs() < 0.004
        self.paint((sheet | streak) & (self.outside < muscle - 0.008), _FAT)

    def draw_mediastinum(self) -> None:
        """Draw the mediastinum, fat with strands between the lungs; `self.between` is the distance from it."""
        back = self.spine
        parts = [
            self.ellipse(0, back, 0.105, 0.10),
            self.ellipse(0, back - 0.13, 0.13, 0.08),
            self.ellipse(0.11, back + 0.09, 0.065, 0.065),  # descending aorta
            self.ellipse(0.01, 0.0, self.uniform(0.09, 0.13), 0.24),
            self.ellipse(0.01, 0.5 * self.half[1], self.uniform(0.03, 0.07), 0.6 * self.half[1]),
        ]
        if self.heart_seen:
            k = self.uniform(0.85, 1.1)
            self.heart = (self.uniform(0.07, 0.12), 0.07, 0.29 * k, 0.205 * k, self.uniform(0.3, 0.65))
            parts.append(self.ellipse(*self.heart))
        else:
            parts += [self.ellipse(-0.05, 0.14, 0.12, 0.12), self.ellipse(0.09, 0.13, 0.10, 0.11)]
        # A smooth union, without creases where the parts meet.
        smooth = 0.02
        self.between = -smooth * torch.logsumexp(-torch.stack(parts) / smooth, 0) + 0.006 * self.edge
        inside = self.outside < 0
        self.paint(inside, _MUSCLE)
        strands = (self.knots + 0.5 * self.edge).abs() < 0.25
        self.paint(inside & (self.y > back + 0.06), _FAT + 0.0012 * strands)

    def draw_lungs(self) -> None:
        """Draw air spaces, denser towards the back; vessels and bronchi; up to three nodules."""
        lung = (self.outside < -0.014 - 0.003 * self.edge) & (self.between > 0)
        air = _LUNG * (1 + self.uniform(-0.15, 0.15)) * (1 - 0.3 * self.y + 0.06 * self.slow)
        patches = 0.0016 * self.uniform(0, 1) * (self.edge - 1.2).clamp(min=0)  # emphysema
        self.paint(lung, air + 0.0004 * self.fine + 0.0002 * self.knots - patches)
        bronchi = []
        vessels = []
        for side, x in ((-1, -0.16), (1, 0.20)):
            hilum = torch.tensor([x, self.uniform(0.0, 0.04), 0.0])
            arteries = self.tree(hilum, side)
            vessels += [arteries, self.tree(hilum - torch.tensor([0, 0.03, 0]), side)]
            # A bronchus runs beside its artery.
            a, b, ra, rb, generation = arteries
            first = generation < 4
            a, b, ra, rb = a[first], b[first], ra[first].clamp(min=0.008), rb[first].clamp(min=0.007)
            beside = torch.nn.functional.normalize(torch.linalg.cross(b - a, self.normal(3).expand_as(a)), dim=1)
            bronchi.append((a + 1.8 * ra[:, None] * beside, b + 1.8 * rb[:, None] * beside, ra, rb))
        a, b, ra, rb = (torch.cat(part) for part in zip(*bronchi, strict=True))
        self.paint(lung * self.tubes(a, b, 0.9 * ra, 0.9 * rb), _MUSCLE)  # its wall
        a_v, b_v, ra_v, rb_v, _ = (torch.cat(part) for part in zip(*vessels, strict=True))
        self.paint(lung * self.tubes(a_v, b_v, ra_v, rb_v), self.blood[1])
        self.paint(lung * self.tubes(a, b, 0.65 * ra, 0.65 * rb), _AIR + 0.0005)
        for _ in range(int(self.uniform(0, 4))):
            phi, depth, r = self.uniform(-3.1, 3.1), self.uniform(-0.25, -0.03), 0.008 + 0.03 * self.uniform(0, 1) ** 3
            cx, cy = self.rim(torch.tensor([phi]), depth)[0].tolist()
            self.spot(cx, cy, r, r, _MUSCLE, rough=0.2 * r * self.knots, within=lung)
        # The fissure between the lobes.
        for side in (-1, 1):
            bend = self.y - self.uniform(-0.15, 0.1) - self.uniform(-0.3, 0.3) * (self.x.abs() - 0.3) - 0.02 * self.slow
            self.paint(lung & (self.x * side > 0) & (bend.abs() < 0.0025), 0.4 * _MUSCLE)

    def tree(self, root: Tensor, side: int) -> tuple[Tensor, ...]:
        """Return a tree of tubes in space that fills a lung: ends (n, 3), radii (n,), generation (n,)."""
        phi = torch.linspace(-1.35, 1.35, _N_ROOTS) + 0.15 * self.normal(_N_ROOTS)
        d = torch.stack((side * phi.cos(), phi.sin(), 0.35 * self.normal(_N_ROOTS)), 1)
        p = root + torch.tensor([0.01, 0.02, 0.03]) * self.normal(_N_ROOTS, 3)
        r = 0.017 * torch.exp(0.2 * self.normal(_N_ROOTS))
        length = 0.085
        tubes: list[tuple[Tensor, ...]] = []
        for k in range(_N_GENERATIONS):
            d = torch.nn.functional.normalize(d, dim=1)
            q = p + (length * torch.exp(0.3 * self.normal(len(p))))[:, None] * d
            q[:, 2] *= 0.85  # stay near the slice
            tubes.append((p, q, r, 0.9 * r, torch.full((len(p),), k)))
            # Two forks: one continues, the other turns away and is thinner.
            bend = torch.cat((0.25 * self.normal(len(d), 3), 0.7 * self.normal(len(d), 3)))
            d, p = torch.cat((d, d)) + bend, torch.cat((q, q))
            r = torch.cat((0.84 * r, 0.62 * r)).clamp(min=0.0022)
            length *= 0.92
        return tuple(torch.cat(part) for part in zip(*tubes, strict=True))

    def draw_heart(self) -> None:
        """Draw muscle around four chambers, fat in the grooves between them."""
        cx, cy, rx, ry, turn = self.heart
        c, s = math.cos(turn), math.sin(turn)
        rx, ry = rx - 0.02, ry - 0.02  # within the fat of the pericardium

        def at(u: float, v: float) -> tuple[float, float]:
            """Return the point at u and v half lengths of the heart along its axis and across it."""
            return cx + c * u * rx - s * v * ry, cy + s * u * rx + c * v * ry

        self.spot(cx, cy, rx, ry, _MUSCLE + 0.0001 * self.fine, turn, rough=0.006 * self.edge)
        left, right = self.blood
        bend = 0.010 * self.edge + 0.004 * self.knots
        for u, v, ru, rv, lean, blood in (
            (0.33, -0.24, 0.46, 0.34, 0.15, left),  # left ventricle
            (0.13, 0.57, 0.56, 0.24, -0.15, right),  # right ventricle
            (-0.60, 0.28, 0.27, 0.45, 0.1, right),  # right atrium
            (-0.42, -0.50, 0.42, 0.30, 0.3, left),  # left atrium
        ):
            self.spot(*at(u, v), ru * rx, rv * ry, blood, turn + lean, rough=bend)
        tips = torch.tensor([(*at(u, v), 0.0) for u, v in ((0.45, 1.0), (-0.35, 1.02), (-0.05, -1.0))])
        ends = torch.tensor([(*at(u, v), 0.0) for u, v in ((0.5, 0.6), (-0.3, 0.55), (-0.02, -0.65))])
        self.paint(self.tubes(tips, ends, torch.full((3,), 0.014), torch.full((3,), 0.003)), _FAT)

    def draw_great_vessels(self) -> None:
        """Draw ascending aorta, pulmonary trunk and arteries, superior vena cava, trachea or main bronchi."""
        left, right = self.blood
        r, branch = self.uniform(0.065, 0.08), self.uniform(0.028, 0.04)
        trunk = (self.uniform(0.07, 0.10), self.uniform(0.13, 0.18))
        self.paint(self.lines(trunk, (0.13, 0.04), (0.20, 0.01), radius=branch), right)
        self.paint(self.lines(trunk, (0.03, 0.045), (-0.09, 0.02), (-0.17, 0.01), radius=0.9 * branch), right)
        self.spot(*trunk, 0.065, 0.06, right, rough=0.004 * self.edge)
        self.spot(-0.045, 0.15, r, r, _FAT)
        self.spot(-0.045, 0.15, r - 0.005, r - 0.005, left, rough=0.003 * self.edge)
        self.spot(-0.135, 0.13, 0.035, 0.045, right, rough=0.005 * self.edge)
        split = self.uniform(0, 0.075)
        for side in (-1, 1) if split > 0.04 else (0,):
            self.spot(side * split, -0.06, 0.042, 0.038, _MUSCLE)
            self.spot(side * split, -0.06, 0.034, 0.030, _AIR, rough=0.002 * self.edge)
        fat = (self.image - _FAT).abs() < 0.05 * _FAT
        for _ in range(5):  # lymph nodes
            cx, cy, r = self.uniform(-0.1, 0.1), self.uniform(-0.12, 0.28), self.uniform(0.01, 0.02)
            self.spot(cx, cy, r, 0.011, _MUSCLE, self.uniform(0, 3), rough=0.003 * self.knots, within=fat)

    def draw_aorta(self) -> None:
        """Draw descending aorta, oesophagus and azygos vein, in front of the spine."""
        r, cx, cy = self.uniform(0.045, 0.06), 0.105, self.spine + 0.10
        self.spot(cx, cy, r, r, _MUSCLE, rough=0.003 * self.edge)
        self.spot(cx, cy, r - 0.007, r - 0.007, self.blood[0], rough=0.003 * self.edge)
        if self.uniform(0, 1) < 0.4:  # calcification in its wall
            phi = self.uniform(0, 6.28)
            self.spot(cx + r * math.cos(phi), cy + r * math.sin(phi), 0.012, 0.006, _CORTEX, phi + 1.57)
        oesophagus = (self.uniform(-0.01, 0.04), self.spine + 0.155)
        self.spot(*oesophagus, 0.036, 0.022, _MUSCLE, 0.3, rough=0.003 * self.knots)
        if self.uniform(0, 1) < 0.5:
            self.spot(*oesophagus, 0.010, 0.006, _AIR)
        self.spot(-0.065, self.spine + 0.10, 0.018, 0.018, self.blood[1])

    def draw_spine(self) -> None:
        """Draw a vertebra: spongy body in a shell, arch with its processes around the canal."""
        y, k = self.spine, self.uniform(0.9, 1.1)
        marrow = _SPONGY + 0.0012 * self.fine + 0.0006 * self.knots
        side, tip = self.uniform(0.15, 0.19), (self.uniform(-0.01, 0.01), y - self.uniform(0.23, 0.28) * k)
        arch = [((0.0, y - 0.18 * k), tip)]
        for q in (-k, k):
            arch += [((0.06 * q, y - 0.05), (0.06 * q, y - 0.15 * k)), ((0.06 * q, y - 0.15 * k), (0.0, y - 0.19 * k))]
            arch += [((0.06 * q, y - 0.14 * k), (0.15 * q, y - side * k))]
        ends = torch.tensor([[(*a, 0.0), (*b, 0.0)] for a, b in arch])
        for radius, value in ((0.021, _CORTEX), (0.013, marrow)):
            r = torch.full((len(arch),), radius * k)
            self.paint(self.tubes(ends[:, 0], ends[:, 1], r, 0.8 * r), value)
        self.spot(0, y, 0.090 * k, 0.075 * k, _CORTEX, rough=0.002 * self.edge)
        self.spot(0, y, 0.090 * k - 0.008, 0.075 * k - 0.008, marrow, rough=0.002 * self.edge)
        canal = (0.0, y - 0.115 * k)
        self.spot(*canal, 0.046 * k, 0.042 * k, _FAT)
        self.spot(*canal, 0.038 * k, 0.034 * k, _FLUID)
        self.spot(*canal, 0.026 * k, 0.020 * k, _MUSCLE)

    def draw_ribs(self) -> None:
        """Draw pieces of ribs, each cut obliquely; breastbone with cartilage; shoulder blades in some slices."""
        pieces: list[tuple[Tensor, float]] = []
        along = torch.tensor([-1.0, -0.33, 0.33, 1.0])
        first, count = self.uniform(-1.25, -1.1), int(self.uniform(5, 8))
        for side in (-1, 1):
            for k in range(count):
                centre = first + (k + self.uniform(-0.2, 0.2)) * (2.1 / (count - 1))
                arc = self.uniform(0.03, 0.16) * (1.3 if k == 0 else 1.0)
                points = self.rim(centre + arc * along, 0.024 + self.uniform(0.002, 0.016) * along)
                points[:, 0] *= side
                pieces.append((points, self.uniform(0.015, 0.022)))
        if not self.heart_seen and self.uniform(0, 1) < 0.6:
            tilt = self.uniform(-0.1, 0.1)
            for side in (-1, 1):
                points = self.rim(torch.tensor([-1.0, -0.8, -0.6]) + tilt, torch.tensor([0.085, 0.080, 0.11]))
                points[:, 0] *= side
                pieces.append((points, 0.013))
        top = self.half[1] + 0.02
        for side in (-1, 1):
            cartilage = [(side * x, y) for x, y in self.rim(torch.tensor([1.1, 1.3]), 0.02).tolist()]
            self.paint(self.lines(*cartilage, (side * 0.06, top), radius=0.018), _CARTILAGE)
        pieces.append((torch.tensor([[-0.04, top], [0.04, top]]), self.uniform(0.024, 0.03)))
        a = torch.cat([torch.nn.functional.pad(p[:-1], (0, 1)) for p, _ in pieces])
        b = torch.cat([torch.nn.functional.pad(p[1:], (0, 1)) for p, _ in pieces])
        r = torch.cat([torch.full((len(p) - 1,), radius) for p, radius in pieces])
        self.paint(self.tubes(a, b, r, r), _CORTEX)
        inner = (r - 0.008).clamp(min=0.004)
        self.paint(self.tubes(a, b, inner, inner), _SPONGY + 0.0012 * self.fine)
