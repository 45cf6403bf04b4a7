"""Training of denoisers, and of any other `Task`, with checkpoints, in one process or several."""

from .denoiser import denoising_psnr, train_denoiser
from .loop import Interrupted, train
from .options import NoiseLevels, TrainingOptions
from .state import Task, load_checkpoint
from .synthetic import SyntheticImages, synthetic_image
from .volumes import SyntheticVolumes, synthetic_volume

__all__ = [
    "Interrupted",
    "NoiseLevels",
    "SyntheticImages",
    "SyntheticVolumes",
    "Task",
    "TrainingOptions",
    "denoising_psnr",
    "load_checkpoint",
    "synthetic_image",
    "synthetic_volume",
    "train",
    "train_denoiser",
]
