"""MLPatch, the local patch denoiser, and its super-resolver: network, tiles, continuous coordinates."""

from .model import ARCHITECTURES, MLPatch
from .super_resolver import SuperResolver

__all__ = ["ARCHITECTURES", "MLPatch", "SuperResolver"]
