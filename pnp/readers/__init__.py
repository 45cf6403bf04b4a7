"""Read the data of scanners and surveys: one function per format, and `read_scan` for any CT scan.

Measurements are records (`CtScan`, `SpectScan`, `ShearMap`): `record.tensors()` returns y and noise_std for
`solve`, `record.operator(shape)` the operator of their geometry. `cone_from_astra`, `cone_from_tigre` and
`read_rtk_geometry` take the geometry of a cone beam from other software. Images are arrays.
`pnp.lensing.map_catalogue` makes a `ShearMap` of the galaxies of a `ShearCatalogue`.

Code in a file is never run: pickles and object arrays are refused. Whatever is wrong with a file is one ValueError.
"""

from ..installation import hidden_package

if hidden_package("operators"):
    raise ImportError(hidden_package("operators"))

from .ct_cone_astra import cone_from_astra
from .ct_cone_geometry import ConeGeometry
from .ct_cone_rtk import read_rtk_geometry
from .ct_cone_tigre import cone_from_tigre
from .ct_dicom import Slices, read_dicom
from .ct_dxchange import read_dxchange
from .ct_files import read_scan
from .ct_htc2022 import read_htc2022, read_htc2022_segmentation
from .ct_nexus import read_nxtomo
from .ct_scan import CtScan
from .ct_tiff import read_tiff_scan
from .ct_txrm import read_txrm
from .ct_xtekct import read_xtekct
from .shear_catalogue import ShearCatalogue, read_catalogue
from .shear_map import ShearMap
from .shear_map_files import read_shear_maps, write_shear_maps
from .spect_dicom import read_dicom_nm
from .spect_interfile import read_interfile
from .spect_scan import EnergyWindow, SpectScan, join_windows
from .tiff_stack import read_tiff_stack, write_tiff_stack

__all__ = [
    "ConeGeometry",
    "CtScan",
    "EnergyWindow",
    "ShearCatalogue",
    "ShearMap",
    "Slices",
    "SpectScan",
    "cone_from_astra",
    "cone_from_tigre",
    "join_windows",
    "read_catalogue",
    "read_dicom",
    "read_dicom_nm",
    "read_dxchange",
    "read_htc2022",
    "read_htc2022_segmentation",
    "read_interfile",
    "read_nxtomo",
    "read_rtk_geometry",
    "read_scan",
    "read_shear_maps",
    "read_tiff_scan",
    "read_tiff_stack",
    "read_txrm",
    "read_xtekct",
    "write_shear_maps",
    "write_tiff_stack",
]
