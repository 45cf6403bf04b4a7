"""Volumes of SPECT in DICOM (PS3.3, A.5, NM Image): ImageType RECON TOMO, its slices the frames of one file.

Columns run to the patient's left, rows to his back and frames from the feet to the head, along the axes of the study's
frame of reference, so that a viewer lays the volume over a CT of the same frame. Stored are 16 bits:

    value = RescaleSlope * stored + RescaleIntercept,

as RealWorldValueMappingSequence says, too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .atomic import atomic
from .file_kinds import is_deflated_dicom
from .guards import check_file, reading

_OF_THE_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientSize", "PatientWeight", "StudyInstanceUID",
    "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber", "ReferringPhysicianName",
    "FrameOfReferenceUID", "PositionReferenceIndicator", "SpecificCharacterSet",
    "RadiopharmaceuticalInformationSequence",
)  # fmt: skip
"""Elements of the patient, the study and its frame, which a file takes over from another of the study."""
_LARGEST = 65535


def write_dicom_nm(
    path: str | os.PathLike[str],
    volume: npt.ArrayLike,
    voxel_size_mm: float | tuple[float, ...],
    *,
    centre_mm: tuple[float, float, float] | None = None,
    like: str | os.PathLike[str] | None = None,
    description: str = "",
    unit: str = "1",
    corrected: Sequence[str] = (),
    decay_time: str = "",
    overwrite: bool = False,
) -> None:
    """Write a volume (nx, ny, nz) in the axes of SPECT as one DICOM NM file; it appears whole or not at all.

    Args:
        path: a .dcm file.
        volume: (nx, ny, nz), finite.
        voxel_size_mm: side of a voxel in mm, or (transaxial, axial).
        centre_mm: where the middle of the volume lies in the study's frame of reference; None: not known, and left out.
        like: a DICOM file of the study, the views or a slice of the CT, from which the patient, the study and the frame
            of reference are taken over; None: a study of its own, without a patient.
        description: SeriesDescription.
        unit: of the values, in UCUM; "Bq/ml" is said in Units (BQML), too, as in PET, which viewers read.
        corrected: CorrectedImage (PS3.3, C.8.4.9): ATTN, SCAT, DECY, ...
        decay_time: time to which decay is corrected, ISO 8601; "": not known, and left out.
        overwrite: replace a file of that name.

    Raises:
        ValueError: the volume is not finite or has other axes, `like` is no DICOM file, or path cannot be written.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, NuclearMedicineImageStorage, generate_uid

    values, sizes = np.asarray(volume, dtype=np.float64), np.atleast_1d(np.asarray(voxel_size_mm, dtype=np.float64))
    if values.ndim != 3 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"write_dicom_nm: volume must be (nx, ny, nz) and finite, got {values.shape}")
    if sizes.size not in (1, 2) or not ((sizes > 0) & np.isfinite(sizes)).all():
        raise ValueError(f"write_dicom_nm: voxel_size_mm must be positive, or (transaxial, axial), got {voxel_size_mm}")
    if Path(path).suffix.lower() != ".dcm":
        raise ValueError(f"write_dicom_nm: path must end with .dcm, got {Path(path).name}")
    transaxial, axial = float(sizes[0]), float(sizes[-1])
    low = min(0.0, float(values.min()))
    slope = (float(values.max()) - low) / _LARGEST or 1.0
    slope = float(f"{slope * (1 + 1e-9):.10g}")  # a decimal string of 16 bytes; none overflows
    data: Any = Dataset() if like is None else _study(like)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = NuclearMedicineImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.SeriesInstanceUID = generate_uid()
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not data.get(name):
            setattr(data, name, generate_uid())
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        if name not in data:
            setattr(data, name, "")
    data.Modality, data.ImageType = "NM", ["DERIVED", "PRIMARY", "RECON TOMO", "EMISSION"]
    data.SeriesDescription, data.SeriesNumber, data.InstanceNumber = description[:64], 1, 1
    nx, ny, nz = values.shape
    data.NumberOfFrames, data.Rows, data.Columns = nz, ny, nx
    data.FrameIncrementPointer, data.SliceVector = 0x00540080, list(range(1, nz + 1))
    data.NumberOfSlices = nz
    data.PixelSpacing = [f"{transaxial:.10g}"] * 2
    data.SliceThickness = data.SpacingBetweenSlices = f"{axial:.10g}"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit = 15
    data.RescaleSlope, data.RescaleIntercept = f"{slope:.10g}", f"{low:.10g}"
    data.RealWorldValueMappingSequence = [_mapping(slope, low, unit)]
    if unit == "Bq/ml":
        data.Units = "BQML"
    if corrected:
        data.CorrectedImage = list(corrected)
    if decay_time:
        data.DecayCorrectionDateTime = datetime.fromisoformat(decay_time).strftime("%Y%m%d%H%M%S")
    detector = Dataset()
    detector.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    if centre_mm is not None:
        first = np.array(centre_mm) - np.array([transaxial, transaxial, axial]) * (np.array([nx, ny, nz]) - 1) / 2
        detector.ImagePositionPatient = [f"{v:.10g}" for v in first]
    data.DetectorInformationSequence = [detector]
    stored = np.rint((values - low) / slope).clip(0, _LARGEST).astype("<u2")
    data.PixelData = np.ascontiguousarray(stored.transpose(2, 1, 0)).tobytes()
    with atomic(path, overwrite=overwrite) as part:
        data.save_as(part, enforce_file_format=True)


def _mapping(slope: float, intercept: float, unit: str) -> Any:
    from pydicom.dataset import Dataset

    units, mapping = Dataset(), Dataset()
    units.CodeValue, units.CodingSchemeDesignator, units.CodeMeaning = unit[:16], "UCUM", unit[:64]
    mapping.MeasurementUnitsCodeSequence = [units]
    mapping.LUTLabel, mapping.LUTExplanation = "values", "stored values to the unit"
    mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped = 0, _LARGEST
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = slope, intercept
    return mapping


def _study(path: str | os.PathLike[str]) -> Any:
    """Return the elements of a DICOM file that tell its patient, its study and its frame of reference."""
    from pydicom import dcmread
    from pydicom.dataset import Dataset
    from pydicom.errors import InvalidDicomError

    with reading(check_file(path), "DICOM"), open(path, "rb") as file:
        if is_deflated_dicom(file, force=False):
            raise ValueError(f"{path} is deflated as a whole, which is not read; store it uncompressed (dcmconv +te)")
        try:
            source = dcmread(file, stop_before_pixels=True)
        except InvalidDicomError:
            raise ValueError(f"{path} is not a DICOM file; name the views or a slice of the CT") from None
        kept = Dataset()
        for name in _OF_THE_STUDY:
            if name in source:
                kept[name] = source[name]
    return kept
