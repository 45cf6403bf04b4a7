"""Other cone-beam projectors in the axes of `ConeBeam`, where they are installed: RTK (itk-rtk), diffct, mbirjax.

Volumes are (D, H, W), views (n_angles, rows, columns), numpy float32. Each runs on one thread of the CPU.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from operators import ConeBeam

Floats = NDArray[np.float32]


class Peer(NamedTuple):
    """Functions of a scanner."""

    project: Callable[[Floats], Floats]
    backproject: Callable[[Floats], Floats]
    fdk: Callable[[Floats], Floats]


def peers(op: ConeBeam) -> dict[str, Peer]:
    """Return the peers that are installed; what is missing is printed."""
    found = {}
    for name, make in _PEERS.items():
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed, and its rows are left out; to add them: pip install {name}")
        else:
            found[name] = make(op)
    return found


def _rtk(op: ConeBeam) -> Peer:
    """Return RTK's Joseph projector, its transpose, and FDK: volumes are (y, z, x) of ours, rows along -y."""
    import itk
    from itk import RTK

    itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(1)
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
    kind, near = itk.Image[itk.F, 3], float(op.source_origin)
    geometry = RTK.ThreeDCircularProjectionGeometry.New()
    for angle in op.angles.tolist():
        geometry.AddProjection(near, near + float(op.origin_detector), math.degrees(angle))

    def image(values: Floats, spacing: tuple[float, ...]) -> Any:
        made = itk.image_from_array(np.ascontiguousarray(values))
        made.SetSpacing(spacing)
        made.SetOrigin([-size * (n - 1) / 2 for n, size in zip(values.shape[::-1], spacing, strict=True)])
        return made

    depth, height, width = op.voxel_size
    volumes, views = partial(image, spacing=(width, depth, height)), partial(image, spacing=(*op.pitch[::-1], 1.0))

    def run(make: Any, first: Any, second: Any) -> Floats:
        step = make.New()
        step.SetInput(0, first)
        step.SetInput(1, second)
        step.SetGeometry(geometry)
        step.Update()
        out: Floats = itk.array_from_image(step.GetOutput())
        return out

    def empty() -> Any:
        return volumes(np.zeros((op.shape[1], op.shape[0], op.shape[2]), np.float32))

    def project(x: Floats) -> Floats:
        nothing = np.zeros((len(op.angles), *op.detector_shape), np.float32)
        forward = RTK.JosephForwardProjectionImageFilter[kind, kind]
        return run(forward, views(nothing), volumes(x.transpose(1, 0, 2)))

    def back(y: Floats, make: Any) -> Floats:
        return run(make, empty(), views(y)).transpose(1, 0, 2)

    backward = RTK.JosephBackProjectionImageFilter[kind, kind]
    return Peer(project, partial(back, make=backward), partial(back, make=RTK.FDKConeBeamReconstructionFilter[kind]))


def _diffct(op: ConeBeam) -> Peer:
    """Return diffct's projector in torch; its y runs along the rows, its views are (u, v)."""
    from diffct import Projector
    from diffct.reconstruction import fdk

    cos, sin, zero = op.angles.cos(), op.angles.sin(), torch.zeros_like(op.angles)
    beam, across = torch.stack([-sin, -cos, zero], 1), torch.stack([cos, -sin, zero], 1)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(beam)
    trajectory = tuple(
        t.float().contiguous() for t in (-op.source_origin * beam, op.origin_detector * beam, across, up)
    )
    spacing: dict[str, Any] = {"detector_spacing": op.pitch[::-1], "voxel_spacing": op.voxel_size, "backend": "torch"}
    with torch.no_grad():
        projector = Projector(trajectory, op.shape, op.detector_shape[::-1], **spacing)

    def run(step: Callable[[Any], Any], values: Floats, swap: bool) -> Any:
        with torch.no_grad():
            given = torch.from_numpy(np.ascontiguousarray(values.swapaxes(1, 2) if swap else values))
            return step(given).numpy()

    def reconstruct(y: Any) -> Any:
        return fdk(y, trajectory, op.shape, op.angles.float(), **spacing)

    return Peer(
        lambda x: run(projector.project, x, False).swapaxes(1, 2),
        lambda y: run(projector.backproject, y, True),
        lambda y: run(reconstruct, y, True),
    )


def _mbirjax(op: ConeBeam) -> Peer:
    """Return mbirjax's separable footprints, compiled by jax; its volumes are (rows, columns, slices)."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import mbirjax

    near, (depth, height, width) = float(op.source_origin), op.voxel_size
    if not depth == height == width:
        raise ValueError("mbirjax: voxels must be cubes")
    shape = (len(op.angles), *op.detector_shape)
    model = mbirjax.ConeBeamModel(
        shape,
        op.angles.numpy().astype(np.float32),
        source_detector_dist=near + float(op.origin_detector),
        source_iso_dist=near,
    )
    model.set_params(
        no_warning=True,
        delta_det_row=op.pitch[0],
        delta_det_channel=op.pitch[1],
        recon_shape=(op.shape[1], op.shape[2], op.shape[0]),
        delta_voxel=width,
    )

    def ours(x: Any) -> Floats:
        return np.asarray(x).transpose(2, 0, 1)

    return Peer(
        lambda x: np.asarray(model.forward_project(np.ascontiguousarray(x.transpose(1, 2, 0)))),
        lambda y: ours(model.back_project(y)),
        lambda y: ours(model.fdk_recon(y)),
    )


_PEERS: dict[str, Callable[[ConeBeam], Peer]] = {"itk-rtk": _rtk, "diffct": _diffct, "mbirjax": _mbirjax}
