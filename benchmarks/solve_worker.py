"""Solve problems from files in a process of its own, with the package that PYTHONPATH names, of whatever commit.

One line of JSON on standard input asks for one solve: the .npz of the problem, where x goes, and the settings. One line
of JSON on standard output answers with wall and CPU seconds and the iterations. It runs with commits before today's, so
it uses only what they have in common.
"""

from __future__ import annotations

import inspect
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from denoisers import MLPatch
from operators import Blur, KaiserSquiresEB, Mask, Radon
from pnp import solve
from pnp.lensing import map_mass

OPERATORS: dict[str, Callable[[Any], Any]] = {
    "radon": lambda p: Radon(p["shape"], p["angles"], n_detectors=p["y"].shape[-1]),
    "mask": lambda p: Mask(p["mask"]),
    "blur": lambda p: Blur(p["kernel"], p["shape"]),
}


CONSTANTS = {"coupling": "COUPLING_ADMM", "last": "LAST_ADMM", "annealing": "ANNEALING"}
DEFAULTS: dict[str, Any] = {}


def settings_of(want: dict[str, Any]) -> dict[str, Any]:
    """Return options of `solve`; "coupling", "last" and "annealing" are constants of today's package, and set there."""
    from pnp import LeastSquares
    from pnp.algorithms import schedules
    from pnp.drivers import levels

    rest, own = dict(want), (schedules, schedules, levels)
    if "annealing" in rest:  # iterations of each algorithm
        rest["annealing"] = {**levels.ANNEALING, "admm": rest["annealing"]}
    for module, constant, name in zip(own, CONSTANTS.values(), CONSTANTS, strict=True):
        DEFAULTS.setdefault(name, getattr(module, constant))
        setattr(module, constant, rest.pop(name, DEFAULTS[name]))
    rest["data_term"] = LeastSquares(
        **{name[3:]: rest.pop(name) for name in ("cg_rtol", "cg_max_iter") if name in rest}
    )
    return rest


def mass_map(problem: dict[str, Any], model: Any) -> tuple[Any, int]:
    """Map mass with the default settings of either commit."""
    y, std = torch.from_numpy(problem["y"]), torch.from_numpy(problem["noise_std"])
    earlier = "n_iter" in inspect.signature(map_mass).parameters
    found = map_mass(KaiserSquiresEB, y, std, model) if earlier else map_mass(y, std, denoiser=model)
    return found.kappa_e, found.n_iter


def reconstruct(problem: dict[str, Any], model: Any, options: dict[str, Any]) -> tuple[Any, int]:
    """Solve with a new operator, because plans and kernel are part of the solve."""
    operator = OPERATORS[str(problem["kind"])](problem)
    found = solve(operator, torch.from_numpy(problem["y"]), model, noise_std=float(problem["noise_std"]), **options)
    return found.x, found.n_iter


def main() -> None:
    models: dict[str, Any] = {}
    for line in sys.stdin:
        task = json.loads(line)
        with np.load(task["problem"]) as file:
            problem = {name: file[name] for name in file.files}
        if "shape" in problem:
            problem["shape"] = tuple(int(n) for n in problem["shape"])
        is_map = str(problem["kind"]) == "mass_map"
        weights = "convergence" if is_map else "gray"
        if weights not in models:
            models[weights] = MLPatch.from_pretrained(weights)
        options = {} if task["settings"] is None else settings_of(task["settings"])
        wall, cpu = time.perf_counter(), time.process_time()
        if is_map:
            x, n_iter = mass_map(problem, models[weights])
        else:
            x, n_iter = reconstruct(problem, models[weights], options)
        taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        np.save(task["x"], x.numpy())
        print(json.dumps(taken | {"n_iter": n_iter}), flush=True)


if __name__ == "__main__":
    main()
