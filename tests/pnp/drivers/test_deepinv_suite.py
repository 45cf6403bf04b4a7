"""deepinv's own tests, from its wheel, over our operators and denoisers.

Their parametrised lists are replaced in place and their factories by ours; the test functions themselves run as
they were written. Only those that ask something of an operator or a denoiser are taken.
"""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from denoisers import TV, MLPatch
from operators import Blur, KaiserSquires, Mask, Radon
from pnp import to_deepinv
from pnp.algorithms.linalg import operator_norm

with warnings.catch_warnings():  # what deepinv warns of at import is not ours to fix
    warnings.simplefilter("ignore")
    import deepinv

SUITE = Path(deepinv.__file__).parent / "tests"
if not (SUITE / "test_physics.py").is_file():
    pytest.skip("this deepinv ships without its tests", allow_module_level=True)

sys.path.append(str(SUITE))  # they import their helper as `dummy`
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        physics_suite: Any = importlib.import_module("deepinv.tests.test_physics")
        models_suite: Any = importlib.import_module("deepinv.tests.test_models")
finally:
    sys.path.remove(str(SUITE))

pytestmark = pytest.mark.filterwarnings("default")

SHAPE = (15, 17)
OPERATORS = ["mask", "blur_circular", "blur_valid", "blur_reflect", "radon", "kaiser_squires"]
DENOISERS = ["mlpatch", "tv"]


def _kernel() -> torch.Tensor:
    k = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    return k / k.sum()


def _operator(name: str) -> Any:
    if name == "mask":
        return Mask((torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) > 0.5).float())
    if name == "kaiser_squires":
        return KaiserSquires(SHAPE)
    if name == "radon":
        angles = torch.arange(12) * (math.pi / 12)
        raw = Radon(SHAPE, angles)
        like = torch.zeros(1, 1, *SHAPE, dtype=torch.float64)
        norm = operator_norm(raw.A_adjoint_A, like, rtol=1e-9, max_iter=1000)
        # Lengths in units that make ||A|| = 1: the suite compares norms absolutely.
        return Radon(SHAPE, angles, pixel_size=1 / norm, pitch=1 / norm)
    return Blur(_kernel(), SHAPE, boundary=name.removeprefix("blur_"))


def find_operator(name: str, device: Any, imsize: Any = None, get_physics_param: bool = False) -> tuple[Any, ...]:
    """Their factory: physics, image size, squared norm, dtype and, if asked for, names of parameters."""
    found = (to_deepinv(_operator(name)).to(device), (1, *SHAPE), 1.0, torch.float64)
    return (*found, []) if get_physics_param else found


def choose_denoiser(name: str, imsize: tuple[int, ...]) -> Any:
    """Their factory of denoisers."""
    if name == "tv":
        return to_deepinv(TV(max_iter=10)).eval()
    return to_deepinv(MLPatch(imsize[0], features=16, hidden=16, dilations=(1,))).eval()


physics_suite.find_operator = find_operator
models_suite.choose_denoiser = choose_denoiser
# The decorators hold these very lists.
physics_suite.OPERATORS[:] = OPERATORS
models_suite.MODEL_LIST[:] = DENOISERS
models_suite.MODEL_LIST_1_CHANNEL[:] = DENOISERS

test_operators_adjointness = physics_suite.test_operators_adjointness
test_operators_norm = physics_suite.test_operators_norm
test_pseudo_inverse = physics_suite.test_pseudo_inverse
test_operators_differentiability = physics_suite.test_operators_differentiability
test_adjoint_autograd = physics_suite.test_adjoint_autograd
test_physics_state_dict = physics_suite.test_physics_state_dict

test_denoiser_color = models_suite.test_denoiser_color
test_denoiser_gray = models_suite.test_denoiser_gray
test_denoiser_1_channel = models_suite.test_denoiser_1_channel
test_denoiser_sigma_gray = models_suite.test_denoiser_sigma_gray
test_denoiser_sigma_color = models_suite.test_denoiser_sigma_color


@pytest.fixture
def device() -> torch.device:
    return torch.device("cpu")


@pytest.fixture
def rng(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


@pytest.fixture
def imsize() -> tuple[int, ...]:
    return 3, 37, 31


@pytest.fixture
def imsize_1_channel() -> tuple[int, ...]:
    return 1, 37, 31


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # they write caches beside the caller
    torch.manual_seed(0)


def test_the_suite_runs_over_ours_and_nothing_else() -> None:
    here = sys.modules[__name__]
    for name in (
        n for n in dir(here) if n.startswith("test_") and n != "test_the_suite_runs_over_ours_and_nothing_else"
    ):
        marks = {m.args[0]: list(m.args[1]) for m in getattr(here, name).pytestmark}
        assert marks.get("name") == OPERATORS or marks.get("denoiser") == DENOISERS, name
