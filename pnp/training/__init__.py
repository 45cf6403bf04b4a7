"""Training: denoisers and any other `Task`, with checkpoints, over one process or several."""

from .denoiser import denoising_psnr, train_denoiser
from .loop import Interrupted, train
from .options import NoiseLevels, TrainingOptions
from .state import load_checkpoint

__all__ = [
    "Interrupted",
    "NoiseLevels",
    "TrainingOptions",
    "denoising_psnr",
    "load_checkpoint",
    "train",
    "train_denoiser",
]
