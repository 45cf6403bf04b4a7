"""FanBeam at 512x512, 360 angles, 560 bins against ASTRA's CPU projectors: the geometry of the HTC2022 scanner.

Claims: A and A* at least as fast as ASTRA's CPU fan projectors. The floor is the time of the two NUFFTs of each.
The data step is (A*A + alpha)^-1 A*y with alpha = ||A*A||/100, for a full turn and for arcs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from radon import astra_calls, on_one_thread
from report import Row, main
from skimage import data
from timing import Spread, interleaved, peer
from torch import Tensor

from operators import FanBeam
from pnp.algorithms.linalg import Solution, cg, operator_norm

RTOL = 1e-5
SOURCE_ORIGIN_MM, SOURCE_DETECTOR_MM, PITCH_MM, WIDTH_MM = 410.66, 553.74, 0.2, 75.8  # Zenodo 8041800


def problem(quick: bool, degrees: float = 360.0) -> tuple[FanBeam, Tensor]:
    """Return the operator, lengths in pixels as ASTRA has them, and the cameraman (1, 1, size, size) in [0, 1]."""
    size, n_bins = (64, 70) if quick else (512, 560)
    n_angles = round((40 if quick else 360) * degrees / 360)
    pixel_mm = WIDTH_MM / size
    operator = FanBeam(
        (size, size),
        np.deg2rad(degrees) * np.arange(n_angles) / n_angles,
        source_origin=SOURCE_ORIGIN_MM / pixel_mm,
        origin_detector=(SOURCE_DETECTOR_MM - SOURCE_ORIGIN_MM) / pixel_mm,
        n_detectors=n_bins,
        pitch=PITCH_MM * 560 / n_bins / pixel_mm,
    )
    return operator, torch.from_numpy(data.camera()[:: 512 // size, :: 512 // size].copy()).float()[None, None] / 255


def operators(quick: bool) -> Iterator[Row]:
    """Yield the times of A, A* and FBP of all competitors, and of the floor."""
    fan, x = problem(quick)
    y = fan.A(x)
    harmonics, nufft, _ = fan._tables()
    series = torch.zeros(1, *nufft.shape, dtype=torch.complex64)
    image, values = x[0].to(torch.complex64), torch.zeros(1, len(nufft.points), dtype=torch.complex64)
    spectrum = torch.zeros(1, harmonics.gain.numel(), dtype=torch.complex64)
    calls: dict[tuple[str, str], Callable[[], Any]] = {
        ("A", "ours"): lambda: fan.A(x),
        ("A*", "ours"): lambda: fan.A_adjoint(y),
        ("FBP", "ours"): lambda: fan.fbp(y),
        ("A", "floor: two NUFFTs"): lambda: (harmonics.image.execute(2, image), nufft.execute(2, series)),
        ("A*", "floor: two NUFFTs"): lambda: (nufft.execute(1, values), harmonics.image.execute(1, spectrum)),
    }
    calls |= {(name, "ours, 1 thread"): on_one_thread(calls[name, "ours"]) for name in ("A", "A*")}
    astra, sinograms = peer("astra"), {}
    for projector in ("line_fanflat", "strip_fanflat") if astra else ():
        distances = (fan.source_origin, fan.origin_detector)
        geometry = astra.create_proj_geom("fanflat", fan.pitch, fan.n_detectors, fan.angles.numpy(), *distances)
        runs, sinograms[projector] = astra_calls(astra, projector, x, geometry)
        calls |= {(name, f"ASTRA {projector}"): call for name, call in runs.items()}
    times = interleaved(calls, rounds=2 if quick else 7)
    where = f"{x.shape[-2]}x{x.shape[-1]}, {y.shape[-2]} angles, {y.shape[-1]} bins"
    for (name, who), time in sorted(times.items(), key=lambda entry: ("A", "A*", "FBP").index(entry[0][0])):
        ours = times[name, "ours"]
        target = (">=", 1.0) if who.startswith("ASTRA") else None
        if who == "ours":
            yield Row(f"{name}, {where}", who, time)
        elif who.startswith("floor"):
            yield Row(f"{name}, {where}", who, time, ratio=ours / time, note="ratio: ours / floor")
        else:
            yield Row(f"{name}, {where}", who, time, ratio=time / ours, target=target)
    for projector, sinogram in sinograms.items():
        difference = np.linalg.norm(y[0, 0].numpy() - astra.data2d.get(sinogram)) / float(y.norm())
        target = ("<=", 0.005) if projector == "strip_fanflat" else None
        yield Row("||A x - A_peer x|| / ||A x||", f"ASTRA {projector}", Spread((float(difference),)), "", target=target)


def data_step(quick: bool) -> Iterator[Row]:
    """Yield iterations and time of a data step to a relative residual of 1e-5."""
    for degrees in (360.0, 90.0, 30.0):
        fan, x = problem(quick, degrees)
        b = fan.A_adjoint(fan.A(x))
        alpha = torch.tensor(operator_norm(fan.A_adjoint_A, x, rtol=1e-2) ** 2 / 100)
        M = fan.preconditioner(torch.ones(()))
        solves = {
            "ours": partial(solution, fan, b, alpha, lambda r, M=M, alpha=alpha: M(r, alpha)),
            "no preconditioner": partial(solution, fan, b, alpha, None),
        }
        times = interleaved(solves, rounds=2 if quick else 3)
        for who, time in times.items():
            ratio = time / times["ours"] if who != "ours" else None
            note = f"{solves[who]().n_iter} iterations"
            yield Row(f"data step to {RTOL:g}, {degrees:g} degrees", who, time, ratio=ratio, note=note)


def solution(fan: FanBeam, b: Tensor, alpha: Tensor, M: Callable[[Tensor], Tensor] | None) -> Solution:
    """Solve (A*A + alpha) x = b."""
    return cg(lambda v: fan.A_adjoint_A(v) + alpha * v, b, preconditioner=M, rtol=RTOL, max_iter=300)


if __name__ == "__main__":
    main("FanBeam against ASTRA (CPU)", {"operators": operators, "data_step": data_step})
