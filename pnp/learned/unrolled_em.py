"""Unrolled EM: a few iterations of regularised expectation maximisation, each with its own small network.

Counts y ~ Poisson(A x + r). With s = A^T 1, a network's proposal u_k and a quadratic penalty on the distance from it,

    u_k = x_k + z CNN_k(x_k / z)                                  field of view 7 x 7 x 7 voxels for three layers
    e   = x_k A^T(y / (A x_k + r))                                EM's step
    q   = s - beta u_k
    x_k+1 = 2 e / (q + sqrt(q^2 + 4 beta e)) = (sqrt(q^2 + 4 beta e) - q) / (2 beta)

which minimises EM's surrogate of the likelihood plus beta/2 ||x - u_k||^2: EM itself for beta = 0, u_k for beta to
infinity, and never negative. Sources: Z. Li, Y. K. Dewaraja and J. A. Fessler, arXiv 2301.09710; for the surrogate De
Pierro, IEEE Trans. Med. Imaging 14 (1995) 132.

Unlike theirs the model has no units: z = sum x_0^2 / sum x_0, the mean activity weighted by activity, and beta = b / z
times the sensitivity with the same weights, so that data and proposal weigh alike for b = 1, and
x(a y, a r) = a x(y, r).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..algorithms.poisson import as_background, check_counts, em_update, ratio
from ..algorithms.protocols import Operator
from ..checks import check_number
from ..drivers.arguments import as_initial, as_measurements, as_operator, check_device
from ..drivers.em import osem
from ..drivers.result_warning import ignore_result_warnings
from .recompute import recompute_in_backward
from .weight_files import read, save

_WEIGHT_KEY = "unrolled_em"
_SLAB_VOXELS = 2**18
"""Voxels that a network processes at once: memory does not grow with the volume, and the result is the same."""


class Iteration(NamedTuple):
    """One outer iteration."""

    proposal: Tensor
    """u_k, in the shape of the image."""
    x: Tensor
    """x_k+1, after the EM updates."""


class Prior(nn.Module):  # checkpoints hold the name of this class
    """Network x + CNN(x): convolutions of 3 x 3 x 3 with leaky rectifiers between them; before training CNN = 0.

    Args:
        features: channels between the convolutions.
        layers: number of convolutions, at least 2.
    """

    def __init__(self, features: int, layers: int) -> None:
        super().__init__()
        self.layers = layers
        widths = [1, *[features] * (layers - 1), 1]
        convolutions = [nn.Conv3d(a, b, 3, padding=1) for a, b in pairwise(widths)]
        for c in convolutions[:-1]:
            nn.init.kaiming_normal_(c.weight, a=0.1, nonlinearity="leaky_relu")
            nn.init.zeros_(c.bias)  # type: ignore[arg-type]
        nn.init.zeros_(convolutions[-1].weight)
        nn.init.zeros_(convolutions[-1].bias)  # type: ignore[arg-type]
        modules: list[nn.Module] = []
        for c in convolutions:
            modules += [c, nn.LeakyReLU(0.1, inplace=True)]
        # oneDNN's own choice, blocks of sixteen channels, takes more memory and time.
        self.network = nn.Sequential(*modules[:-1]).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Return x + CNN(x), both (B, 1, nx, ny, nz)."""
        parameters, n = tuple(self.network.parameters()), x.shape[2]
        planes, halo = max(1, _SLAB_VOXELS // max(1, x[:, :, 0].numel())), self.layers
        x, parts = x.contiguous(memory_format=torch.channels_last_3d), []
        for first in range(0, n, planes):
            low, end = max(0, first - halo), min(n, first + planes)
            part = recompute_in_backward(self.network, x[:, :, low : end + halo], parameters=parameters)
            parts.append(part[:, :, first - low : end - low])
        return x + torch.cat(parts, 2)


class UnrolledEM(nn.Module):
    """Reconstruct emission volumes from counts: OSEM for the start, then `n_outer` regularised EM iterations.

    Args:
        n_outer: number of outer iterations, each with its own network.
        n_inner: number of EM updates in an outer iteration, all with the same proposal.
        strength: b, the weight of the proposals, about 1.
        features, layers: width and number of a network's convolutions.
        start_iter, start_subsets: iterations and subsets of the OSEM that computes x_0 where none is given.
    """

    def __init__(
        self,
        *,
        n_outer: int = 3,
        n_inner: int = 1,
        strength: float = 1.0,
        features: int = 16,
        layers: int = 3,
        start_iter: int = 16,
        start_subsets: int = 4,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("n_outer", n_outer, 1), ("n_inner", n_inner, 1), ("features", features, 1), ("layers", layers, 2),
            ("start_iter", start_iter, 1), ("start_subsets", start_subsets, 1),
        ):  # fmt: skip
            check_number(name, value, above=least, integer=True, or_equal=True, caller="UnrolledEM")
        check_number("strength", strength, above=0, caller="UnrolledEM")
        self.n_inner, self.strength = n_inner, float(strength)
        self.features, self.layers = features, layers
        self.start_iter, self.start_subsets = start_iter, start_subsets
        self.priors = nn.ModuleList(Prior(features, layers) for _ in range(n_outer))

    @property
    def networks(self) -> list[nn.Module]:
        """The networks, whose first and last layers Muon does not train."""
        return list(self.priors)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> UnrolledEM:
        """Load weights of the package, "lu177" or "y90", or a .safetensors file of your own.

        Those of the package are trained end-to-end on simulated torsos; see their model cards. The model is on the CPU,
        in float32 and frozen (`requires_grad_()` undoes that).

        Raises:
            ValueError: there are no such weights or file, or it is not a weight file of UnrolledEM.
        """
        return read(name_or_path, cls, _WEIGHT_KEY)

    def save(self, path: str | Path, *, about: dict[str, str] | None = None) -> None:
        """Write a .safetensors file, whole or not at all, in float32; `about` holds further facts for its header.

        Raises:
            ValueError: the file cannot be written; an earlier one remains.
        """
        save(self, path, _WEIGHT_KEY, about=about)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        names = ("n_inner", "strength", "features", "layers", "start_iter", "start_subsets")
        return {"n_outer": len(self.priors), **{name: getattr(self, name) for name in names}}

    def start(self, operator: Operator, y: Tensor, background: Any = 0.0) -> Tensor:
        """Return x_0, computed by OSEM, with fewer subsets where there are fewer views."""
        n = min(self.start_subsets, y.shape[2])
        with warnings.catch_warnings():
            ignore_result_warnings()  # it is only the start
            found = osem(operator, y, n_subsets=n, background=background, max_iter=self.start_iter, check_adjoint=False)
        x: Tensor = found.x
        return x

    def forward(self, operator: Operator, y: Any, background: Any = 0.0, x0: Any = None) -> Any:
        """Reconstruct the volume (B, 1, nx, ny, nz) from counts y, as a tensor or an array like y.

        Gradients flow to the networks.

        Args:
            operator: A, without negative entries: `operators.SPECT`, or any operator with `A` and `A_adjoint`, and with
                `subset` where x0 is None and `start_subsets` > 1.
            y: counts >= 0, e.g. (B, 1, n_views, nx, nz).
            background: r >= 0, expected scatter: a scalar, or broadcasts to y.
            x0: initial volume >= 0; EM leaves voxels of 0 at 0. None: by OSEM, see `start`.

        Raises:
            TypeError, ValueError: an argument does not fit, is negative or not finite.
        """
        operator = as_operator(operator, "UnrolledEM")
        y, is_numpy = as_measurements(y, caller="UnrolledEM")
        check_counts("UnrolledEM", "y", y, "do not subtract the background, pass it as background")
        check_device("operator", operator, y.device, "UnrolledEM")
        weight = self.priors[0].network[0].weight  # type: ignore[union-attr, index]
        if y.dtype != weight.dtype or y.device != weight.device:
            raise TypeError(
                f"UnrolledEM: y is {y.dtype} on {y.device}, the model {weight.dtype} on {weight.device}; use "
                "y.float(), model.double() or .to(device)"
            )
        r = as_background("UnrolledEM", background, y)
        s = operator.A_adjoint(torch.ones_like(y))
        if x0 is None:
            if self.start_subsets > 1 and not callable(getattr(operator, "subset", None)):
                raise TypeError(
                    f"UnrolledEM: operator must have subset(b, n) for the initial OSEM, got "
                    f"{type(operator).__name__}; give x0, e.g. by mlem"
                )
            x = self.start(operator, y, r)
        else:
            x = as_initial(x0, s, caller="UnrolledEM")
            check_counts("UnrolledEM", "x0", x, "clip it, or leave it out")
        for step in self.iterate(operator, y, r, x, s):
            x = step.x
        return x.detach().cpu().numpy() if is_numpy else x

    def iterate(
        self, operator: Operator, y: Tensor, r: Tensor, x: Tensor, s: Tensor, *, truncated: bool = False
    ) -> Iterator[Iteration]:
        """Yield the outer iterations that follow x.

        Args:
            operator, y: as in `forward`.
            r: background in the shape of y.
            x: x_0.
            s: A^T 1.
            truncated: pass no gradient through A^T(y / (A x + r)).
        """
        x0 = x
        for k in range(len(self.priors)):
            step = self.advance(k, operator, y, r, x, x0, s, truncated=truncated)
            yield step
            x = step.x

    def advance(
        self, k: int, operator: Operator, y: Tensor, r: Tensor, x: Tensor, x0: Tensor, s: Tensor, *,
        truncated: bool = False,
    ) -> Iteration:  # fmt: skip
        """Return outer iteration k from x = x_k; x0 sets the scales, the other arguments are those of `iterate`."""
        z, beta = self.scales(x0, s)
        seen = s > torch.finfo(s.dtype).eps * s.max()
        u: Tensor = z * self.priors[k](x / z)
        for _ in range(self.n_inner):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not truncated):
                # Truncated responses have small negative lobes.
                e = operator.A_adjoint(ratio(y, operator.A(x) + r)).clamp(min=0)
            x = torch.where(seen, recompute_in_backward(em_update, x * e, s, u, beta), 0)
        return Iteration(u, x)

    def scales(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and beta (B, 1, ..., 1) from x_0 and the sensitivity."""
        axes = tuple(range(1, x.ndim))
        total = x.sum(axes, keepdim=True)
        active = total > 0
        total = torch.where(active, total, 1)
        z = torch.where(active, x.square().sum(axes, keepdim=True) / total, 1)
        sensitivity = torch.where(active, (s * x).sum(axes, keepdim=True) / total, s.mean(axes, keepdim=True))
        return z, self.strength * sensitivity / z
