"""Radon at 512x512, 180 angles, 736 bins against ASTRA's CPU projectors and deepinv's Tomography.

Claims: A at least 10 times faster than ASTRA's linear projector; one CG iteration of the data step at least 80 times
faster than one inside deepinv's prox_l2, at a cost that does not grow with the number of angles. The floor is the
time of the underlying libraries alone: finufft's execute, and the two FFTs of a Toeplitz product.

The data step is (A*A + alpha)^-1 (A*y + alpha z) with z = 0 and alpha = ||A*A||/100. deepinv has 725 bins, the only
number it supports for this image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from report import Row, main
from skimage import data
from timing import Spread, interleaved, peer, seconds
from torch import Tensor

from operators import Radon
from operators.ct.nufft import TOLERANCE, UPSAMPLING
from pnp.algorithms.least_squares import LeastSquares
from pnp.algorithms.linalg import cg, operator_norm

RTOL = 1e-5


def geometry(quick: bool) -> tuple[int, int, int]:
    """Return the image's side, the number of angles and of bins."""
    return (64, 20, 95) if quick else (512, 180, 736)


def problem(size: int, n_angles: int, n_bins: int) -> tuple[Radon, Tensor]:
    """Return the operator and the cameraman as an image (1, 1, size, size) in [0, 1]."""
    x = torch.from_numpy(data.camera()[:: 512 // size, :: 512 // size].copy()).float()[None, None] / 255
    return Radon((size, size), np.pi * np.arange(n_angles) / n_angles, n_detectors=n_bins), x


def deepinv_tomography(size: int, n_angles: int) -> Any:
    from deepinv.physics import Tomography

    degrees = torch.arange(n_angles) * (180 / n_angles)
    return Tomography(angles=degrees, img_width=size, circle=False, normalize=False)


def on_one_thread(call: Callable[[], Any]) -> Callable[[], None]:
    """Return the call, made with one torch (and finufft) thread."""

    def run() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            call()
        finally:
            torch.set_num_threads(threads)

    return run


def astra_calls(astra: Any, kind: str, x: Tensor, sinogram_geometry: Any) -> tuple[dict[str, Any], Any]:
    """Return ASTRA's forward and back projection as functions that only run the algorithm, and the sinogram's id."""
    volume_geometry = astra.create_vol_geom(*x.shape[-2:])
    projector = astra.create_projector(kind, sinogram_geometry, volume_geometry)
    volume = astra.data2d.create("-vol", volume_geometry, x[0, 0].numpy())
    sinogram = astra.data2d.create("-sino", sinogram_geometry)
    back = astra.data2d.create("-vol", volume_geometry)
    forward_config, back_config = astra.astra_dict("FP"), astra.astra_dict("BP")
    forward_config.update(ProjectorId=projector, VolumeDataId=volume, ProjectionDataId=sinogram)
    back_config.update(ProjectorId=projector, ReconstructionDataId=back, ProjectionDataId=sinogram)
    forward, backward = (astra.algorithm.create(c) for c in (forward_config, back_config))
    calls = {"A": lambda: astra.algorithm.run(forward), "A*": lambda: astra.algorithm.run(backward)}
    calls["A"]()
    return calls, sinogram


def operators(quick: bool) -> Iterator[Row]:
    """Yield the times of A, A* and A*A of all competitors, and of the floor."""
    import finufft

    size, n_angles, n_bins = geometry(quick)
    radon, x = problem(size, n_angles, n_bins)
    y = radon.A(x)
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    ours = {"A": lambda: radon.A(x), "A*": lambda: radon.A_adjoint(y), "A*A": lambda: radon.A_adjoint_A(x)}
    for name, call in ours.items():
        calls[name, "ours"] = call
        calls[name, "ours, 1 thread"] = on_one_thread(call)

    # The floor: the same points, accuracy and threads; one real FFT pair of twice the image's side.
    omega = 2 * np.pi * np.arange((n_bins + 1) // 2) / n_bins
    theta = np.pi * np.arange(n_angles)[:, None] / n_angles
    k = [(omega * f(theta)).ravel().astype(np.float32) for f in (np.sin, np.cos)]
    options = {"upsampfac": UPSAMPLING[torch.complex64], "nthreads": torch.get_num_threads(), "showwarn": 0}
    points, image = np.ones(k[0].size, np.complex64), x[0, 0].numpy().astype(np.complex64)
    for kind, name, given in ((2, "A", image), (1, "A*", points)):
        plan = finufft.Plan(
            kind, (size, size), 1, TOLERANCE[torch.complex64], 3 - 2 * kind, dtype="complex64", **options
        )
        plan.setpts(*k)
        calls[name, "floor: finufft execute"] = partial(plan.execute, given)
    padded = torch.zeros(2 * size, 2 * size)
    calls["A*A", "floor: rfft2 + irfft2"] = lambda: torch.fft.irfft2(torch.fft.rfft2(padded))

    physics = deepinv_tomography(size, n_angles)
    y_peer = physics.A(x)
    calls["A", "deepinv"] = torch.no_grad()(lambda: physics.A(x))
    calls["A*", "deepinv"] = lambda: physics.A_adjoint(y_peer)
    astra, sinograms = peer("astra"), {}
    for projector in ("linear", "strip") if astra else ():
        geometry_there = astra.create_proj_geom("parallel", 1.0, n_bins, radon.angles.numpy())
        runs, sinograms[projector] = astra_calls(astra, projector, x, geometry_there)
        for name, call in runs.items():
            calls[name, f"ASTRA {projector}"] = call

    times = interleaved(calls, rounds=2 if quick else 7)
    for who in ("deepinv", "ASTRA linear", "ASTRA strip"):
        if ("A", who) in times:
            times["A*A", who] = times["A", who] + times["A*", who]
    where = f"{size}x{size}, {n_angles} angles, {n_bins} bins"
    for name in ours:
        reference = times[name, "ours"]
        for who, time in ((w, t) for (n, w), t in times.items() if n == name):
            target = (">=", 10.0) if (name, who) == ("A", "ASTRA linear") else None
            ratio = None if who == "ours" else time / reference
            note = ""
            if who.startswith("floor"):
                ratio, note = reference / time, "ratio: ours / floor"
            elif not who.startswith("ours"):
                note = "sum of its A and A*" if name == "A*A" else ""
                if who == "deepinv" and y_peer.shape[-2] != n_bins:
                    note += f"{', ' if note else ''}{y_peer.shape[-2]} bins"
            yield Row(f"{name}, {where}", who, time, ratio=ratio, target=target, note=note)
    for projector, sinogram in sinograms.items():
        difference = np.linalg.norm(y[0, 0].numpy() - astra.data2d.get(sinogram)) / float(y.norm())
        yield Row("||A x - A_peer x|| / ||A x||", f"ASTRA {projector}", Spread((float(difference),)), "")


def per_iteration(step: Any, alpha: Tensor) -> tuple[Callable[[], Any], Callable[[], Any], int]:
    """Return a short and a long CG run of our data step, and the difference of their iterations."""
    preconditioner = step.operator.preconditioner(step.weights)

    def run(n: int) -> None:
        cg(
            lambda x: step.normal(x) + alpha * x,
            step.back_projection,
            preconditioner=lambda r: preconditioner(r, alpha),
            rtol=0.0,
            max_iter=n,
        )

    return lambda: run(2), lambda: run(12), 10


def data_step(quick: bool) -> Iterator[Row]:
    """Yield the times of one CG iteration, and of a data step to a relative residual of 1e-5."""
    size, n_angles, n_bins = geometry(quick)
    radon, x = problem(size, n_angles, n_bins)
    y, one, z = radon.A(x), torch.ones(()), torch.zeros_like(x)
    alpha = torch.tensor(operator_norm(radon.A_adjoint_A, x, rtol=1e-2) ** 2 / 100)
    step = LeastSquares().bind(radon, y, one)
    short, long, between = per_iteration(step, alpha)
    physics = deepinv_tomography(size, n_angles)
    with torch.no_grad():
        y_peer = physics.A(x)

    def prox(n: int, tol: float = 0.0) -> Tensor:
        with torch.no_grad():
            return physics.prox_l2(z, y_peer, 1 / alpha, max_iter=n, tol=tol)  # type: ignore[no-any-return]

    calls = {"short": short, "long": long, "peer short": lambda: prox(1), "peer long": lambda: prox(3)}
    times = interleaved(calls, rounds=2 if quick else 5)
    ours = (times["long"] - times["short"]).map(lambda t: t / between)
    theirs = (times["peer long"] - times["peer short"]).map(lambda t: t / 2)
    where = f"{size}x{size}, {n_angles} angles"
    yield Row(f"CG iteration, {where}", "ours, preconditioned", ours)
    yield Row(f"CG iteration, {where}", "deepinv prox_l2", theirs, ratio=theirs / ours, target=(">=", 80.0))

    solves: dict[str, Callable[[], Any]] = {"ours": lambda: LeastSquares(rtol=RTOL).bind(radon, y, one)(z, alpha)}
    ours_whole = interleaved(solves, rounds=2 if quick else 7)["ours"]
    bound = LeastSquares(rtol=RTOL).bind(radon, y, one)
    mine = bound(z, alpha)
    forward, applied = physics.A, [0]

    def count_A(v: Tensor, **options: Any) -> Tensor:
        applied[0] += 1
        return forward(v, **options)  # type: ignore[no-any-return]

    physics.A = count_A
    found: list[Tensor] = []
    theirs_whole = Spread((seconds(lambda: found.append(prox(100, RTOL))),))
    physics.A = forward
    n_peer = applied[0] - 1  # one is for the initial residual

    def residual(normal: Callable[[Tensor], Tensor], b: Tensor, v: Tensor) -> str:
        with torch.no_grad():
            return f"{float((b - normal(v) - alpha * v).norm() / b.norm()):.1e}"

    what = f"data step to {RTOL:g}, {where}"
    left = residual(radon.A_adjoint_A, radon.A_adjoint(y), mine)
    yield Row(what, "ours", ours_whole, note=f"{bound.inner_iterations} iterations, residual {left}")
    left = residual(physics.A_adjoint_A, physics.A_adjoint(y_peer), found[0])
    ratio = theirs_whole / ours_whole
    yield Row(what, "deepinv prox_l2", theirs_whole, ratio=ratio, note=f"{n_peer} iterations, residual {left}")
    first = seconds(lambda: LeastSquares(rtol=RTOL).bind(problem(size, n_angles, n_bins)[0], y, one)(z, alpha))
    yield Row(what, "ours, first call", Spread((first,)), note="with plans, kernel and preconditioner")


def angles(quick: bool) -> Iterator[Row]:
    """Yield the time of a CG iteration for several numbers of angles."""
    size, _, n_bins = geometry(quick)
    calls: dict[tuple[int, str], Callable[[], Any]] = {}
    between = 1
    counts = (10, 40) if quick else (60, 180, 720)
    for n in counts:
        radon, x = problem(size, n, n_bins)
        alpha = torch.tensor(operator_norm(radon.A_adjoint_A, x, rtol=1e-2) ** 2 / 100)
        step = LeastSquares().bind(radon, radon.A(x), torch.ones(()))
        calls[n, "short"], calls[n, "long"], between = per_iteration(step, alpha)
    times = interleaved(calls, rounds=2 if quick else 9)
    iteration = {n: (times[n, "long"] - times[n, "short"]).map(lambda t: t / between) for n in counts}
    for n in counts:
        ratio = iteration[n] / iteration[counts[0]] if n > counts[0] else None
        target = ("<=", 1.2) if n == counts[-1] else None
        note = f"ratio: to {counts[0]} angles" if ratio else ""
        yield Row(
            f"CG iteration, {size}x{size}, {n} angles", "ours", iteration[n], ratio=ratio, target=target, note=note
        )


if __name__ == "__main__":
    main(
        "Radon against ASTRA (CPU) and deepinv Tomography",
        {"operators": operators, "data_step": data_step, "angles": angles},
    )
