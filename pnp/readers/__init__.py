"""Measured data as they come from scanners and surveys: one function a format, plain arrays or a record of them.

Code in a file is never run: pickles and object arrays are refused. Whatever is wrong with a file is one ValueError.
"""

from .catalogue import ShearCatalogue, read_catalogue
from .dicom import Slices, read_dicom
from .dxchange import read_dxchange
from .htc2022 import read_htc2022, read_htc2022_segmentation
from .scan import Scan
from .shear_map import ShearMap
from .shear_maps import read_shear_maps, write_shear_maps
from .tiff import read_tiff_stack, write_tiff_stack

__all__ = [
    "Scan",
    "ShearCatalogue",
    "ShearMap",
    "Slices",
    "read_catalogue",
    "read_dicom",
    "read_dxchange",
    "read_htc2022",
    "read_htc2022_segmentation",
    "read_shear_maps",
    "read_tiff_stack",
    "write_shear_maps",
    "write_tiff_stack",
]
