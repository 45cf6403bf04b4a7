"""Measured data as they come from scanners: one function a format, each returning plain numpy arrays.

Code in a file is never run: pickles and object arrays are refused. Whatever is wrong with a file is one ValueError.
"""

from .dicom import Slices, read_dicom
from .dxchange import read_dxchange
from .htc2022 import read_htc2022, read_htc2022_segmentation
from .scan import Scan
from .tiff import read_tiff_stack, write_tiff_stack

__all__ = [
    "Scan",
    "Slices",
    "read_dicom",
    "read_dxchange",
    "read_htc2022",
    "read_htc2022_segmentation",
    "read_tiff_stack",
    "write_tiff_stack",
]
