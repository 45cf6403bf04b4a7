"""MLPatch, the local patch denoiser: model, grid evaluation, continuous coordinates, weights."""

from .model import MLPatch, StageSpec

__all__ = ["MLPatch", "StageSpec"]
