"""Single-photon emission computed tomography: volumes to camera views."""

from .camera import camera_response, spect_camera
from .projector import SPECT
from .response import collimator_fwhm

__all__ = ["SPECT", "camera_response", "collimator_fwhm", "spect_camera"]
