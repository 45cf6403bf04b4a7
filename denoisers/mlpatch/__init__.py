"""MLPatch, the local patch denoiser: model, grid evaluation, continuous coordinates, weights."""

from .model import ARCHITECTURES, MLPatch

__all__ = ["ARCHITECTURES", "MLPatch"]
