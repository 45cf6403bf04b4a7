"""Spherical harmonic transforms on HEALPix grids (Gorski et al. 2005, ApJ 622, 759) with real coefficients.

    f(p) = sum_lm a_lm sY_lm(p)     spin s = 0: one map; s = 2: (Q, U) and (E, B) as healpy's `alm2map_spin` has them

The (lmax + 1)^2 coefficients of a real field are real here: a_l0 of all l, then sqrt(2) Re a_lm, then sqrt(2) Im a_lm
of m >= 1, m after m. The basis is orthonormal on the sphere, so that `adjoint` is the transpose of `synthesis`, and the
power of a field is C_l = sum_m c_lm^2/(2 l + 1). Maps (..., n_pix) are in ring order.

The quadrature (4 pi/n_pix) `adjoint` inverts `synthesis` up to some percent of the highest multipoles: the eigenvalues
of their product lie within 0.07 of 1 for lmax = 1.5 nside, 0.13 for 2 nside and 0.27 for 2.5 nside; at 3 nside - 1 some
are nearly 0. ducc0 (Reinecke, GPL) computes the transforms on the CPU, in the precision of its input.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_Array = npt.NDArray[Any]


def ducc() -> Any:
    """Return the package ducc0, or say how to install it."""
    try:
        import ducc0
    except ImportError:
        raise ImportError(
            "maps of the sphere need ducc0, which is not installed; pip install 'pnp-local[sphere]'"
        ) from None
    return ducc0


def check_nside(caller: str, nside: Any) -> int:
    """Return nside, a power of two, as an int.

    >>> check_nside("KaiserSquiresSphere", 512)
    512
    """
    number = int(nside) if isinstance(nside, (int, np.integer)) and not isinstance(nside, bool) else 0
    if not (0 < number <= 2**13 and number & (number - 1) == 0):
        raise ValueError(f"{caller}: nside must be a power of two up to 8192, got {nside!r:.40}; e.g. 512")
    return number


class Harmonics:
    """The transforms of one grid and one band limit.

    Args:
        nside: resolution of the HEALPix grid of 12 nside^2 pixels.
        lmax: highest multipole, up to 3 nside - 1.
    """

    def __init__(self, nside: int, lmax: int) -> None:
        self.nside, self.lmax, self.n_pix = nside, lmax, 12 * nside**2
        self.n_coefficients = (lmax + 1) ** 2
        ducc()

    def synthesis(self, c: Tensor, spin: int = 0) -> Tensor:
        """Return the maps (B, n, n_pix) of coefficients c (B, n, n_coefficients); n is 1 for spin 0, else 2."""
        return _linear(c, lambda c: self._synthesis(c, spin), lambda f: self._adjoint(f, spin))

    def adjoint(self, f: Tensor, spin: int = 0) -> Tensor:
        """Return the coefficients of maps f (B, n, n_pix) by the transpose of `synthesis`."""
        return _linear(f, lambda f: self._adjoint(f, spin), lambda c: self._synthesis(c, spin))

    def at(self, c: Tensor, points: npt.NDArray[np.float64]) -> Tensor:
        """Return the values (B, 1, n) of fields with coefficients c (B, 1, n_coefficients) at points of the sphere.

        Args:
            c: coefficients of spin 0.
            points: (n, 2) colatitude and longitude in radians.
        """
        options = {"spin": 0, "lmax": self.lmax, "loc": points, "nthreads": torch.get_num_threads()}
        options["epsilon"] = 2e-6 if c.dtype == torch.float32 else 1e-11

        def values(c: Tensor) -> Tensor:
            found = [ducc().sht.synthesis_general(alm=a, **options) for a in self.alm(c)]
            return torch.from_numpy(np.stack(found))

        def transpose(f: Tensor) -> Tensor:
            maps = np.ascontiguousarray(f.detach().cpu().numpy())
            found = [ducc().sht.adjoint_synthesis_general(map=m, **options) for m in maps]
            return self.coefficients(np.stack(found))

        return _linear(c, values, transpose)

    def per_multipole(self, values: Tensor) -> Tensor:
        """Return values (lmax + 1,) of all multipoles for the coefficients, (n_coefficients,)."""
        return values[torch.from_numpy(_multipoles(self.lmax)).to(values.device)]

    def power(self, c: Tensor) -> Tensor:
        """Return C_l (..., lmax + 1) of coefficients (..., n_coefficients): the mean over m of their squares."""
        ell = torch.from_numpy(_multipoles(self.lmax)).to(c.device)
        sums = c.new_zeros(*c.shape[:-1], self.lmax + 1).index_add_(-1, ell, c.square())
        return sums / (2 * torch.arange(self.lmax + 1, device=c.device) + 1)

    def alm(self, c: Tensor) -> _Array:
        """Return complex a_lm (..., n_alm), in the order of healpy, of coefficients."""
        n, m0 = (self.n_coefficients + self.lmax + 1) // 2, self.lmax + 1
        values = c.detach().cpu().numpy()
        a = np.zeros((*values.shape[:-1], n), dtype=np.complex64 if c.dtype == torch.float32 else np.complex128)
        a[..., :m0] = values[..., :m0]
        a[..., m0:].real, a[..., m0:].imag = values[..., m0:n], values[..., n:]
        a[..., m0:] *= a.real.dtype.type(0.5**0.5)
        return a

    def coefficients(self, alm: _Array) -> Tensor:
        """Return the real coefficients of a_lm (..., n_alm)."""
        m0, root = self.lmax + 1, alm.real.dtype.type(2**0.5)
        parts = alm[..., :m0].real, root * alm[..., m0:].real, root * alm[..., m0:].imag
        return torch.from_numpy(np.concatenate(parts, axis=-1))

    def _synthesis(self, c: Tensor, spin: int) -> Tensor:
        maps = [ducc().sht.synthesis(alm=a, **self._options(spin)) for a in self.alm(c)]
        return torch.from_numpy(np.stack(maps))

    def _adjoint(self, f: Tensor, spin: int) -> Tensor:
        maps = np.ascontiguousarray(f.detach().cpu().numpy())
        return self.coefficients(np.stack([ducc().sht.adjoint_synthesis(map=m, **self._options(spin)) for m in maps]))

    def _options(self, spin: int) -> dict[str, Any]:
        return {"lmax": self.lmax, "spin": spin, "nthreads": torch.get_num_threads(), **_rings(self.nside)}


class _Linear(torch.autograd.Function):
    """A linear map on the CPU with its transpose as derivative, of any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Callable[[Tensor], Tensor], transpose: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.f, ctx.transpose = f, transpose
        return f(x).to(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        return _linear(grad[0], ctx.transpose, ctx.f), None, None


def _linear(x: Tensor, f: Callable[[Tensor], Tensor], transpose: Callable[[Tensor], Tensor]) -> Tensor:
    """Return f(x) in x's dtype and place, float32 where x is half; f is linear with this transpose."""
    work = x if x.dtype in (torch.float32, torch.float64) else x.float()
    y: Tensor = _Linear.apply(work, f, transpose)  # type: ignore[no-untyped-call]
    return y.to(x.dtype)


@lru_cache(maxsize=4)
def _rings(nside: int) -> dict[str, _Array]:
    """Return the rings of a grid as ducc0 takes them."""
    return dict(ducc().healpix.Healpix_Base(nside, "RING").sht_info())


@lru_cache(maxsize=4)
def _multipoles(lmax: int) -> npt.NDArray[np.int64]:
    """Return the multipole l of every real coefficient."""
    ell = np.concatenate([np.arange(m, lmax + 1) for m in range(lmax + 1)])
    return np.concatenate([ell, ell[lmax + 1 :]])
