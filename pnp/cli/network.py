"""The option --network of `pnp osem`: unrolled EM, and what its scan has other than those that it has learned from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from ..drivers.result import Result
    from ..io import Measurements
    from ..learned import UnrolledEM

Network = Annotated[
    str | None,
    typer.Option(
        help="Unrolled EM after OSEM: weights lu177 or y90, or a file of pnp train spect.", show_default=False
    ),
]


def load_network(name: str, data: Measurements, isotope: str, given: dict[str, Any]) -> tuple[UnrolledEM, list[str]]:
    """Return the network, and what this scan has other than those that it has learned from.

    Args:
        name: of the weights, or their file.
        data: the scan.
        isotope: of the scan, "" if not known.
        given: values of --subsets and --iterations.

    Raises:
        ValueError: the weights cannot be read, do not fit the scan, or start from another OSEM than the options say.
    """
    import numpy as np

    from ..learned import UnrolledEM
    from ..learned.domain import domain_of

    if data.operator != "spect":
        raise ValueError(f"--network is for SPECT, these are measurements of {data.operator}; leave it out")
    model = UnrolledEM.from_pretrained(name)
    starts = {"subsets": model.start_subsets, "iterations": model.start_iter}
    for option, value in given.items():
        if value != starts[option]:
            raise ValueError(
                f"--{option} {value}: the network {name} has learned from an OSEM of {model.start_iter} iterations of "
                f"{model.start_subsets} subsets; leave it out"
            )
    domain, size = domain_of(name), data.parameters["voxel_size"]
    if domain is None:
        return model, [
            f"the weights {name} do not say from which scans they have learned; check their voxels and counts"
        ]
    scatter = np.broadcast_to(data.background if data.background is not None else 0.0, data.y.shape)
    counts = float((data.y.sum(dtype=np.float64) - scatter.sum(dtype=np.float64)) / len(data.y))
    voxel = size[0] if isinstance(size, tuple) else size
    try:
        return model, domain.check(float(voxel), data.y.shape[2], counts, isotope)
    except ValueError as error:
        raise ValueError(f"--network {name}: {error}") from error


def run_network(model: UnrolledEM, operator: Any, y: Tensor, background: Any, said: list[str]) -> Result:
    """Return the volume of the network as a result, with its misfit and these warnings."""
    import torch

    from ..algorithms.poisson import as_background
    from ..drivers.em import pearson
    from ..drivers.result import Result, Stop
    from ..drivers.verdict import judge_misfit

    model = model.to(y.device)
    with torch.no_grad():
        x = model(operator, y.float(), background)
        misfit = pearson(y, operator.A(x) + as_background("osem", background, y))
    warnings = (*said, *judge_misfit(misfit, y.numel(), is_gaussian=False))
    return Result(x, len(model.priors), Stop.MAX_ITER, {}, None, None, misfit, warnings)
