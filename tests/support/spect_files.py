"""Files of SPECT cameras and simulations, written from the formats' own words, and a torso to put into them."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, NuclearMedicineImageStorage
from reader_files import save_dicom

from operators import SPECT, collimator_fwhm
from pnp.io import write_measurements
from pnp.phantoms import REGIONS, torso

NX, NZ = 6, 3
VOLUME = np.random.default_rng(1).integers(1, 99, (NX, NX, NZ)).astype(np.uint16)
"""x to the patient's left, y to the back, z to the head."""


def seen_from(phi: int, volume: np.ndarray = VOLUME) -> np.ndarray:
    """What the eye sees from DICOM's angle, rows from the head down: by hand, for quarters of a turn.

    0 is behind the patient, whose left is then on the left; at 90 the eye is at his left, and his back on the right.
    """
    if phi % 180 == 0:
        front = volume.sum(1)[:, ::-1].T  # (rows, columns), columns to the patient's left
        return front if phi % 360 == 180 else front[:, ::-1]
    side = volume.sum(0)[:, ::-1].T  # columns to the back
    return side if phi % 360 == 90 else side[:, ::-1]


QUARTERS = np.stack([seen_from(phi) for phi in (0, 90, 180, 270)])
"""What the eye sees from behind the patient, from his left, from before him and from his right."""


def items(*contents: dict[str, Any]) -> Sequence:
    found = []
    for content in contents:
        item = Dataset()
        for name, value in content.items():
            setattr(item, name, value)
        found.append(item)
    return Sequence(found)


def write_nm(path: Path, frames: np.ndarray, **changes: Any) -> Path:
    """Frames (n, rows, columns) of one detector, window and rotation from 0 degrees on, a quarter of a turn apart.

    Changes are elements of the file, None to leave one out; "detector" and "rotation" change their first items.
    """
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = NuclearMedicineImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.4"
    data.Modality, data.ImageType = "NM", ["ORIGINAL", "PRIMARY", "TOMO", "EMISSION"]
    data.NumberOfFrames, data.Rows, data.Columns = frames.shape
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 0, 1
    data.PhotometricInterpretation, data.PixelSpacing = "MONOCHROME2", ["5.0", "4.8"]
    data.EnergyWindowVector = data.DetectorVector = data.RotationVector = [1] * len(frames)
    data.AngularViewVector = list(range(1, len(frames) + 1))
    window = {"EnergyWindowLowerLimit": "187.2", "EnergyWindowUpperLimit": "228.8"}
    data.EnergyWindowInformationSequence = items(
        {"EnergyWindowName": "Lu208", "EnergyWindowRangeSequence": items(window)}
    )
    detector = {"StartAngle": "0", "RadialPosition": ["230"], "CollimatorType": "PARA", "CollimatorGridName": "MEGP"}
    rotation = {"StartAngle": "0", "AngularStep": "90", "RotationDirection": "CC", "ActualFrameDuration": "20000"}
    for name, first in (("detector", detector), ("rotation", rotation)):
        first |= changes.pop(name, {})
        kept = {key: value for key, value in first.items() if value is not None}
        setattr(data, f"{name.capitalize()}InformationSequence", items(kept))
    code = items({"CodeValue": "C-167A0", "CodingSchemeDesignator": "SRT", "CodeMeaning": "^177^Lutetium"})
    data.RadiopharmaceuticalInformationSequence = items({"RadionuclideCodeSequence": code})
    data.StudyDescription = "torso"
    data.PixelData = np.ascontiguousarray(frames, dtype=np.uint16).tobytes()
    return save_dicom(path, data, changes)


def placed(start: int, centre: tuple[float, float, float], radius: float = 230.0) -> dict[str, Any]:
    """A detector at DICOM's angle whose first pixel is where an axis through this centre puts it."""
    phi = np.deg2rad(start)
    outwards = np.array([np.sin(phi), np.cos(phi), 0.0])
    along, down = np.array([-np.cos(phi), np.sin(phi), 0.0]), np.array([0, 0, -1.0])
    first = np.array(centre) + radius * outwards - along * 4.8 * (NX - 1) / 2 - down * 5.0 * (NZ - 1) / 2
    return {
        "StartAngle": str(start),
        "RadialPosition": [str(radius)],
        "ImagePositionPatient": [f"{v:.4f}" for v in first],
        "ImageOrientationPatient": [f"{v:.6f}" for v in (*along, *down)],
    }


SIMIND = """!INTERFILE :=
!imaging modality := nucmed
!originating system := simind
!version of keys := 3.3
;program version := V7.0.1
!GENERAL DATA :=
!data offset in bytes := 0
!name of data file := {data}
;# Radionuclide := lu177
!GENERAL IMAGE DATA :=
;patient orientation := head_in
;patient rotation := supine
!type of data := tomographic
imagedata byte order := {order}
number of energy windows := 1
;energy window lower level[1] :=  187.2
;energy window upper level[1] :=  228.8
!SPECT STUDY (General) :=
!matrix size [1] := {columns}
!matrix size [2] := {rows}
!number format := {form}
!number of bytes per pixel := {size}
scaling factor (mm/pixel) [1] := 4.800
scaling factor (mm/pixel) [2] := 5.000
!extent of rotation := 360
!process status := acquired
!number of projections := {views}
;!time per projection (sec) := 20.000
!SPECT STUDY (acquired data) :=
orbit := circular
Radius := 23.0
!direction of rotation := {direction}
start angle := {start}
;# Intrinsic FWHM for the camera := 0.380
;# Collimator hole diameter := 0.294
;# Collimator thickness := 4.064
;# SIMIND: Photon Energy := 208.000
!END OF INTERFILE :=
"""
FORMATS = {
    "signed integer": "i", "unsigned integer": "u", "short float": "f", "long float": "f", "float": "f",
}  # fmt: skip


def write_interfile(
    path: Path,
    frames: np.ndarray,
    *,
    form: str = "short float",
    size: int = 4,
    order: str = "LITTLEENDIAN",
    direction: str = "CCW",
    start: float = 0.0,
    replace: dict[str, str] | None = None,
) -> Path:
    """A header of SIMIND and its file of raw numbers, frames (n, rows, columns); replace: lines of the header."""
    data = path.with_suffix(".a00")
    dtype = f"{'>' if order == 'BIGENDIAN' else '<'}{FORMATS[form]}{size}"
    data.write_bytes(np.ascontiguousarray(frames).astype(dtype).tobytes())
    views, rows, columns = frames.shape
    facts = {"data": data.name, "order": order, "form": form, "size": size, "direction": direction, "start": start}
    text = SIMIND.format(rows=rows, columns=columns, views=views, **facts)
    for old, new in (replace or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    path.write_text(text)
    return path


def phantom() -> tuple[Any, torch.Tensor, np.ndarray]:
    """A torso, the expected counts of 12 views, and DICOM's angle of each in degrees: two detectors, clockwise."""
    patient = torso((24, 24, 10), voxel_size_mm=16.0)
    degrees = np.concatenate([d - 30.0 * np.arange(6) for d in (90.0, 270.0)])
    A = SPECT((24, 24, 10), np.deg2rad(180 - degrees), voxel_size=16.0, attenuation=patient.attenuation, fwhm=12.0)
    y = A.A(patient.activity)
    return patient, y * (2e6 / y.sum()), degrees


def assert_upright(x: np.ndarray, patient: Any) -> None:
    """The liver is on the patient's right (low x), at the height of the liver, and the whole as the torso is."""
    truth, liver = patient.activity[0, 0].numpy(), (patient.labels == REGIONS.index("liver")).numpy()
    assert x[liver].mean() > 1.5 * x[liver[::-1]].mean()
    likeness = {
        flips: np.corrcoef(np.flip(x, flips).ravel(), truth.ravel())[0, 1]
        for flips in [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    }
    assert likeness.pop(()) > 0.85 > 0.8 > max(likeness.values()), likeness


SHAPE, VOXEL, VIEWS = (24, 24, 8), 16.0, 10
ANGLES = torch.arange(VIEWS) * (2 * math.pi / VIEWS)
COLLIMATOR = {"hole_diameter": 2.94, "hole_length": 40.64, "septal_attenuation": 1.04, "intrinsic": 3.8}
RADII = 220.0 + 3 * np.arange(VIEWS)


@functools.cache
def camera_scan() -> tuple[SPECT, np.ndarray, np.ndarray, np.ndarray]:
    """A camera on an orbit that is no circle, counts of a torso, their scatter, and the torso's activity."""
    patient = torso(SHAPE, voxel_size_mm=VOXEL)
    fwhm = collimator_fwhm(SHAPE[1], RADII, voxel_size=VOXEL, **COLLIMATOR)
    A = SPECT(SHAPE, ANGLES, voxel_size=VOXEL, attenuation=patient.attenuation, fwhm=fwhm)
    primary = A.A(patient.activity)
    scale = 1e6 / primary.sum()
    scatter = torch.full_like(primary, 0.3) * (scale * primary).mean()
    y = torch.poisson(scale * primary + scatter, generator=torch.Generator().manual_seed(0))
    return A, y.numpy(), scatter.numpy(), (scale * patient.activity).numpy()


def parameters() -> dict[str, Any]:
    """The arguments of that camera."""
    fwhm = collimator_fwhm(SHAPE[1], RADII, voxel_size=VOXEL, **COLLIMATOR)
    mu = camera_scan()[0].attenuation
    return {"shape": SHAPE, "angles": ANGLES, "voxel_size": VOXEL, "attenuation": mu, "fwhm": fwhm}


def write_scan(path: Path) -> Path:
    """That scan in HDF5."""
    _, y, scatter, truth = camera_scan()
    more = {"units": "counts", "background": scatter, "reference": truth}
    write_measurements(path, y, operator="spect", parameters=parameters(), **more)
    return path


def same_operator(found: SPECT, A: SPECT) -> bool:
    x = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
    return torch.allclose(found.A(x), A.A(x), rtol=1e-6)
