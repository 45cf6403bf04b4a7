"""Adapters: any network as a denoiser D(x, sigma) on images (B, C, H, W), sigma in the units of x.

    Blind(N)              takes no sigma; a network for each of several noise levels
    SigmaMap(N)           takes sigma as a map, as a further channel of x or as second argument
    Rescaled(D, a, b)     was made for another value range, or wants sigma in other units than x
    PerChannel(D)         was made for one channel
    SliceWise(D)          was made for images, and x are volumes
    ComplexParts(D)       was made for real images, and x are complex
    Equivariant(D)        averaged over rotations and reflections

They nest, and are modules, so that `.to(device)` moves the wrapped network too. A wrapped denoiser gets sigma (B,), one
level for each image, where its attribute `takes_sigma_per_image` is True; else one number, a tensor without axes, where
all levels are equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from .base import check_image, check_positive, check_sigma


class _Adapter(nn.Module):
    """Base class of adapters: wraps a denoiser and inherits its sigma_range, and what it takes."""

    def __init__(self, denoiser: Callable[..., Tensor]) -> None:
        super().__init__()
        if not callable(denoiser):
            raise TypeError(f"{type(self).__name__}: denoiser must be callable D(x, sigma), got {denoiser!r}"[:390])
        self.denoiser = denoiser
        bounds: tuple[float, float] | None = getattr(denoiser, "sigma_range", None)
        if bounds is not None:
            self.sigma_range = bounds

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.denoiser!r})"

    @property
    def takes_sigma_per_image(self) -> bool:
        """Whether sigma may be (B,), one level for each image: as the wrapped denoiser says."""
        return bool(getattr(self.denoiser, "takes_sigma_per_image", False))

    @property
    def takes_any_dtype(self) -> bool:
        """Whether x may have another dtype than the weights: as the wrapped denoiser says."""
        return bool(getattr(self.denoiser, "takes_any_dtype", False))

    def _levels(self, sigma: Tensor) -> Tensor:
        """Return sigma (B,) as the wrapped denoiser takes it."""
        if self.takes_sigma_per_image or not bool((sigma == sigma[0]).all()):
            return sigma
        return sigma[0]


class Blind(nn.Module):
    """A denoiser from a network that takes no sigma, or from one network for each of several noise levels.

    D(x, sigma) = N(x). Of several networks, the one whose level is nearest to sigma on a logarithmic scale is used for
    each image, and `sigma_range` is the range of the levels: `solve` keeps to it.

    Args:
        network: called as network(x); or a dictionary from noise levels, in units of x, to networks. A network that
            was made for one level only is a dictionary with one entry.

    Raises:
        TypeError: network is neither, or a level is not a number.
        ValueError: a level is not positive and finite, or there is none.

    >>> D = Blind({0.05: lambda x: x + 1, 0.2: lambda x: x + 2})
    >>> D(torch.zeros(2, 1, 1, 1), torch.tensor([0.08, 0.12])).flatten(), D.sigma_range
    (tensor([1., 2.]), (0.05, 0.2))
    """

    takes_sigma_per_image = True

    def __init__(self, network: Callable[[Tensor], Tensor] | Mapping[float, Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        bank = dict(network) if isinstance(network, Mapping) else {math.inf: network}
        self.levels: tuple[float, ...] = ()
        if isinstance(network, Mapping):
            if not bank:
                raise ValueError("Blind: network must hold a network for one noise level or more, got none")
            bank = {check_positive("Blind", "level", level): bank[level] for level in bank}
            self.levels = tuple(sorted(bank))
            self.sigma_range = (self.levels[0], self.levels[-1])
        for i, level in enumerate(sorted(bank)):
            if not callable(bank[level]):
                raise TypeError(f"Blind: network must be callable N(x), got {bank[level]!r}"[:390])
            setattr(self, f"network_{i}", bank[level])  # so that modules are registered, and functions kept

    def __repr__(self) -> str:
        if not self.levels:
            return f"Blind({self._network(0)!r})"
        return f"Blind({ {level: self._network(i) for i, level in enumerate(self.levels)} })"

    def _network(self, i: int) -> Callable[[Tensor], Tensor]:
        return getattr(self, f"network_{i}")  # type: ignore[no-any-return]

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W) or volumes; sigma in units of x, a scalar or one value per image."""
        check_image("Blind", x.flatten(3) if isinstance(x, Tensor) and x.ndim > 4 else x)
        s = check_sigma("Blind", sigma, x, getattr(self, "sigma_range", (0.0, math.inf)))
        if len(self.levels) < 2:
            return self._network(0)(x)
        nearest = (s.log()[:, None] - s.new_tensor(self.levels).log()).abs().argmin(1)
        z = torch.empty_like(x)
        for i in torch.unique(nearest).tolist():
            z[nearest == i] = self._network(i)(x[nearest == i])
        return z


class SigmaMap(_Adapter):
    """A denoiser from a network that takes sigma as a map (B, 1, H, W): FFDNet's and DRUNet's way.

    Args:
        network: called as network(x') with x' (B, C + 1, H, W), whose last channel is the map; or as network(x, map).
        mode: "channel" or "argument", which of the two.

    Raises:
        ValueError: mode is neither.

    >>> SigmaMap(lambda x: x[:, :1] - x[:, 1:])(torch.ones(1, 1, 1, 2), 0.25)
    tensor([[[[0.7500, 0.7500]]]])
    """

    takes_sigma_per_image = True

    def __init__(self, network: Callable[..., Tensor], mode: str = "channel") -> None:
        super().__init__(network)
        if mode not in ("channel", "argument"):
            raise ValueError(f'SigmaMap: mode must be "channel" or "argument", got {mode!r:.60}')
        self.mode = mode

    def __repr__(self) -> str:
        return f"SigmaMap({self.denoiser!r}, mode={self.mode!r})"

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W); sigma in units of x, a scalar or one value per image."""
        check_image("SigmaMap", x)
        level = check_sigma("SigmaMap", sigma, x)[:, None, None, None].expand(-1, 1, *x.shape[2:])
        return self.denoiser(x, level) if self.mode == "argument" else self.denoiser(torch.cat([x, level], 1))


class Rescaled(_Adapter):
    """A denoiser made for images in [a, b], used on images in [low, high].

    D(x, sigma) = low + s (D_ab(a + (x - low)/s, k sigma/s) - a) with s = (high - low)/(b - a) and k = `sigma_scale`.
    Unit-free denoisers (MLPatch "gray", TV) need no such adapter.

    Args:
        denoiser: called as denoiser(x, sigma), x in [a, b].
        low, high: the range of the user's images, in their units.
        made_for: (a, b), the range of the images that the denoiser was made for.
        sigma_scale: k, where the denoiser wants sigma in other units than its images.

    Raises:
        ValueError: a range is empty, or sigma_scale is not positive.

    For images in [0, 1], a network made for images and sigma in 0 to 255, and one made for images in [0, 1] that wants
    sigma in 0 to 255:

    >>> def network(x, sigma):
    ...     return x - sigma
    >>> x = torch.tensor([[[[0.5]]]])
    >>> Rescaled(network, 0, 1, made_for=(0, 255))(x, 0.25)  # (127.5 - 63.75)/255
    tensor([[[[0.2500]]]])
    >>> Rescaled(network, 0, 1, sigma_scale=255)(x, 0.25)  # 0.5 - 63.75
    tensor([[[[-63.2500]]]])
    """

    def __init__(
        self,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        low: float,
        high: float,
        *,
        made_for: tuple[float, float] = (0.0, 1.0),
        sigma_scale: float = 1.0,
    ) -> None:
        super().__init__(denoiser)
        if not high > low:
            raise ValueError(f"Rescaled: high must be above low, got low={low}, high={high}")
        a, b = made_for
        if not b > a:
            raise ValueError(f"Rescaled: made_for must be (a, b) with b above a, got {made_for}")
        self.low, self.high, self.made_for = low, high, (a, b)
        self.sigma_scale = check_positive("Rescaled", "sigma_scale", sigma_scale)
        self._scale = (high - low) / (b - a)
        self._zero = low - a * self._scale  # what the denoiser sees as 0
        if hasattr(self, "sigma_range"):
            least, largest = self.sigma_range
            self.sigma_range = (least * self._scale / self.sigma_scale, largest * self._scale / self.sigma_scale)

    def __repr__(self) -> str:
        changed = f", made_for={self.made_for}" if self.made_for != (0, 1) else ""
        changed += f", sigma_scale={self.sigma_scale}" if self.sigma_scale != 1 else ""
        return f"Rescaled({self.denoiser!r}, {self.low}, {self.high}{changed})"

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W) in [low, high]; sigma in the same units."""
        check_image("Rescaled", x)
        s = check_sigma("Rescaled", sigma, x) / self._scale
        z = self.denoiser((x - self._zero) / self._scale, self._levels(s * self.sigma_scale))
        return self._zero + self._scale * z


class PerChannel(_Adapter):
    """A denoiser for one channel, used on images of any number of channels, one by one.

    Args:
        denoiser: called as denoiser(x, sigma), x (B, 1, H, W).
    """

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W); sigma in units of x, a scalar or one value per image."""
        check_image("PerChannel", x)
        s = check_sigma("PerChannel", sigma, x)
        channels = x.shape[1]
        planes = self.denoiser(x.reshape(-1, 1, *x.shape[2:]), self._levels(s.repeat_interleave(channels)))
        return planes.reshape(x.shape)


class Equivariant(_Adapter):
    """A denoiser averaged over the eight rotations by 90 degrees and reflections: exactly equivariant to them.

    D(x) = 1/8 sum_g g^-1 D0(g x) over the dihedral group, at eight times the cost. Known as self-ensemble (Timofte,
    Rothe and Van Gool, CVPR 2016); it also lowers the error a little.

    Args:
        denoiser: called as denoiser(x, sigma) on images of either orientation; `functools.partial` sets a stride.
    """

    def __init__(self, denoiser: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(denoiser)
        if hasattr(denoiser, "channels"):
            self.channels = denoiser.channels

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W); sigma in units of x, a scalar or one value per image."""
        check_image("Equivariant", x)
        s = self._levels(check_sigma("Equivariant", sigma, x))
        total = torch.zeros_like(x)
        for turns in range(4):
            for flip in (False, True):
                y = torch.rot90(x, turns, (2, 3))
                z = self.denoiser(y.flip(3) if flip else y, s)
                total = total + torch.rot90(z.flip(3) if flip else z, -turns, (2, 3))
        return total / 8


class SliceWise(_Adapter):
    """A denoiser of images, used on volumes (B, C, nx, ny, nz), slice by slice.

    D(x) is the mean, over the given axes, of D0 applied to all slices across that axis, each at the volume's sigma.
    With one axis slices are independent; all three, at three times the cost, make neighbouring slices agree.

    Args:
        denoiser: called as denoiser(x, sigma) on batches of slices (B n, C, H, W).
        axes: the axes of the volume that slices lie across, 0 for x, 1 for y, 2 for z.
    """

    def __init__(self, denoiser: Callable[[Tensor, Tensor], Tensor], axes: Sequence[int] = (2,)) -> None:
        super().__init__(denoiser)
        self.axes = tuple(axes)
        if not self.axes or len(set(self.axes)) < len(self.axes) or not set(self.axes) <= {0, 1, 2}:
            raise ValueError(f"SliceWise: axes must be one or more of 0, 1 and 2, each once, got {self.axes}")

    def __repr__(self) -> str:
        return f"SliceWise({self.denoiser!r}, axes={self.axes})"

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, nx, ny, nz); sigma in units of x, a scalar or one value per volume."""
        if isinstance(x, Tensor) and x.ndim != 5:
            raise ValueError(f"SliceWise: x must be volumes (B, C, nx, ny, nz), got {tuple(x.shape)}")
        check_image("SliceWise", x.flatten(3) if isinstance(x, Tensor) else x)
        s, total = check_sigma("SliceWise", sigma, x), torch.zeros_like(x)
        for axis in self.axes:
            slices = x.movedim(2 + axis, 1)  # (B, n, C, H, W)
            z = self.denoiser(slices.flatten(0, 1), self._levels(s.repeat_interleave(slices.shape[1])))
            total = total + z.reshape(slices.shape).movedim(1, 2 + axis)
        return total / len(self.axes)


class ComplexParts(_Adapter):
    """A denoiser of real images, used on complex ones.

    "real_imag":        D(x, sigma) = D0(Re x, sigma/sqrt(2)) + i D0(Im x, sigma/sqrt(2))
    "magnitude_phase":  D(x, sigma) = max(D0(|x|, sigma/sqrt(2)), 0) exp(i arg x)

    sigma is the standard deviation of complex noise, E|n|^2 = sigma^2, as `solve` counts it; each of its parts has
    sigma/sqrt(2), and so has |x| where it is well above sigma; deepinv's ComplexDenoiserWrapper hands on sigma itself.
    The phase of each pixel is kept: it wraps around, so that no denoiser of images suits it, and it is 0 where x = 0;
    hence "real_imag" where measurements leave the phase open. Real and imaginary parts are negative in places: a
    network for [0, 1] may want `ComplexParts(Rescaled(D, -1, 1))`.

    Args:
        denoiser: called as denoiser(x, sigma) on real images; on Re x and Im x together, as one batch (2B, C, H, W).
        mode: "real_imag" or "magnitude_phase".

    Raises:
        ValueError: mode is neither.

    >>> ComplexParts(lambda x, sigma: x / 2)(torch.tensor([[[[4 - 2j]]]]), 0.1)
    tensor([[[[2.-1.j]]]])
    """

    def __init__(self, denoiser: Callable[[Tensor, Tensor], Tensor], mode: str = "real_imag") -> None:
        super().__init__(denoiser)
        if mode not in ("real_imag", "magnitude_phase"):
            raise ValueError(f'ComplexParts: mode must be "real_imag" or "magnitude_phase", got {mode!r:.60}')
        self.mode = mode
        if hasattr(self, "sigma_range"):
            least, largest = self.sigma_range
            self.sigma_range = (least * math.sqrt(2), largest * math.sqrt(2))

    def __repr__(self) -> str:
        return f"ComplexParts({self.denoiser!r}, mode={self.mode!r})"

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise complex x (B, C, H, W) with noise of E|n|^2 = sigma^2; sigma a scalar or one value per image."""
        if isinstance(x, Tensor) and not x.is_complex():
            raise TypeError(f"ComplexParts: x must be complex, got {x.dtype}; use the wrapped denoiser on real images")
        check_image("ComplexParts", x.real if isinstance(x, Tensor) else x)
        s = check_sigma("ComplexParts", sigma, x.real) / math.sqrt(2)
        if self.mode == "magnitude_phase":
            magnitude = self.denoiser(x.abs(), self._levels(s)).to(s.dtype)
            return torch.polar(magnitude.clamp(min=0), x.angle())
        real, imaginary = self.denoiser(torch.cat([x.real, x.imag]), self._levels(s.repeat(2))).to(s.dtype).chunk(2)
        return torch.complex(real, imaginary)
