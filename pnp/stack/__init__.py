"""Stacks of images, and images and volumes larger than memory, on Dask: `pip install 'pnp-local[stack]'`.

`solve_stack` runs `pnp.solve` over the slices of a stack, or the fields of a survey, on the processes of this machine
or of a cluster, and survives crashes, kills and restarts; `write_volume` copies its slices to NIfTI or TIFF.
`denoise_mosaic` and `solve_mosaic` work on an image or a volume of any size in tiles that overlap by the denoiser's
receptive field, so that no seams show. See docs/stacks.md.
"""

from .mosaic import solve_mosaic
from .mosaic_denoise import denoise_mosaic
from .slices import solve_stack
from .stack_result import StackResult
from .write_volume import write_volume

__all__ = ["StackResult", "denoise_mosaic", "solve_mosaic", "solve_stack", "write_volume"]
