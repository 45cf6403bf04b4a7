"""Training data of the convergence prior: simulated maps, noise levels, options and a validation set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..metrics import nrmse
from ..training.options import NoiseLevels, TrainingOptions
from ..training.photographs import TrainingSet
from ..training.state import like
from .simulate import LognormalKappa


def convergence_set(stds: Sequence[float], pixel_arcmin: float = 0.29) -> TrainingSet:
    """Return maps of lognormal convergence with clusters, 256 x 256, with sigma log-uniform in [0.01, 0.5].

    Args:
        stds: standard deviations of the maps; one is drawn for each batch. The redshifts of the sources determine them.
        pixel_arcmin: side of a pixel in arcminutes.
    """
    if not stds:
        raise ValueError("convergence_set: stds must hold at least one standard deviation, e.g. [0.02]")
    skies = [LognormalKappa((256, 256), pixel_arcmin=pixel_arcmin, std=s, clusters=True) for s in stds]

    def sampler(n: int, /, *, generator: torch.Generator) -> Tensor:
        return skies[int(torch.randint(len(skies), (), generator=generator))](n, generator=generator)

    # Seeds that no training run uses.
    clean = torch.cat([sky(2, generator=torch.Generator().manual_seed(10**6)) for sky in skies])
    noisy = clean + 0.18 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(10**6 + 1))

    def validate(model: Any) -> float:
        with torch.no_grad():
            return nrmse(model(noisy.to(like(model).device), 0.18).cpu(), clean)

    return TrainingSet(
        sampler=sampler,
        levels=NoiseLevels(0.01, 0.5, "log"),
        options=TrainingOptions(batch=4, loss_power=0.0, loss_scale=0.02),
        validate=validate,
        measure="NRMSE at sigma 0.18",
        about=f"simulated lognormal convergence with clusters, std {list(stds)}, pixels of {pixel_arcmin:g} arcmin",
        n_held_out=len(clean),
    )
