"""One small problem for every physics of deepinv: how it is made, what it measures, which denoiser fits.

A row that works is `solve`d with the noise level of its own `noise_model`; a row that cannot work names the word that
the refusal must hold. Pictures are crops of scikit-image's, averaged over 4 x 4 pixels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import skimage.data
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from denoisers import ComplexParts, MLPatch, PerChannel, SliceWise

with warnings.catch_warnings():  # what deepinv warns of at import is not ours to fix
    warnings.simplefilter("ignore")
    import deepinv

P = deepinv.physics
N = 64
NOISE = 0.03


@dataclass(frozen=True)
class Row:
    """A physics and a problem for it.

    Attributes:
        name: the class, and the variant in brackets.
        make: the physics, with its noise model where it is constructed with one.
        image: the truth.
        denoiser: D(x, sigma), made when it is needed.
        refused: a word that the message must hold; empty where the row works.
        warned: a word that the warning must hold; empty where there is none.
    """

    name: str
    make: Callable[[], Any]
    image: Callable[[], Tensor]
    denoiser: Callable[[], Any]
    refused: str = ""
    warned: str = ""

    @property
    def cls(self) -> str:
        """Name of the class in `deepinv.physics`."""
        return self.name.partition(" ")[0]


# ---------------------------------------------------------------- pictures


def gray(n: int = N) -> Tensor:
    """A crop of the cameraman, (1, 1, n, n) in [0, 1]."""
    pixels = torch.from_numpy(skimage.data.camera()).float()[None, None] / 255
    return avg_pool2d(pixels, 4)[..., 14 : 14 + n, 44 : 44 + n].contiguous()


def color(n: int = N) -> Tensor:
    """A crop of the astronaut, (1, 3, n, n) in [0, 1]."""
    pixels = torch.from_numpy(skimage.data.astronaut()).float().movedim(-1, 0)[None] / 255
    return avg_pool2d(pixels, 4)[..., :n, 24 : 24 + n].contiguous()


def complex_image(n: int = N) -> Tensor:
    """The cameraman with the astronaut's red channel as phase, from 0 to 1 rad: (1, 1, n, n), complex64."""
    return torch.polar(gray(n), color(n)[:, :1])


def as_channels(x: Tensor) -> Tensor:
    """Return a complex image (B, 1, ...) as real and imaginary part (B, 2, ...), as deepinv's MRI has it."""
    return torch.cat([x.real, x.imag], 1)


def slices(x: Tensor, n: int = 4) -> Tensor:
    """A volume (1, C, n, H, W) whose slices are the image, brighter from one to the next."""
    factors = torch.linspace(0.6, 1, n).view(1, 1, n, 1, 1)
    return x[:, :, None] * factors


def abundances(n: int = 32) -> Tensor:
    """Fractions of four materials that add up to 1: (1, 4, n, n)."""
    parts = torch.cat([gray(2 * n), color(2 * n)], 1)[..., :n, :n] + 0.05
    return parts / parts.sum(1, keepdim=True)


# ---------------------------------------------------------------- denoisers


def mlpatch() -> Any:
    """MLPatch for one channel."""
    return MLPatch.from_pretrained("gray")


def colored() -> Any:
    """MLPatch for three channels."""
    return MLPatch.from_pretrained("color")


def per_channel() -> Any:
    """MLPatch on every channel."""
    return PerChannel(mlpatch())


def parts() -> Any:
    """MLPatch on the real and the imaginary part of a complex image."""
    return ComplexParts(mlpatch())


def frames() -> Any:
    """MLPatch on every channel of every slice (B, C, n, H, W)."""
    return SliceWise(per_channel(), axes=(0,))


# ---------------------------------------------------------------- parameters


def rng(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def noise() -> Any:
    """The noise model of most rows."""
    return P.GaussianNoise(NOISE)


def noisy(physics: Any) -> Any:
    """Set the noise model of a physics whose constructor takes none."""
    physics.set_noise_model(noise())
    return physics


def kernel() -> Tensor:
    """A Gaussian that is wider along one diagonal, (1, 1, h, w)."""
    return P.functional.gaussian_blur(sigma=(1.5, 0.8), angle=30.0)


def mask(*shape: int, keep: float = 0.5, seed: int = 0) -> Tensor:
    """Ones and zeros."""
    return (torch.rand(shape, generator=rng(seed)) < keep).float()


def kspace_lines(n: int = N, centre: int = 10, every: int = 3) -> Tensor:
    """Every third column and the central ones, (n, n), the zero frequency in the middle."""
    columns = torch.zeros(n)
    columns[::every] = 1
    columns[n // 2 - centre // 2 : n // 2 + centre // 2] = 1
    return columns.expand(n, n)


def moving_lines(n: int = N, times: int = 4) -> Tensor:
    """Such columns, shifted from frame to frame: (times, n, n)."""
    return torch.stack([kspace_lines(n, every=3).roll(t, -1).maximum(kspace_lines(n, every=n)) for t in range(times)])


def coils(*shape: int, n_coils: int = 4) -> Tensor:
    """Smooth complex sensitivities (1, n_coils, ...) whose squares add up to 1."""
    n = shape[-1]
    y, x = torch.meshgrid(torch.linspace(-1, 1, n), torch.linspace(-1, 1, n), indexing="ij")
    turns = [2 * math.pi * c / n_coils for c in range(n_coils)]
    maps = torch.stack(
        [torch.polar(torch.exp(-((x - math.cos(t)) ** 2) - (y - math.sin(t)) ** 2), t + 0.5 * x) for t in turns]
    )
    maps = maps / maps.abs().square().sum(0).sqrt()
    return maps.view(1, n_coils, *(1,) * (len(shape) - 2), n, n).expand(1, n_coils, *shape).contiguous()


def multipliers(n: int = N) -> Tensor:
    """Two weights that go over into each other from left to right, (1, 1, 2, n, n)."""
    ramp = torch.linspace(0, 1, n).expand(n, n)
    return torch.stack([ramp, 1 - ramp])[None, None]


def two_kernels() -> Tensor:
    """A narrow and a wide Gaussian, (1, 1, 2, 9, 9)."""
    line = torch.arange(-4.0, 5.0)
    profiles = torch.stack([torch.exp(-((line / width) ** 2) / 2) for width in (0.6, 1.6)])
    h = profiles[:, :, None] * profiles[:, None, :]
    return (h / h.sum((1, 2), keepdim=True))[None, None]


def tiled() -> Any:
    """A blur that goes from narrow to wide over tiles of 32 pixels."""
    size, stride = (32, 32), (16, 16)
    count = math.prod(P.TiledSpaceVaryingBlur.num_filters(img_size=(N, N), patch_size=size, stride=stride))
    h = two_kernels()
    ramp = torch.linspace(0, 1, count).view(1, 1, count, 1, 1)
    filters = ramp * h[:, :, :1] + (1 - ramp) * h[:, :, 1:]
    return P.TiledSpaceVaryingBlur(filters=filters, patch_size=size, stride=stride, noise_model=noise())


def ultrasound() -> Any:
    """A linear array of 32 elements, three plane waves."""
    wavelength = 1540.0 / 5e6
    physics = P.UltrasoundPlaneWave(
        img_size=(N, N), angles=torch.deg2rad(torch.linspace(-16.0, 16.0, 3)),
        element_positions=torch.stack([(torch.arange(32) - 15.5) * 3e-4, torch.zeros(32)], -1),
        n_samples=512, sampling_frequency=20e6, sound_speed=1540.0, pixel_size=(wavelength / 2, wavelength / 2),
        normalize=True,
    )  # fmt: skip
    return noisy(physics)


def scattering() -> Any:
    """Plane waves from 32 directions, and as many receivers on a circle."""
    sources, receivers = P.scattering.circular_sensors(32, radius=1.0)
    return P.Scattering(
        img_width=32, background_wavenumber=10 * math.pi, wave_type="plane_wave", transmitters=sources,
        receivers=receivers, dtype=torch.complex64,
    )  # fmt: skip


def born() -> Any:
    """The Born operator of that problem: scattering by a weak object."""
    full = scattering()
    grid = full.get_img_grid(device="cpu", dtype=torch.complex64)
    physics = P.scattering.BornOperator(
        full.incident_field, full.receivers, *grid, full.wavenumber, full.pixel_area, 32
    )
    return noisy(physics)


def virtual() -> Any:
    """Inpainting of the image turned by 90 degrees."""
    transform = deepinv.transform.Rotate(n_trans=1, multiples=90, positive=True)
    return P.VirtualLinearPhysics(
        physics=P.Inpainting((1, N, N), mask=mask(1, N, N), noise_model=noise()),
        transform=transform,
        g_params={"theta": torch.tensor([90.0])},
    )


def from_functions() -> Any:
    """deepinv's own way of two functions."""
    return P.LinearPhysics(
        A=lambda x: (x + x.roll(1, -1)) / 2, A_adjoint=lambda y: (y + y.roll(-1, -1)) / 2, noise_model=noise()
    )


def inpainting(channels: int = 1, seed: int = 0) -> Any:
    """Half the pixels."""
    return P.Inpainting((channels, N, N), mask=mask(1, N, N, seed=seed), noise_model=noise())


def deblurring() -> Any:
    """A circular blur."""
    return P.BlurFFT((1, N, N), filter=kernel(), noise_model=noise())


def binning(**options: Any) -> Any:
    """Every second pixel of a smoothed image."""
    return P.Downsampling(img_size=(1, N, N), noise_model=noise(), **{"factor": 2, "filter": "gaussian"} | options)


def tomography(**options: Any) -> Any:
    """32 views over half a turn; deepinv's norm is 1 here, so that views and noise are small numbers."""
    return P.Tomography(angles=32, img_width=N, normalize=True, noise_model=P.GaussianNoise(0.01), **options)


# ---------------------------------------------------------------- rows


def blurs() -> list[Row]:
    """Blurs and changes of the grid."""
    boundaries = ("valid", "circular", "reflect", "replicate", "constant")
    rows = [
        Row(f"Blur ({b})", lambda b=b: P.Blur(kernel(), padding=b, noise_model=noise()), gray, mlpatch)
        for b in boundaries
    ]
    volume_kernel = kernel()[:, :, None] * torch.tensor([0.25, 0.5, 0.25]).view(1, 1, 3, 1, 1)
    return [
        *rows,
        Row("Blur (3-D)", lambda: P.Blur(volume_kernel, padding="circular", noise_model=noise()),
            lambda: slices(gray(32)), frames),
        Row("BlurFFT", deblurring, gray, mlpatch),
        Row("BlurFFT (colour)", lambda: P.BlurFFT((3, N, N), filter=kernel(), noise_model=noise()), color, colored),
        Row("SpaceVaryingBlur", lambda: P.SpaceVaryingBlur(two_kernels(), multipliers(), padding="circular",
            noise_model=noise()), gray, mlpatch),
        Row("TiledSpaceVaryingBlur", tiled, gray, mlpatch),
        Row("Downsampling (gaussian)", binning, gray, mlpatch),
        Row("Downsampling (bicubic, x4, colour)", lambda: P.Downsampling((3, N, N), filter="bicubic", factor=4,
            noise_model=noise()), color, colored),
        Row("Downsampling (no filter)", lambda: binning(filter=None), gray, mlpatch),
        Row("DownsamplingMatlab", lambda: P.DownsamplingMatlab(factor=2, noise_model=noise()), gray, mlpatch),
        Row("Upsampling", lambda: P.Upsampling((1, 2 * N, 2 * N), filter="bilinear", factor=2, noise_model=noise()),
            gray, mlpatch),
    ]  # fmt: skip


def masks() -> list[Row]:
    """What measures pixels and colours."""
    return [
        Row("Denoising", lambda: P.Denoising(P.GaussianNoise(0.05)), gray, mlpatch),
        Row("Inpainting", inpainting, gray, mlpatch),
        Row("Inpainting (colour)", lambda: inpainting(3), color, colored),
        Row("Demosaicing", lambda: P.Demosaicing((3, N, N), noise_model=noise()), color, colored),
        Row("Decolorize", lambda: P.Decolorize(noise_model=noise()), color, colored),
        Row("Pansharpen", lambda: P.Pansharpen((3, N, N), noise_color=noise(), noise_gray=noise()), color, colored),
        Row("HyperSpectralUnmixing", lambda: P.HyperSpectralUnmixing(torch.rand(4, 32, generator=rng()),
            noise_model=noise()), abundances, per_channel),
        Row("CompressiveSpectralImaging (ss)", lambda: P.CompressiveSpectralImaging((3, 32, 32), mode="ss",
            mask=mask(1, 3, 32, 32), noise_model=noise()), lambda: color(32), colored, refused="A_adjoint"),
        Row("CompressiveSpectralImaging (sd)", lambda: P.CompressiveSpectralImaging((3, 32, 32), mode="sd",
            mask=mask(1, 3, 32, 32), noise_model=noise()), lambda: color(32), colored, refused="A_adjoint"),
    ]  # fmt: skip


def transforms() -> list[Row]:
    """Random measurements, k-space, projections, waves."""
    lines = kspace_lines()
    return [
        Row("CompressedSensing", lambda: P.CompressedSensing(m=500, img_size=(1, 32, 32), rng=rng(),
            noise_model=noise()), lambda: gray(32), mlpatch),
        Row("CompressedSensing (complex)", lambda: P.CompressedSensing(m=700, img_size=(1, 32, 32), rng=rng(),
            dtype=torch.cfloat, noise_model=noise()), lambda: complex_image(32), parts),
        Row("StructuredRandom", lambda: P.StructuredRandom((1, N, N), (1, 57, 57), rng=rng(), noise_model=noise()),
            gray, mlpatch),
        Row("SinglePixelCamera (fast)", lambda: P.SinglePixelCamera(m=1500, img_size=(1, N, N), fast=True,
            noise_model=noise()), gray, mlpatch),
        Row("SinglePixelCamera (matrix)", lambda: P.SinglePixelCamera(m=500, img_size=(1, 32, 32), fast=False,
            rng=rng(), noise_model=noise()), lambda: gray(32), mlpatch),
        Row("MRI", lambda: P.MRI(mask=lines, noise_model=noise()), lambda: as_channels(complex_image()), per_channel),
        Row("MRI (3-D)", lambda: P.MRI(mask=kspace_lines(32).expand(4, 32, 32), three_d=True, noise_model=noise()),
            lambda: slices(as_channels(complex_image(32))), frames),
        Row("MultiCoilMRI", lambda: P.MultiCoilMRI(mask=lines, coil_maps=coils(N, N), noise_model=noise()),
            lambda: as_channels(complex_image()), per_channel),
        Row("MultiCoilMRI (3-D)", lambda: P.MultiCoilMRI(mask=kspace_lines(32).expand(4, 32, 32),
            coil_maps=coils(4, 32, 32), three_d=True, noise_model=noise()),
            lambda: slices(as_channels(complex_image(32))), frames),
        Row("DynamicMRI", lambda: P.DynamicMRI(mask=moving_lines(32), noise_model=noise()),
            lambda: slices(as_channels(complex_image(32))), frames),
        Row("SequentialMRI", lambda: P.SequentialMRI(mask=moving_lines(), noise_model=noise()),
            lambda: as_channels(complex_image()), per_channel, refused="A_adjoint"),
        Row("Tomography", tomography, gray, mlpatch),
        Row("Tomography (circle)", lambda: tomography(circle=True), lambda: gray() * disc(), mlpatch),
        Row("Tomography (fan beam)", lambda: tomography(fan_beam=True), gray, mlpatch),
        Row("Tomography (adjoint_via_backprop=False)", lambda: tomography(adjoint_via_backprop=False), gray, mlpatch,
            refused="A_adjoint"),
        Row("UltrasoundPlaneWave", ultrasound, gray, mlpatch),
        Row("PtychographyLinearOperator", lambda: P.PtychographyLinearOperator((1, N, N), noise_model=noise()),
            complex_image, parts),
        Row("BornOperator", born, lambda: complex_image(32), parts),
    ]  # fmt: skip


def combinations() -> list[Row]:
    """What is made of other physics."""
    return [
        Row("LinearPhysics (two functions)", from_functions, gray, mlpatch),
        Row("StackedLinearPhysics", lambda: inpainting().stack(deblurring()), gray, mlpatch),
        # With the noise's own seed the mask would keep what the noise left small.
        Row("ComposedLinearPhysics", lambda: inpainting(seed=1) * deblurring(), gray, mlpatch),
        Row("VirtualLinearPhysics", virtual, gray, mlpatch),
        Row("PhysicsCropper", lambda: P.PhysicsCropper(P.Inpainting((1, N - 4, N - 4), mask=mask(1, N - 4, N - 4),
            noise_model=noise()), (4, 4)), gray, mlpatch),
        Row("LinearPhysicsMultiScaler", lambda: P.LinearPhysicsMultiScaler(deblurring(), (1, N, N), factors=[2]),
            gray, mlpatch),
        Row("BlurMultiScaler", lambda: P.BlurMultiScaler(P.Blur(kernel(), padding="circular", noise_model=noise()),
            (1, N, N), factors=[2]), gray, mlpatch, warned="A_adjoint_A"),
        Row("BlurFFTMultiScaler", lambda: P.BlurFFTMultiScaler(deblurring(), (1, N, N), factors=[2]), gray, mlpatch,
            warned="A_adjoint_A"),
        Row("InpaintingMultiScaler", lambda: P.InpaintingMultiScaler(inpainting(), (1, N, N), factors=[2]), gray,
            mlpatch, warned="A_adjoint_A"),
    ]  # fmt: skip


def nonlinear() -> list[Row]:
    """What has no adjoint."""
    return [
        Row("Haze", P.Haze, lambda: [gray(), gray(), torch.ones(1)], mlpatch, refused="linear"),
        Row("SinglePhotonLidar", P.SinglePhotonLidar, color, colored, refused="linear"),
        Row("SpatialUnwrapping", P.SpatialUnwrapping, gray, mlpatch, refused="linear"),
        Row("Scattering", scattering, lambda: complex_image(32), parts, refused="linear"),
        Row("PhaseRetrieval", lambda: P.PhaseRetrieval(P.CompressedSensing(500, (1, 16, 16), dtype=torch.cfloat)),
            lambda: complex_image(16), parts, refused="linear"),
        Row("RandomPhaseRetrieval", lambda: P.RandomPhaseRetrieval(500, (1, 16, 16)), lambda: complex_image(16),
            parts, refused="linear"),
        Row("StructuredRandomPhaseRetrieval", lambda: P.StructuredRandomPhaseRetrieval((1, 16, 16), (1, 16, 16), 2),
            lambda: complex_image(16), parts, refused="linear"),
        Row("Ptychography", lambda: P.Ptychography((1, N, N)), complex_image, parts, refused="linear"),
        Row("PhysicsMultiScaler", lambda: P.PhysicsMultiScaler(P.SpatialUnwrapping(), (1, N, N), factors=[2]), gray,
            mlpatch, refused="linear"),
        Row("StackedPhysics", lambda: inpainting().stack(P.SpatialUnwrapping()), gray, mlpatch, refused="linear"),
        Row("ComposedPhysics", lambda: inpainting() * P.SpatialUnwrapping(), gray, mlpatch, refused="linear"),
    ]  # fmt: skip


def disc(n: int = N) -> Tensor:
    """1 within the inscribed circle, 0 outside."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, n), torch.linspace(-1, 1, n), indexing="ij")
    return ((x**2 + y**2) < 0.9).float()


def rows() -> list[Row]:
    """All of them."""
    return [*masks(), *blurs(), *transforms(), *combinations(), *nonlinear()]
