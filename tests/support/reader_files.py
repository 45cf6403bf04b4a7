"""Small files of every format that pnp.readers reads, for its tests."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.io
import tifffile
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
)

from pnp.io.atomic import NotWritten

N_ANGLES, N_ROWS, N_BINS = 6, 3, 9
RNG = np.random.default_rng(0)
SINOGRAM = RNG.random((N_ANGLES, N_BINS))
COUNTS = RNG.integers(100, 60000, (N_ANGLES, N_ROWS, N_BINS), dtype=np.uint16)
VOLUME = RNG.standard_normal((12, 5, 7)).astype(np.float32)
ENHANCED_SEQUENCES = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
)


def refused(read, *args, **kwargs):
    """Return the one sentence of the ValueError."""
    with pytest.raises(ValueError) as caught:
        read(*args, **kwargs)
    message = str(caught.value)
    assert caught.type in (ValueError, NotWritten) and len(message) < 400 and "\n" not in message
    return message


def write_htc(path, *, sinogram=SINOGRAM, variable="CtDataFull", compress=True, **changes):
    parameters = {
        "distanceSourceOrigin": 400.0,
        "distanceSourceDetector": 500.0,
        "distanceUnit": "mm",
        "angles": np.arange(N_ANGLES) * 30.0,
        "pixelSizePost": 0.2,
        "effectivePixelSizePost": 0.16,
        "numDetectorsPost": np.uint16(N_BINS),
        "voltage": "45",
        "freeRayAtDetector": np.array([1, 128, 1, 128], np.uint8),
        "cells": np.array([1, "a"], dtype=object),
    } | changes
    content = {"type": "2d", "sinogram": sinogram, "parameters": {k: v for k, v in parameters.items() if v is not None}}
    scipy.io.savemat(path, {variable: content}, do_compression=compress)
    return path


def write_dx(path, *, axes="theta:y:x", data=COUNTS, theta=None, units="degrees", **others):
    """A Data Exchange file whose data are stored in the order of axes; others: further datasets of exchange."""
    names = ("theta", "y", "x")
    with h5py.File(path, "w") as f:
        f["exchange/data"] = data.transpose([names.index(axis) for axis in axes.split(":")]) if axes else data
        if axes:
            f["exchange/data"].attrs["axes"] = axes
        if theta is not False:
            f["exchange/theta"] = np.arange(N_ANGLES) * 30.0 if theta is None else theta
            if units is not None:
                f["exchange/theta"].attrs["units"] = units
        for name, values in others.items():
            f[f"exchange/{name}"] = values
    return path


def save_dicom(path, data, changes):
    """Write a data set in which some elements are changed, or left out for None."""
    for name, value in changes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def write_dicom(path, z=0.0, *, pixels=None, slope="2", intercept="-1024", **changes):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = changes.pop("syntax", ExplicitVRLittleEndian)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.4"
    pixels = np.arange(30, dtype=np.int16).reshape(6, 5) if pixels is None else pixels
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
    data.Modality, data.SeriesInstanceUID, data.PhotometricInterpretation = "CT", "1.2.3", "MONOCHROME2"
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    data.PixelSpacing, data.SliceThickness = ["0.7", "0.8"], "3"
    data.ImagePositionPatient, data.ImageOrientationPatient = ["-1", "-2", str(z)], ["1", "0", "0", "0", "1", "0"]
    data.PixelData = pixels.tobytes()
    return save_dicom(path, data, changes)


def write_enhanced(path, places=(5.0, 0.0, 2.5), *, legacy=False, shared=(), **changes):
    """Enhanced CT (PS3.3, A.38): a frame per place z, whose stored values are 10 z + 1024 k, slope 1 + k, for frame k.

    shared: names of the sequences that stand for all frames, with the values of the first.
    """
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = changes.pop("syntax", ExplicitVRLittleEndian)
    kind = LegacyConvertedEnhancedCTImageStorage if legacy else EnhancedCTImageStorage
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = kind
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.4"
    data.Modality, data.SeriesInstanceUID, data.PhotometricInterpretation = "CT", "1.2.3", "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 0, 1
    data.Rows, data.Columns, data.NumberOfFrames = 6, 5, len(places)
    frames = []
    for k, z in enumerate(places):
        frame, item = Dataset(), {name: Dataset() for name in ENHANCED_SEQUENCES}
        item["PixelMeasuresSequence"].PixelSpacing, item["PixelMeasuresSequence"].SliceThickness = [0.7, 0.8], 3
        item["PlanePositionSequence"].ImagePositionPatient = [-1, -2, z]
        item["PlaneOrientationSequence"].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        values = item["PixelValueTransformationSequence"]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1 + k, -1024, "HU"
        for name, dataset in item.items():
            setattr(frame, name, [dataset])
        frames.append(frame)
    for name in shared:
        data.SharedFunctionalGroupsSequence = data.get("SharedFunctionalGroupsSequence") or [Dataset()]
        setattr(data.SharedFunctionalGroupsSequence[0], name, getattr(frames[0], name))
        for frame in frames:
            delattr(frame, name)
    data.PerFrameFunctionalGroupsSequence = frames
    pixels = np.array([[[10 * z + 1024 * k] * 5] * 6 for k, z in enumerate(places)], np.uint16)
    data.PixelData = pixels.tobytes()
    return save_dicom(path, data, changes)


def write_any(path):
    """A good file of the format that the suffix says."""
    if path.suffix == ".mat":
        return write_htc(path)
    if path.suffix == ".h5":
        return write_dx(path)
    if path.suffix == ".dcm":
        return write_dicom(path)
    with tifffile.TiffWriter(path) as tiff:  # one page after the other, as other programs write them
        for page in VOLUME:
            tiff.write(page, contiguous=False, metadata=None)
    return path
