"""Mass maps against dense solutions of their fixed points, and against the physics of lenses, edges and B modes."""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arrays import F64, rand, rel
from torch import Tensor

from denoisers import MLPatch
from operators import KaiserSquires, KaiserSquiresEB
from pnp import ResultWarning, Schedule, State, Stop, solve
from pnp.io import read_image
from pnp.lensing import pixel_spectrum, wiener
from pnp.lensing.mass_map import EModeOnly, map_mass
from pnp.lensing.padding import OddGrid
from pnp.lensing.reduced_shear import shear_to_reduced
from pnp.metrics import nrmse, pearson_r

SHAPE = (7, 9)


def prior(x: Tensor, sigma: float, strength: float = 0.3) -> Tensor:
    """The linear denoiser S = F^-1 [1/(1 + strength + k^2)] F, k in radians: the prox of 1/2 x'(S^-1 - 1)x."""
    k2, k1 = (2 * math.pi * torch.fft.fftfreq(n, dtype=x.dtype) for n in x.shape[-2:])
    return torch.fft.ifft2(torch.fft.fft2(x) / (1 + strength + k1**2 + k2[:, None] ** 2)).real


def survey(shape: tuple[int, int] = SHAPE, components: int = 1, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Shear, and noise that varies threefold with a quarter of the pixels blind."""
    std = 0.1 * (0.3 * rand(1, components, *shape, seed=5)).exp()
    blind = rand(1, 1, *shape, seed=6) < -0.7
    assert blind.any()
    return rand(batch, 2, *shape, seed=1), torch.where(blind, math.inf, std)


def dense(f: object, channels: int, shape: tuple[int, int] = SHAPE) -> Tensor:
    n = channels * math.prod(shape)
    return f(torch.eye(n, dtype=F64).reshape(n, channels, *shape)).flatten(1).T  # type: ignore[operator]


def real_solution(y: Tensor, std: Tensor, alpha: float) -> Tensor:
    """argmin 1/2 ||W^1/2 (A kappa - y)||^2 + alpha/2 kappa'(S^-1 - 1)kappa over real kappa."""
    A, S = dense(KaiserSquires(SHAPE).A, 1), dense(lambda x: prior(x, 0), 1)
    w = (std**-2).expand(y.shape).flatten()
    R = torch.linalg.inv(S) - torch.eye(len(S), dtype=F64)
    return torch.linalg.solve(A.T @ (w[:, None] * A) + alpha * R, A.T @ (w * y.flatten())).reshape(1, 1, *SHAPE)


def test_solve_with_e_modes_only_finds_the_real_solution() -> None:
    """The fixed point of ADMM on E + iB with B set to 0 is the minimiser over real kappa."""
    y, std = survey()
    schedule, D = Schedule(0.1, 0.1, n_iter=1), EModeOnly(prior)
    result = solve(
        KaiserSquiresEB(SHAPE),
        y,
        D,
        noise_std=std,
        schedule=schedule,
        max_iter=2000,
        rtol=1e-12,
        x0=torch.zeros_like(y),
    )
    assert set(result.history["inner"]) == {0}, "every x-update is a closed form"
    assert not result.x[:, 1].any()
    assert rel(result.x[:, :1], real_solution(y, std, result.history["alpha"][-1])) < 1e-8
    real = solve(KaiserSquires(SHAPE), y, prior, noise_std=std, schedule=schedule, max_iter=50, rtol=1e-4)
    assert real.history["inner"][0] > 0


def test_hqs_takes_the_lifted_operator_too() -> None:
    """Fixed point x = h(P S x), P the projection to E: (A*WA + alpha - alpha P S) x = A*W y."""
    y, std = survey()
    A, D = KaiserSquiresEB(SHAPE), EModeOnly(prior)
    result = solve(A, y, D, noise_std=std, algorithm="hqs", schedule=[0.1], max_iter=1000, rtol=1e-13)
    M, PS, w = dense(A.A, 2), dense(lambda x: D(x, 0), 2), (std**-2).expand(y.shape).flatten()
    alpha = result.history["alpha"][-1] * torch.eye(len(M), dtype=F64)
    x = torch.linalg.solve(M.T @ (w[:, None] * M) + alpha - alpha @ PS, M.T @ (w * y.flatten()))
    assert rel(result.x.flatten(), PS @ x) < 1e-8


@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("make", [KaiserSquires, KaiserSquiresEB])
def test_admm_converges_to_the_real_solution(make: type, components: int) -> None:
    """By conjugate gradients or in closed form, noise shared or not; settings from the noise alone."""
    y, std = survey(components=components)
    found = map_mass(y, std, denoiser=prior, make_operator=make, margin_px=None, max_iter=80, b_mode=False)
    alpha = float((std**-2)[std.isfinite()].mean())
    assert found.sigma == pytest.approx(alpha**-0.5, rel=1e-12) and found.kappa_b is None and found.n_iter == 80
    assert rel(found.kappa_e, real_solution(y, std, alpha)) < 1e-4
    stronger = map_mass(
        y, std, denoiser=prior, make_operator=make, margin_px=None, max_iter=80, b_mode=False, strength=3.0
    )
    assert rel(stronger.kappa_e, real_solution(y, std, 3 * alpha)) < 1e-4


@pytest.mark.parametrize("make", [KaiserSquires, KaiserSquiresEB])
def test_pnpmass_converges_to_its_fixed_point(make: type) -> None:
    """z = S(z + tau A* Sigma^(-1/2) (y - A z)): weights 1/(tau std) instead of 1/std^2."""
    y, std = survey(components=2)
    tau = float((std**-2)[std.isfinite()].mean()) ** -0.5
    assert tau < 1.9 * std.min()
    found = map_mass(
        y, std, denoiser=prior, make_operator=make, method="pnpmass", margin_px=None, max_iter=100, b_mode=False
    )
    assert rel(found.kappa_e, real_solution(y, (tau * std).sqrt(), tau**-2)) < 1e-6
    exact = std.clone()
    exact[..., 3, 3] = 1e-3 * tau  # unstable, were its step not limited
    options = {"method": "pnpmass", "margin_px": None, "max_iter": 100, "b_mode": False}
    found = map_mass(y, exact, denoiser=prior, make_operator=make, **options)
    tau = found.sigma
    assert rel(found.kappa_e, real_solution(y, (tau * exact.clamp(min=tau / 1.9)).sqrt(), tau**-2)) < 1e-6


def test_noise_reaches_the_denoiser_white_in_the_first_step_of_pnpmass() -> None:
    """tau A* Sigma^(-1/2) n has standard deviation tau and no correlation, however uneven the noise."""
    shape, seen = (45, 45), []
    std = 0.1 * (0.5 * rand(1, 1, *shape)).exp()
    noise = std * rand(40, 2, *shape, seed=2)
    options = {"make_operator": KaiserSquires, "method": "pnpmass", "margin_px": None, "max_iter": 1, "b_mode": False}
    tau = map_mass(noise, std, denoiser=lambda x, s: seen.append(x) or x, **options).sigma
    x = seen[0] / tau
    clipped = (std < tau / 1.9).double().mean()
    assert float(x.std()) == pytest.approx(1, rel=0.02 + float(clipped))
    for axis in (-1, -2):
        assert abs(float((x * x.roll(1, axis)).mean())) < 0.02


@pytest.mark.parametrize("method", ["admm", "pnpmass"])
@pytest.mark.parametrize("reduced", [False, True])
def test_a_wrong_noise_map_is_noticed(method: str, reduced: bool) -> None:
    _, std = survey((16, 18))
    y = torch.where(std.isfinite(), std, math.nan) * rand(1, 2, 16, 18, seed=1)
    options = {"denoiser": prior, "method": method, "reduced": reduced}
    found = map_mass(y, std, **options)
    assert 0.5 < found.misfit < 1.2 and found.warnings == ()
    for factor, said in ((0.25, "too low by about a factor [345]"), (5.0, "too high by about a factor [56]")):
        with pytest.warns(ResultWarning, match=f"^map_mass: .*noise_std is {said}") as raised:
            assert len(map_mass(y, factor * std, **options).warnings) == 1
        assert raised[0].filename == __file__


@pytest.mark.parametrize("method", ["admm", "pnpmass"])
@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("make", [KaiserSquires, partial(KaiserSquiresEB, convention="conjugate")])
def test_the_b_map_is_the_e_map_of_shear_turned_by_45_degrees(make: type, components: int, method: str) -> None:
    y, std = survey(components=components, batch=2)
    turned = torch.stack([-y[:, 1], y[:, 0]], 1)
    a = map_mass(y, std, denoiser=prior, make_operator=make, method=method, max_iter=4)
    b = map_mass(turned, std.flip(1), denoiser=prior, make_operator=make, method=method, max_iter=4)
    assert a.kappa_e.shape == a.kappa_b.shape == (2, 1, *SHAPE)
    assert rel(b.kappa_b, a.kappa_e) < 1e-5 and rel(b.kappa_e, -a.kappa_b) < 1e-5
    one = map_mass(y[1:], std, denoiser=prior, make_operator=make, method=method, max_iter=4)
    assert rel(one.kappa_e, a.kappa_e[1:]) < 1e-5, "the images of a batch do not mix"


def test_lensing_without_noise_has_no_b_mode() -> None:
    kappa = lens((27, 27), 3.0, 0.1)
    found = map_mass(KaiserSquires((27, 27)).A(kappa), 1e-3, denoiser=prior)
    assert found.kappa_b.norm() < 1e-10 * found.kappa_e.norm()


def lens(shape: tuple[int, int], radius_px: float, peak: float, centre: tuple[float, float] | None = None) -> Tensor:
    """A round Gaussian lens."""
    row, column = centre or ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
    r2 = (torch.arange(shape[0], dtype=F64)[:, None] - row) ** 2 + (torch.arange(shape[1], dtype=F64) - column) ** 2
    return peak * torch.exp(-r2 / (2 * radius_px**2))[None, None]


def test_padding_keeps_a_lens_at_one_edge_from_the_other() -> None:
    """The shear of a mass beyond the left edge, cut from a wide sky: a periodic map puts some of it on the right."""
    wide, field = (135, 135), (..., slice(50, 85), slice(50, 85))
    kappa = lens(wide, 3.0, 0.3, centre=(67, 49))
    shear, truth = KaiserSquires(wide).A(kappa)[field], kappa[field]
    error = {}
    for pad in (0, 35):
        D = partial(prior, strength=1e-3)
        found = map_mass(shear, 0.02, denoiser=D, margin_px=pad, max_iter=100, b_mode=False).kappa_e
        wrong = found - truth
        error[pad] = float((wrong - wrong.mean())[..., -8:].norm())
    assert error[35] < 0.1 * error[0]


def test_reduced_shear_is_undone() -> None:
    """A lens of kappa = 0.4: taken for shear its map is too steep, and two corrections mend it."""
    shape = (63, 63)
    kappa = lens(shape, 5.0, 0.4)
    kappa = kappa - kappa.mean()  # what shear measures
    reduced = shear_to_reduced(KaiserSquires(shape).A(kappa), kappa)
    run = partial(map_mass, reduced, 1e-4, denoiser=lambda x, s: x - x.mean((-2, -1), keepdim=True), margin_px=None)
    taken_for_shear, corrected = run(), run(reduced=True)
    assert rel(taken_for_shear.kappa_e, kappa) > 0.05
    assert rel(corrected.kappa_e, kappa) < 0.003
    changes = corrected.history["reduced"]
    assert len(changes) <= 3 and changes[-1] <= 0.01 and not taken_for_shear.history["reduced"]
    assert changes[1] < 0.2 * changes[0]
    assert corrected.n_iter == 7 * (1 + len(changes)) == len(corrected.history["change"])


@pytest.mark.parametrize("method", ["admm", "pnpmass"])
def test_masks_zero_noise_and_nan_outside_say_nothing(method: str) -> None:
    """COSMOS files hold a std of 0 where the mask is 0: neither it nor the shear there may count."""
    y, std = survey()
    observed = std.isfinite()
    want = map_mass(y, std, denoiser=prior, method=method)
    for outside in (0.0, math.nan, -1.0):
        noise = torch.where(observed, std, outside)
        shear = torch.where(observed, y, math.nan)
        got = map_mass(shear, noise, denoiser=prior, method=method, mask=observed[0, 0].int())
        assert torch.equal(got.kappa_e, want.kappa_e) and torch.equal(got.kappa_b, want.kappa_b)


def test_shear_and_noise_are_enough() -> None:
    """The denoiser is then the one trained on convergence, the operator that of the exact steps."""
    y, std = survey((12, 13))
    D = MLPatch.from_pretrained("convergence")
    for shear in (0.1 * y, 0.1 * y.float()):
        got = map_mass(shear, std)
        want = map_mass(shear, std, denoiser=D, make_operator=KaiserSquiresEB)
        assert got.kappa_e.dtype == shear.dtype and torch.equal(got.kappa_e, want.kappa_e)
        assert torch.equal(got.kappa_b, want.kappa_b) and got.n_iter == 7


def test_fits_arrays_come_back_as_numpy() -> None:
    y, std = survey()
    want = map_mass(y.float(), std.float(), denoiser=prior, max_iter=3)
    big = [a.numpy().astype(">f4") for a in (y, std)]
    mask = std.isfinite().numpy().astype(">i2")
    got = map_mass(*big, denoiser=prior, mask=mask, max_iter=3)
    assert isinstance(got.kappa_e, np.ndarray) and got.kappa_e.dtype == np.float32
    assert np.array_equal(got.kappa_e, want.kappa_e.numpy()) and np.array_equal(got.kappa_b, want.kappa_b.numpy())
    assert big[0].dtype.byteorder == ">", "inputs stay as they are"


@pytest.mark.parametrize("method", ["admm", "pnpmass"])
def test_units_do_not_matter_to_a_denoiser_without_units(method: str) -> None:
    y, std = survey()
    want = map_mass(y, std, denoiser=prior, method=method)
    for scale in (1e-6, 1e6):
        got = map_mass(scale * y, scale * std, denoiser=prior, method=method)
        assert rel(got.kappa_e, scale * want.kappa_e) < 1e-9


def test_nearly_equal_noise_is_shared_and_keeps_the_closed_form() -> None:
    """COSMOS: the components' noise differs by 0.15 %; the map moves by less than that."""
    y, std = survey()
    apart = torch.cat([std, 1.0015 * std], 1)
    calls = []

    class Counting(KaiserSquiresEB):
        def preconditioner(self, weights: Tensor):  # type: ignore[no-untyped-def]
            calls.append(weights)
            return super().preconditioner(weights)

    got = map_mass(y, apart, denoiser=prior, make_operator=Counting, max_iter=100, b_mode=False)
    assert not calls
    want = map_mass(y, apart, denoiser=prior, make_operator=KaiserSquires, max_iter=100, b_mode=False)
    assert rel(got.kappa_e, want.kappa_e) < 1.5e-3
    map_mass(y, torch.cat([std, 1.1 * std], 1), denoiser=prior, make_operator=Counting, max_iter=1, b_mode=False)
    assert calls, "noise that differs goes to conjugate gradients"


class Ranged:
    sigma_range = (0.3, 0.5)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        assert 0.3 <= sigma <= 0.5
        return prior(x, sigma)


@pytest.mark.parametrize("method", ["admm", "pnpmass"])
@pytest.mark.parametrize(("scale", "sigma"), [(1, 0.3), (4, None), (100, 0.5)])
def test_sigma_stays_within_the_denoisers_range(method: str, scale: float, sigma: float | None) -> None:
    y, std = survey()
    found = map_mass(y, scale * std, denoiser=Ranged(), method=method)
    assert found.sigma == (sigma or found.sigma) and 0.3 <= found.sigma <= 0.5
    assert found.kappa_e.isfinite().all()
    assert EModeOnly(Ranged()).sigma_range == (0.3, 0.5)


Y, STD = survey()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"y": Y[0]}, ValueError, ": y "),
        ({"y": Y[:, :1]}, ValueError, ": y "),
        ({"y": Y + 0j}, TypeError, ": y "),
        ({"y": Y.long()}, TypeError, ": y "),
        ({"y": [[1.0]]}, TypeError, ": y "),
        (
            {"noise_std": torch.zeros(1, 2, *SHAPE)},
            ValueError,
            "126 of 126",
        ),
        (
            {"noise_std": STD[..., 1:]},
            ValueError,
            "noise_std",
        ),
        ({"noise_std": math.inf}, ValueError, "infinite"),
        ({"noise_std": 1e-200}, ValueError, "noise_std"),
        ({"mask": np.zeros(SHAPE)}, ValueError, "infinite"),
        ({"mask": np.ones((9, 7))}, ValueError, ": mask "),
        ({"y": Y * math.nan}, ValueError, ": y "),
        ({"callback": 3}, TypeError, "callback"),
        ({"method": "fista"}, ValueError, ": method "),
        ({"make_operator": KaiserSquires(SHAPE)}, TypeError, "make_operator"),
        ({"make_operator": lambda shape: None}, TypeError, "must have A"),
        ({"margin_px": -1}, ValueError, "margin_px"),
        ({"max_iter": 0}, ValueError, "map_mass: max_iter"),
        ({"strength": 0}, ValueError, "map_mass: strength"),
        ({"denoiser": lambda x, s: x[..., 1:]}, ValueError, "denoiser"),
    ],
)
def test_bad_input_is_one_sentence(changed: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"y": Y, "noise_std": STD, "denoiser": prior} | changed
    with pytest.raises(error, match=message) as caught:
        map_mass(**arguments)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 400


def test_e_modes_only_wants_both_modes() -> None:
    with pytest.raises(ValueError, match="EModeOnly: x"):
        EModeOnly(prior)(torch.zeros(1, 1, *SHAPE), 0.1)


@pytest.mark.parametrize("method", ["admm", "pnpmass"])
@pytest.mark.parametrize("make", [KaiserSquires, KaiserSquiresEB])
def test_callback_sees_every_iteration_on_the_shears_own_pixels(make: type, method: str) -> None:
    """With a margin, B modes and two images: E of both, what the denoiser got and gave."""
    y, std = survey(batch=2)
    states, got = [], []

    def D(x: Tensor, sigma: float) -> Tensor:
        got.append(x)
        return prior(x, sigma)

    found = map_mass(
        y, std, denoiser=D, make_operator=make, method=method, margin_px=5, max_iter=3, callback=states.append
    )
    assert [s.k for s in states] == [1, 2, 3] and found.stop is Stop.MAX_ITER
    assert all(m.shape == (2, 1, *SHAPE) for s in states for m in (s.x, s.z, s.u, s.z_old))
    assert torch.equal(states[-1].z, found.kappa_e) and states[-1].sigma == found.sigma
    grid = OddGrid(SHAPE, margin_px=5)
    for s, x in zip(states, got, strict=True):
        torch.testing.assert_close(s.x if method == "pnpmass" else s.z + s.u, grid.crop(x)[:2])
    alone = map_mass(y, std, denoiser=prior, make_operator=make, method=method, margin_px=5, max_iter=3)
    assert torch.equal(alone.kappa_e, found.kappa_e), "watching changes nothing"


@pytest.mark.parametrize("reduced", [False, True])
def test_a_true_answer_of_the_callback_stops(reduced: bool) -> None:
    kept = []

    def enough(s: State) -> Any:
        kept.append(s.z)
        return s.k == 2 if len(kept) > 1 else np.array([True, True])  # an array asks for nothing

    found = map_mass(Y, STD, denoiser=prior, callback=enough, reduced=reduced)
    assert found.stop is Stop.CALLBACK and found.n_iter == len(kept) == len(found.history["change"]) == 2
    assert torch.equal(found.kappa_e, kept[-1]) and not found.history["reduced"]


def interrupt_at(n: int) -> Callable[[Tensor, float], Tensor]:
    """A denoiser during whose n-th call Ctrl-C is pressed."""
    calls = itertools.count(1)

    def D(x: Tensor, sigma: float) -> Tensor:
        if next(calls) == n:
            signal.raise_signal(signal.SIGINT)
        return prior(x, sigma)

    return D


@pytest.mark.parametrize("method", ["admm", "pnpmass"])
def test_ctrl_c_keeps_the_last_finished_iterate(method: str) -> None:
    run = partial(map_mass, Y, STD, method=method)
    found, want = run(denoiser=interrupt_at(4)), run(denoiser=prior, max_iter=3)
    assert found.stop is Stop.INTERRUPTED and "Ctrl-C" in str(found.stop) and found.n_iter == 3
    assert torch.equal(found.kappa_e, want.kappa_e) and torch.equal(found.kappa_b, want.kappa_b)
    with pytest.raises(KeyboardInterrupt):  # there is nothing to keep yet
        run(denoiser=interrupt_at(1))


def test_ctrl_c_ends_the_corrections_of_reduced_shear() -> None:
    run = partial(map_mass, 0.1 * Y, STD, max_iter=3, reduced=True)
    found, first = run(denoiser=interrupt_at(4)), run(denoiser=prior, callback=lambda s: s.k == 3)
    assert found.stop is Stop.INTERRUPTED and found.n_iter == 3
    assert torch.equal(found.kappa_e, first.kappa_e), "no iterate of the correction: the map before it"


def test_progress_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    map_mass(Y, STD, denoiser=prior, max_iter=2, progress=True)
    out, err = capsys.readouterr()
    assert not out and "map_mass" in err
    map_mass(Y, STD, denoiser=prior, max_iter=2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize(("make", "method"), [(KaiserSquiresEB, "admm"), (KaiserSquires, "pnpmass")])
@pytest.mark.parametrize("name", ["ktng_kappa360v2", "ktng_cosmos_kappa360"])
def test_kappatng_with_cosmos_noise_is_mapped_better_than_by_wiener(
    data_dir: Path, name: str, make: type, method: str
) -> None:
    """At least 3 % less error and 5 % more correlation where observed, with settings from the noise alone."""

    def read(file: str) -> Tensor:
        return torch.from_numpy(read_image(data_dir / "lensing" / f"{file}.fits"))

    kappa, mask = read(name)[None, None], read("cosmos_full_mask_0.29arcmin360") > 0
    std = torch.stack([read("std1"), read("std2")])[None]
    A = KaiserSquires((360, 360))
    y = A.A(kappa) + std * torch.randn(std.shape, generator=torch.Generator().manual_seed(0))
    spectrum = pixel_spectrum((360, 360))
    spectrum *= 0.0274**2 / spectrum.mean()  # of the two maps together: the filter's best
    baseline = wiener(A, y, torch.where(mask, std, math.inf), spectrum)
    D = MLPatch.from_pretrained("convergence")
    found = map_mass(y, std, denoiser=D, make_operator=make, mask=mask, method=method, b_mode=False).kappa_e
    e, e_wiener = (nrmse(x, kappa, mask=mask, centred=True) for x in (found, baseline))
    r, r_wiener = (pearson_r(x, kappa, mask=mask) for x in (found, baseline))
    assert e < 0.97 * e_wiener and r > 1.05 * r_wiener
