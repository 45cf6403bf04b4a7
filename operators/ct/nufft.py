"""Non-uniform Fourier transforms in two dimensions, differentiable in the image, the strengths and the points.

    type 2:  f_j = sum_n x_n exp(-i k_j . n)        image (N, H, W) -> values (N, M)
    type 1:  x_n = sum_j f_j exp(+i k_j . n)        values (N, M) -> image (N, H, W), the adjoint of type 2

with n = (row - H//2, column - W//2) and points k_j = (k_row, k_column) in radians per pixel. finufft computes the sums
on the CPU (Barnett, Magland and af Klinteberg, SIAM J. Sci. Comput. 41 (2019) C479), cufinufft on CUDA where it is
installed, and elsewhere an implementation in torch (Kaiser-Bessel gridding; Fessler and Sutton, IEEE Trans. Signal
Process. 51 (2003) 560).
"""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TOLERANCE = {torch.complex64: 3e-5, torch.complex128: 1e-12}
"""Requested relative accuracy by dtype. Types 1 and 2 are adjoint to rounding at any tolerance."""
UPSAMPLING = {torch.complex64: 1.25, torch.complex128: 2.0}
"""Upsampling of finufft's grid by dtype. In single precision the rounding of the points alone costs 2e-5 at 512 pixels,
so that the small factor, six times faster, is accurate enough."""
_MAX_PLANS = 8
"""Number of plans kept by a NUFFT; a plan holds an upsampled grid of up to 4 H W complex numbers per thread."""

_Plan = Callable[[Tensor], Tensor]


class NUFFT:
    """Both transforms for one set of points; the libraries' plans are kept between calls.

    Args:
        points: (M, 2), radians per pixel: (k_row, k_column) of every point; any real number.
        shape: (H, W) of the images.
        backend: "finufft", "cufinufft" or "torch"; None chooses by the device of the points.

    Both methods take complex64 or complex128. Given `points` (of the same values) that require grad, they
    propagate gradients to them, and gradients of gradients.
    """

    def __init__(self, points: Tensor, shape: tuple[int, int], *, backend: str | None = None) -> None:
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"NUFFT: points must be (M, 2), got {tuple(points.shape)}")
        if backend is None:
            backend = {"cpu": "finufft", "cuda": "cufinufft"}.get(points.device.type, "torch")
            if backend == "cufinufft" and importlib.util.find_spec("cufinufft") is None:
                backend = "torch"
        if backend not in _BACKENDS:
            raise ValueError(f"NUFFT: backend must be one of {sorted(_BACKENDS)}, got {backend!r}")
        # Every transform is 2 pi periodic in the points: bring them into [-pi, pi), where all backends are accurate.
        self.points = torch.remainder(points.detach().double() + math.pi, 2 * math.pi) - math.pi
        self.shape = shape
        self.backend = backend
        self._plans: dict[tuple[object, ...], _Plan] = {}
        self._lock = threading.Lock()  # a plan owns its work arrays

    def type2(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """Evaluate the Fourier series of images (N, H, W) at the points: (N, M)."""
        return _Type2.apply(x, self.points if points is None else points, self)  # type: ignore[no-any-return, no-untyped-call]

    def type1(self, f: Tensor, points: Tensor | None = None) -> Tensor:
        """Sum the plane waves of the points with strengths (N, M): images (N, H, W)."""
        return _Type1.apply(f, self.points if points is None else points, self)  # type: ignore[no-any-return, no-untyped-call]

    def execute(self, kind: int, data: Tensor) -> Tensor:
        """Run the transform of type 1 or 2 without autograd, making its plan at the first use."""
        n_trans = data.shape[0]
        if n_trans == 0:
            return data.new_zeros((0, *self.shape) if kind == 1 else (0, self.points.shape[0]))
        key = (kind, data.dtype, n_trans, torch.get_num_threads())
        with self._lock:
            if key not in self._plans:
                if len(self._plans) >= _MAX_PLANS:
                    del self._plans[next(iter(self._plans))]
                self._plans[key] = _BACKENDS[self.backend](kind, self.points, self.shape, n_trans, data.dtype)
            return self._plans[key](data.detach().resolve_conj().contiguous())


def _points_gradient(x: Tensor, weights: Tensor, points: Tensor, nufft: NUFFT) -> Tensor:
    """Return sum over images of Re(conj(weights_j) d type2(x)_j / d k_j), (M, 2): two more transforms of type 2."""
    height, width = nufft.shape
    rows = torch.arange(height, device=x.device, dtype=x.real.dtype)[:, None] - height // 2
    columns = torch.arange(width, device=x.device, dtype=x.real.dtype) - width // 2
    slopes = [_Type2.apply(-1j * n * x, points, nufft) for n in (rows, columns)]  # type: ignore[no-untyped-call]
    return torch.stack([(weights.conj() * slope).real.sum(0) for slope in slopes], 1).to(points.dtype)


class _Type2(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, points: Tensor, nufft: NUFFT) -> Tensor:
        return nufft.execute(2, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, NUFFT], output: Tensor) -> None:
        x, points, ctx.nufft = inputs
        ctx.save_for_backward(x if points.requires_grad else None, points)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        x, points = ctx.saved_tensors
        grad_x = _Type1.apply(grad, points, ctx.nufft) if ctx.needs_input_grad[0] else None  # type: ignore[no-untyped-call]
        grad_points = _points_gradient(x, grad, points, ctx.nufft) if ctx.needs_input_grad[1] else None
        return grad_x, grad_points, None


class _Type1(torch.autograd.Function):
    @staticmethod
    def forward(f: Tensor, points: Tensor, nufft: NUFFT) -> Tensor:
        return nufft.execute(1, f)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, NUFFT], output: Tensor) -> None:
        f, points, ctx.nufft = inputs
        ctx.save_for_backward(f if points.requires_grad else None, points)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        f, points = ctx.saved_tensors
        grad_f = _Type2.apply(grad, points, ctx.nufft) if ctx.needs_input_grad[0] else None  # type: ignore[no-untyped-call]
        # <grad, type1(f)> = <type2(grad), f>: the roles of image and strengths swap.
        grad_points = _points_gradient(grad, f, points, ctx.nufft) if ctx.needs_input_grad[1] else None
        return grad_f, grad_points, None


def _finufft_plan(kind: int, points: Tensor, shape: tuple[int, int], n_trans: int, dtype: torch.dtype) -> _Plan:
    import finufft

    name = "complex64" if dtype == torch.complex64 else "complex128"
    options = {"nthreads": torch.get_num_threads(), "upsampfac": UPSAMPLING[dtype], "showwarn": 0}
    plan = finufft.Plan(kind, shape, n_trans, TOLERANCE[dtype], 1 if kind == 1 else -1, dtype=name, **options)
    k = points.T.to(dtype.to_real()).contiguous().numpy()
    plan.setpts(k[0], k[1])
    size = (n_trans, *shape) if kind == 1 else (n_trans, points.shape[0])

    def execute(data: Tensor) -> Tensor:
        out = torch.empty(size, dtype=dtype)
        plan.execute((data[0] if n_trans == 1 else data).numpy(), (out[0] if n_trans == 1 else out).numpy())
        return out

    return execute


def _cufinufft_plan(kind: int, points: Tensor, shape: tuple[int, int], n_trans: int, dtype: torch.dtype) -> _Plan:
    import cufinufft

    name = "complex64" if dtype == torch.complex64 else "complex128"
    device = points.device.index or 0
    plan = cufinufft.Plan(kind, shape, n_trans, TOLERANCE[dtype], 1 if kind == 1 else -1, name, gpu_device_id=device)
    k = points.T.to(dtype.to_real()).contiguous()
    plan.setpts(k[0], k[1])
    size = (n_trans, *shape) if kind == 1 else (n_trans, points.shape[0])

    def execute(data: Tensor) -> Tensor:
        out = torch.empty(size, dtype=dtype, device=data.device)
        plan.execute(data[0] if n_trans == 1 else data, out[0] if n_trans == 1 else out)
        return out

    return execute


def _torch_plan(kind: int, points: Tensor, shape: tuple[int, int], n_trans: int, dtype: torch.dtype) -> _Plan:
    """Gridding on a grid of twice the size with a Kaiser-Bessel kernel of `width` cells.

    Poisson's summation formula gives, for the kernel phi(t) of Fourier transform phihat and u = G k/2 pi,
    exp(-i k n) = sum_l phi(u - l) exp(-2 pi i l n/G) / phihat(2 pi n/G) to within the kernel's aliases.
    """
    real = dtype.to_real()
    width = math.ceil(-math.log10(TOLERANCE[dtype])) + 2
    beta = math.pi * math.sqrt(0.5625 * width**2 - 0.8)  # Beatty et al., IEEE TMI 24 (2005) 799, eq. 5
    grid = [max(2 * n, 2 * width) for n in shape]
    cells, taps, gains, places = [], [], [], []
    for n, size, k in zip(shape, grid, points.T, strict=True):
        u = k * (size / (2 * math.pi))
        cell = (torch.ceil(u - width / 2)[:, None] + torch.arange(width, device=u.device)).long()
        t = ((u[:, None] - cell) * (2 / width)).clamp(-1, 1)
        taps.append((torch.special.i0e(beta * (1 - t * t).sqrt()) * (beta * ((1 - t * t).sqrt() - 1)).exp()).to(real))
        cells.append(cell % size)
        index = torch.arange(n, device=u.device) - n // 2
        root = (beta**2 - (math.pi * width * index.double() / size) ** 2).sqrt()
        gains.append((2 * root / (width * ((root - beta).exp() - (-root - beta).exp()))).to(real))
        places.append(index % size)
    gain = gains[0][:, None] * gains[1]
    # M width^2 products are formed a block of points at a time, to bound memory.
    block = max(1, 2**22 // (n_trans * width**2))
    spans = [slice(first, first + block) for first in range(0, points.shape[0], block)]

    def cells_and_taps(span: slice) -> tuple[Tensor, Tensor]:
        index = (cells[0][span, :, None] * grid[1] + cells[1][span, None, :]).reshape(-1)
        return index, (taps[0][span, :, None] * taps[1][span, None, :]).flatten(1)

    def type2(x: Tensor) -> Tensor:
        padded = x.new_zeros(n_trans, *grid)
        padded[:, places[0][:, None], places[1]] = x * gain
        spectrum = torch.fft.fft2(padded).flatten(1)
        f = x.new_empty(n_trans, points.shape[0])
        for span in spans:
            index, tap = cells_and_taps(span)
            f[:, span] = (spectrum[:, index].reshape(n_trans, *tap.shape) * tap).sum(-1)
        return f

    def type1(f: Tensor) -> Tensor:
        spectrum = f.new_zeros(n_trans, grid[0] * grid[1])
        for span in spans:
            index, tap = cells_and_taps(span)
            spectrum.index_add_(1, index, (f[:, span, None] * tap).flatten(1))
        images: Tensor = torch.fft.ifft2(spectrum.reshape(n_trans, *grid), norm="forward")
        return images[:, places[0][:, None], places[1]] * gain

    return type1 if kind == 1 else type2


_BACKENDS = {"finufft": _finufft_plan, "cufinufft": _cufinufft_plan, "torch": _torch_plan}
