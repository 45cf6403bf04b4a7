"""Error bars of the bootstrap against closed forms, and what must be the same from run to run."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from arrays import rand, seeded, uniform
from toys import SHAPE, Diagonal, Matrix, Views, smooth

from operators import Mask, Radon
from operators import stack as stacked
from pnp import Checkpoint, LeastSquares, Poisson, ResultWarning, solve
from pnp.ct import Transmission, simulate_counts
from pnp.uncertainty import bootstrap
from pnp.uncertainty.runs import Runs

EXACT = {"strength": 1e-7, "max_iter": 1, "algorithm": "hqs", "check_adjoint": False}
"""One iteration that hardly weighs the prior: z = D(y / d) for y = d x + n."""

PLAIN = ("shift", "flip", "turn")
"""The moves that keep every pixel's value."""


def toy(size=16, noise=0.1):
    """A diagonal operator, a truth and its measurements."""
    d = 1 + uniform(size, size, seed=1)
    truth = rand(1, 1, size, size, seed=2)
    return Diagonal(d), truth, d * truth + noise * rand(1, 1, size, size, seed=3)


def same(x, sigma):
    """No prior."""
    return x


def shrink(x, sigma):
    """The denoiser of a Gaussian prior of mean 0."""
    return 0.8 * x


class TestClosedForm:
    """With z = 0.8 y / d the error of a copy is 0.8 T^-1 (n / d) - 0.2 x: noise, and the bias of the prior."""

    def test_a_parametric_bootstrap_has_the_noise_and_the_bias(self):
        A, _, y = toy()
        found = bootstrap(A, y, shrink, n=80, moves="none", hold_out=None, noise_std=0.1, window=1, **EXACT)
        torch.testing.assert_close(found.x, 0.8 * y / A.d, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.samples.mean(0), -0.2 * found.x, rtol=0, atol=0.04)
        expected = (0.64 * 0.01 / A.d**2 + 0.04 * found.x**2).sqrt()
        assert float((found.std / expected).log().abs().mean()) < 0.08
        assert float((found.std / expected).square().mean()) == pytest.approx(1, abs=0.02)

    def test_moved_copies_have_it_too(self):
        """Noise is that of where the copy was: over all turns of the image that of the four places a pixel goes to."""
        A, _, y = toy()
        found = bootstrap(A, y, shrink, n=100, moves=("turn",), hold_out=None, noise_std=0.1, window=1, **EXACT)
        variance = torch.stack([(0.64 * 0.01 / A.d**2).rot90(k) for k in range(4)]).mean(0)
        expected = (variance + 0.04 * found.x**2).sqrt()
        assert float((found.std / expected).square().mean()) == pytest.approx(1, abs=0.02)

    def test_without_a_prior_the_intervals_cover_what_they_say(self):
        A, truth, y = toy(size=32)
        found = bootstrap(A, y, same, n=60, moves="none", hold_out=None, noise_std=0.1, window=1, **EXACT)
        assert float((found.std * A.d / 0.1).square().mean()) == pytest.approx(1, abs=0.02)
        for level in (0.5, 0.9):
            assert found.covered(truth, level) == pytest.approx(level, abs=0.04)
        low, high = found.interval(0.9)
        assert torch.allclose((low + high) / 2, found.x) and torch.allclose((high - low) / 2, found.quantile(0.9))

    @pytest.mark.parametrize("window", [1, 2, 5, 40])
    def test_standard_deviations_are_averaged_over_a_window(self, window):
        A, _, y = toy(size=9)
        found = bootstrap(A, y, same, n=3, moves=PLAIN, hold_out=None, noise_std=0.1, window=window, **EXACT)
        square = found.samples.square().mean(0)[0, 0]
        low, high = (window - 1) // 2, window // 2 + 1
        for i, j in ((0, 0), (4, 3), (8, 8)):
            around = square[max(i - low, 0) : i + high, max(j - low, 0) : j + high]
            assert float(found.std[0, 0, i, j]) == pytest.approx(float(around.mean()) ** 0.5, rel=1e-6)

    def test_means_of_regions_have_the_error_of_the_mean(self):
        A, _, y = toy(size=32)
        found = bootstrap(A, y, same, n=100, moves="none", hold_out=None, noise_std=0.1, window=1, **EXACT)
        mask = torch.zeros(32, 32)
        mask[4:12, 5:20] = 1
        mean, total = found.region(mask), found.region(mask, "sum")
        assert total.value == pytest.approx(float(found.x[..., 4:12, 5:20].sum()))
        assert total.std == pytest.approx(float((0.1 / A.d)[4:12, 5:20].square().sum().sqrt()), rel=0.15)
        assert mean.std == pytest.approx(total.std / 120) and mean.value == pytest.approx(total.value / 120)

    def test_moves_show_the_error_of_what_a_mask_drops(self):
        """Copies without moves reconstruct the same wrong image: where nothing is measured they see little error."""
        mask = torch.ones(16, 16)
        mask[:, ::2] = 0
        truth = rand(1, 1, 16, 16, seed=4)
        A, y = Mask(mask.bool()), mask * truth
        options = {"noise_std": 0.01, "hold_out": None, "n": 20, "max_iter": 8, "window": 1}
        still = bootstrap(A, y, smooth, moves="none", **options)
        moved = bootstrap(A, y, smooth, **options)
        true = float((moved.x - truth)[..., ::2].square().mean().sqrt())
        assert float(still.std[..., ::2].mean()) < 0.8 * float(moved.std[..., ::2].mean()) < true


class TestZoom:
    """Copies at half their size lose detail that the reconstruction has no more."""

    def test_without_a_prior_they_have_the_noise(self):
        A = Diagonal(torch.full((16, 16), 2.0))
        y = rand(1, 1, 16, 16)
        found = bootstrap(A, y, same, n=60, moves=("zoom",), hold_out=None, noise_std=0.1, window=1, **EXACT)
        assert found.zoomed.shape == (20, 1, 1, 16, 16) and found.samples.shape == (60, 1, 1, 16, 16)
        assert float(found.zoomed.std()) == pytest.approx(0.05, rel=0.05)

    def test_errors_belong_to_the_pixels_that_were_averaged(self):
        """The denoiser takes away all but the mean of 2 x 2 pixels: what a zoomed copy loses is its own detail."""
        x = torch.zeros(1, 1, 16, 16)
        x[..., 4:8, 8:12] = torch.kron(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), torch.ones(2, 2))
        A = Diagonal(torch.ones(16, 16))

        def coarse(v, sigma):
            return torch.nn.functional.avg_pool2d(v, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)

        options = {"noise_std": 1e-3, "hold_out": None, "window": 1, "max_shift": 0.0, "n": 4}
        found = bootstrap(A, x, coarse, moves=("zoom",), **(options | EXACT))
        assert torch.allclose(found.zoomed.abs(), x.abs().expand(found.zoomed.shape), atol=0.02)
        assert torch.allclose(found.std, x.abs(), atol=0.02) and float(found.samples.abs().max()) < 0.02
        assert float(found.region(torch.ones(16, 16)).std) < 0.01

    def test_the_larger_error_bar_counts(self):
        A, _, y = toy(size=12)
        found = bootstrap(A, y, smooth, n=6, noise_std=0.1, max_iter=3)
        alone = [replace(found, zoomed=found.zoomed[:0]).std, replace(found.bare, samples=found.zoomed, zoomed=()).std]
        assert torch.equal(found.std, torch.maximum(*alone)) and len(found.zoomed) == 2
        assert len(bootstrap(A, y, smooth, n=2, noise_std=0.1, max_iter=1, moves=PLAIN).zoomed) == 0


class TestFactor:
    def test_it_is_one_where_the_noise_is_all_there_is(self):
        A = Radon((16, 16), torch.arange(40) * math.pi / 40)
        y = A.A(uniform(1, 1, 16, 16, seed=6)) + 0.5 * rand(1, 1, 40, A.n_detectors, seed=7)
        found = bootstrap(A, y, same, n=24, noise_std=0.5, max_iter=3)
        assert found.hold_out == "views" and found.factor == pytest.approx(1, abs=0.25) and 0 < found.factor_std < 0.25

    def test_it_sees_detail_that_the_reconstruction_lost(self):
        x = uniform(1, 1, 24, 24, seed=6)
        A = Radon((24, 24), torch.arange(40) * math.pi / 40)
        y = A.A(x) + 0.05 * rand(1, 1, 40, A.n_detectors, seed=7)
        options = {"noise_std": 0.05, "max_iter": 4, "moves": PLAIN}
        found = bootstrap(A, y, lambda x, sigma: smooth(smooth(x, 1), 1), n=8, **options)
        true = float((found.x - x).square().mean().sqrt() / found.bare.std.square().mean().sqrt())
        assert 1.3 < found.factor < 1.2 * true
        assert torch.allclose(found.std, found.factor * found.bare.std) and found.bare.factor == 1.0

    @pytest.mark.parametrize("kind", ["views", "blocks", "measurements", None])
    def test_kinds(self, kind):
        A = Radon((16, 16), torch.arange(12) * math.pi / 12)
        y = A.A(uniform(1, 1, 16, 16))
        found = bootstrap(A, y, smooth, n=2, noise_std=0.1, max_iter=2, hold_out=kind)
        assert found.hold_out == kind and found.factor >= 1
        assert math.isnan(found.factor_std) == (kind is None)


class TestSame:
    def run(self, n=3, **options):
        A, _, y = toy(size=12)
        return bootstrap(A, y, smooth, n=n, noise_std=0.1, **({"max_iter": 3} | options))

    def test_seeds(self):
        assert torch.equal(self.run(seed=5).samples, self.run(seed=5).samples)
        assert not torch.equal(self.run(seed=5).samples, self.run(seed=6).samples)
        assert torch.equal(self.run(n=2).samples, self.run(n=5).samples[:2])

    def test_numpy_gives_numpy(self):
        A, _, y = toy(size=12)
        found = bootstrap(A, y.numpy(), smooth, n=2, noise_std=0.1, max_iter=3)
        assert all(isinstance(v, np.ndarray) for v in (found.x, found.samples, found.std, found.interval(0.5)[0]))
        np.testing.assert_array_equal(found.samples, self.run(n=2).samples.numpy())
        assert isinstance(found.region(np.ones((12, 12))).value, float) and found.bare.factor == 1.0

    def test_a_given_result_is_used(self):
        A, _, y = toy(size=12)
        result = solve(A, y, smooth, noise_std=0.1, max_iter=3)
        found = bootstrap(A, y, smooth, n=3, result=result, max_iter=3)
        assert found.result is result and torch.equal(found.samples, self.run().samples)

    def test_warnings_point_to_the_caller_and_come_once(self):
        A, _, y = toy(size=32)
        options = {"n": 2, "noise_std": 0.001, "max_iter": 4, "hold_out": None}
        with pytest.warns(ResultWarning, match="noise_std") as caught:
            found = bootstrap(A, y, smooth, **options)
        assert len(caught) == 1 and caught[0].filename == __file__
        bootstrap(A, y, smooth, result=found.result, **options)  # warnings are errors here

    def test_resumed_runs_are_the_same(self, tmp_path):
        whole, path = self.run(n=4), tmp_path / "copies"
        calls = []

        def fails(x, sigma):
            calls.append(1)
            if len(calls) > 42:
                raise KeyboardInterrupt
            return smooth(x, sigma)

        fails.__qualname__, fails.__module__ = smooth.__qualname__, smooth.__module__
        A, _, y = toy(size=12)
        options = {"noise_std": 0.1, "max_iter": 3, "checkpoint": Checkpoint(path, minutes=0)}
        part = bootstrap(A, y, fails, n=4, **options)
        assert part.interrupted and 2 <= part.n < 4 and path.exists()
        assert str(part).startswith(f"{part.n} of 4 copies") and str(whole).startswith("4 copies")
        assert torch.equal(part.samples, whole.samples[: part.n])
        again = bootstrap(A, y, smooth, n=4, **options)
        assert torch.equal(again.samples, whole.samples) and again.factor == whole.factor and not path.exists()

    def test_a_checkpoint_of_other_settings_is_refused(self, tmp_path):
        path = Checkpoint(tmp_path / "copies", remove=False)
        self.run(checkpoint=path)
        assert torch.equal(self.run(n=5, checkpoint=path).samples, self.run(n=5).samples)
        with pytest.raises(ValueError, match="seed"):
            self.run(checkpoint=path, seed=1)

    def test_ctrl_c_before_there_is_anything_is_raised(self):
        A, _, y = toy(size=12)

        def stops(x, sigma):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt, match=r"bootstrap: .* nothing is kept"):
            bootstrap(A, y, stops, n=2, noise_std=0.1)

    def test_ctrl_c_before_two_copies_says_what_the_checkpoint_holds(self, tmp_path, monkeypatch):
        A, _, y = toy(size=12)
        options = {"n": 3, "noise_std": 0.1, "max_iter": 2, "hold_out": None}
        keep = Runs.keep

        def interrupted(runs, kept):
            keep(runs, kept)
            if runs.found["copy"]:
                raise KeyboardInterrupt

        monkeypatch.setattr(Runs, "keep", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"after 1 copy, .* need 2; .* holds 1 solve, and the same"):
            bootstrap(A, y, smooth, checkpoint=tmp_path / "copies", moves=("flip",), **options)
        with pytest.raises(KeyboardInterrupt, match="checkpoint=path"):
            bootstrap(A, y, smooth, moves=("flip",), **options)
        monkeypatch.undo()
        assert bootstrap(A, y, smooth, checkpoint=tmp_path / "copies", moves=("flip",), **options).n == 3

    @pytest.mark.parametrize(("solves", "said"), [(3, "factor .* and zoomed copies"), (6, None), (9, None)])
    def test_ctrl_c_soon_after_two_copies_returns_what_is_there(self, solves, said):
        """Copies come first, then checks and zooms in proportion: none of them waits for all of another kind."""
        A, _, y = toy(size=12)
        calls, options = [], {"n": 12, "noise_std": 0.1, "max_iter": 2}

        def stops(x, sigma):
            calls.append(1)
            if len(calls) > 2 * solves:  # iterations of the image, two copies, a check of two solves, a zoom, ...
                raise KeyboardInterrupt
            return smooth(x, sigma)

        with pytest.warns(ResultWarning, match=said) if said else nullcontext():
            found = bootstrap(A, y, stops, **options)
        assert found.interrupted and 2 <= found.n < 12 and bool(torch.isfinite(found.std).all())
        assert (len(found.zoomed) > 0, not math.isnan(found.factor_std)) == (not said, not said)
        assert torch.equal(found.samples, bootstrap(A, y, smooth, **options).samples[: found.n])

    def test_images_of_a_batch_have_their_own_factors(self):
        A = Radon((12, 12), torch.arange(12) * math.pi / 12)
        y = A.A(uniform(3, 1, 12, 12)) + 0.1 * rand(3, 1, 12, A.n_detectors)
        found = bootstrap(A, y, smooth, n=2, noise_std=0.1, max_iter=2)
        assert found.factor.shape == found.factor_std.shape == (3,) and found.std.shape == found.x.shape
        assert found.region(torch.ones(12, 12)).std.shape == (3, 1) and "factor" in str(found)


class TestNoise:
    """The spread of simulated measurements is that of the noise model."""

    A = Radon((12, 12), torch.arange(16) * math.pi / 16)
    x = 1 + uniform(1, 1, 12, 12)

    def drawn(self, term, y, noise_std=None, n=200):
        """Return n simulated measurements, and those expected."""
        from pnp.uncertainty.copies import COPIES, Simulation

        options = {"max_iter": 1, "check_adjoint": False}
        result = solve(self.A, y, smooth, noise_std=noise_std, data_term=term, **options)
        world = Simulation.of(self.A, y, smooth, result.noise_std, term, result, options)
        many = torch.stack([world.simulate(self.x, world.generator(COPIES, i)) for i in range(n)])
        return many.squeeze(1), self.A.A(self.x).squeeze(0)

    def test_gaussian_noise_of_each_measurement(self):
        clean = self.A.A(self.x)
        std = torch.where(torch.arange(clean.shape[-1]) % 4 == 0, math.inf, 0.1 + 0.1 * clean / clean.max())
        many, mean = self.drawn(LeastSquares(), clean, std)
        found, expected = many.std(0), torch.where(std.isinf(), 0, std)[0]
        assert float((found[expected > 0] / expected[expected > 0]).mean()) == pytest.approx(1, abs=0.02)
        assert not bool(found[expected == 0].any()) and float((many.mean(0) - mean).abs().max()) < 0.1

    def test_errors_in_common(self):
        many, mean = self.drawn(LeastSquares(bin_std=0.5, view_std=0.3), self.A.A(self.x), 0.1)
        reached = (mean != 0).all(1).all(0)
        errors = (many - mean)[..., reached]
        assert float(errors.square().mean().sqrt()) == pytest.approx((0.5**2 + 0.3**2 + 0.1**2) ** 0.5, rel=0.05)
        assert float(errors.mean(-2).std()) == pytest.approx(0.5, rel=0.1)

    def test_estimated_errors_in_common_keep_their_sizes(self):
        y = self.A.A(self.x) + 0.5 * rand(1, 1, 1, self.A.n_detectors) + 0.01 * rand(1, 1, 16, self.A.n_detectors)
        many, mean = self.drawn(LeastSquares(bin_std="estimate"), y, 0.01)
        found = solve(self.A, y, smooth, noise_std=0.01, data_term=LeastSquares(bin_std="estimate"), max_iter=1)
        spread = (many - mean).mean(-2).std(0, unbiased=False)
        assert float((spread - found.common_errors[0].mean(-2).abs()).abs().max()) < 0.1 * float(spread.max())

    def test_estimated_errors_of_views_beside_bins(self):
        y = self.A.A(self.x) + 0.01 * rand(1, 1, 16, self.A.n_detectors)
        y = y + 0.5 * rand(1, 1, 1, self.A.n_detectors, seed=1) + 0.3 * rand(1, 1, 16, 1, seed=2)
        term = LeastSquares(bin_std="estimate", view_std="estimate")
        many, mean = self.drawn(term, y, 0.01)
        found = solve(self.A, y, smooth, noise_std=0.01, data_term=term, max_iter=1).common_errors[0]
        views = found.mean(-1)
        spread = (many - mean).mean(-1).std(0, unbiased=False)  # bins with their random signs are in the mean, too
        expected = (views.square() + (found.mean(0) - views.mean()).square().mean() / self.A.n_detectors).sqrt()
        assert float((spread - expected).abs().max()) < 0.15 * float(expected.max())

    def test_counts(self):
        clean = 20 * self.A.A(self.x).clamp(min=0)
        counts = torch.poisson(clean, seeded())
        A = 20 * self.A
        from pnp.uncertainty.copies import COPIES, Simulation

        term, options = Poisson(background=5.0, gain=2.0, read_noise=3.0), {"max_iter": 1, "check_adjoint": False}
        result = solve(A, counts + 5, smooth, data_term=term, **options)
        world = Simulation.of(A, counts + 5, smooth, None, term, result, options)
        many = torch.stack([world.simulate(self.x, world.generator(COPIES, i)) for i in range(300)])
        expected = 2 * (clean + 5) + 9  # gain (A x + r) + read noise^2
        assert float((many.var(0) / expected).mean()) == pytest.approx(1, abs=0.03)

    def test_transmission(self):
        lines = 0.1 * self.A.A(self.x)
        counts = simulate_counts(lines, 1000.0, generator=seeded()).double()
        from pnp.uncertainty.copies import COPIES, Simulation

        A, term, options = 0.1 * self.A, Transmission(1000.0), {"max_iter": 1, "check_adjoint": False}
        world = Simulation.of(
            A, counts, smooth, None, term, solve(A, counts, smooth, data_term=term, **options), options
        )
        many = torch.stack([world.simulate(self.x, world.generator(COPIES, i)) for i in range(300)])
        assert float((many.var(0) / (1000 * torch.exp(-lines))).mean()) == pytest.approx(1, abs=0.03)

    def test_whole_runs_with_counts_and_stacks(self):
        x = self.x
        for A, term in ((10 * self.A, Poisson()), (0.1 * self.A, Transmission(1000.0))):
            mean = A.A(x) if isinstance(term, Poisson) else 1000 * torch.exp(-A.A(x))
            y = torch.poisson(mean.clamp(min=0), seeded())
            found = bootstrap(A, y, smooth, data_term=term, n=2, max_iter=2)
            assert found.hold_out in ("views", "blocks") and bool(found.std.isfinite().all())
        parts = (self.A.A(x), x)
        both = stacked([self.A, Mask(torch.ones(12, 12).bool())])
        found = bootstrap(both, parts, smooth, noise_std=(0.1, 0.2), n=2, max_iter=2)
        assert found.hold_out == ("views", "measurements") and found.factor >= 1

    def test_outliers_stay_out_of_the_copies(self):
        y = self.A.A(self.x) + 0.01 * rand(1, 1, 16, self.A.n_detectors)
        y[0, 0, 3, 6] += 50
        found = bootstrap(self.A, y, smooth, noise_std=0.5, n=2, max_iter=4, data_term=LeastSquares(robust=True))
        assert found.result.n_rejected >= 1 and float(found.std.max()) < 5


class TestRefused:
    A, _, y = toy(size=12)

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("n", {"n": 1}),
            ("seed", {"seed": -1}),
            ("moves", {"moves": "rotate"}),
            ("moves", {"moves": ("shift", "shear")}),
            ("window", {"window": 0}),
            ("max_shift", {"max_shift": -0.1}),
            ("hold_out", {"hold_out": "pixels"}),
            ("hold_out", {"hold_out": "views", "A": Matrix(torch.eye(42))}),
            ("x0", {"x0": torch.zeros(1, 1, 12, 12)}),
            ("callback", {"callback": print}),
            ("result", {"result": 3}),
            ("noise_std", {"noise_std": -1.0}),
        ],
    )
    def test_arguments(self, name, options):
        A, y = options.pop("A", self.A), self.y
        y = rand(1, 1, 42) if A is not self.A else y
        with pytest.raises((TypeError, ValueError), match=name):
            bootstrap(A, y, smooth, **({"n": 2, "noise_std": 0.1, "max_iter": 1} | options))

    def test_a_result_of_another_image(self):
        A, _, y = toy(size=8)
        other = solve(A, y, smooth, noise_std=0.1, max_iter=1)
        with pytest.raises(ValueError, match="result"):
            bootstrap(self.A, self.y, smooth, n=2, result=other, max_iter=1)

    def test_a_data_term_that_cannot_simulate(self):
        class Bound:
            def __init__(self, h):
                self.h = h

            def __getattr__(self, name):
                if name == "simulate":
                    raise AttributeError(name)
                return getattr(self.__dict__["h"], name)

            def __call__(self, v, alpha):
                return self.h(v, alpha)

        class Term(LeastSquares):
            def bind(self, operator, y, weights):
                return Bound(super().bind(operator, y, weights))

        result = solve(self.A, self.y, smooth, noise_std=0.1, max_iter=1)
        with pytest.raises(TypeError, match="data_term"):
            bootstrap(self.A, self.y, smooth, n=2, result=result, data_term=Term(), max_iter=1)

    def test_what_is_asked_of_the_record(self):
        found = bootstrap(self.A, self.y, smooth, n=2, noise_std=0.1, max_iter=1, hold_out=None)
        for name, call in {
            "level": lambda: found.quantile(1.0),
            "mask": lambda: found.region(torch.zeros(12, 12)),
            "kind": lambda: found.region(torch.ones(12, 12), "median"),
            "truth": lambda: found.covered(torch.zeros(3), 0.5),
        }.items():
            with pytest.raises(ValueError, match=name):
                call()


def test_views_of_a_toy_with_angles():
    A = Views(rand(10, 9, SHAPE[0] * SHAPE[1]))
    A.angles = torch.arange(10.0)
    x = rand(1, 1, *SHAPE)
    found = bootstrap(A, A.A(x) + 0.1 * rand(1, 1, 10, 9, seed=3), smooth, n=2, noise_std=0.1, max_iter=2)
    assert found.hold_out == "views" and found.moves == (*PLAIN, "zoom")
