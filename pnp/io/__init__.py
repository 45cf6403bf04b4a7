"""Read and write files: images in common formats, measurements and results in one HDF5 layout."""

from .atomic import atomic, check_output
from .dicom_nm import write_dicom_nm
from .fits import read_fits_maps, write_fits_maps
from .hdf5 import Measurements, SavedResult, read_measurements, read_result, write_measurements, write_result
from .hdf5_acquisition import Acquisition
from .hdf5_error_bars import SavedErrorBars
from .images import check_image_output, read_image, write_image
from .nifti import read_nifti, write_nifti
from .pictures import png_bits

__all__ = [
    "Acquisition",
    "Measurements",
    "SavedErrorBars",
    "SavedResult",
    "atomic",
    "check_image_output",
    "check_output",
    "png_bits",
    "read_fits_maps",
    "read_image",
    "read_measurements",
    "read_nifti",
    "read_result",
    "write_dicom_nm",
    "write_fits_maps",
    "write_image",
    "write_measurements",
    "write_nifti",
    "write_result",
]
