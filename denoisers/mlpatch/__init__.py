"""MLPatch, the local patch denoiser: model, grid evaluation, continuous coordinates, weights."""

from .model import ARCHITECTURES, MLPatch, StageSpec

__all__ = ["ARCHITECTURES", "MLPatch", "StageSpec"]
