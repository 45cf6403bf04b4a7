"""Small NXtomo files, written with h5py from the NeXus manual, as ESRF, Diamond and ISIS arrange them."""

from __future__ import annotations

import h5py
import numpy as np
from reader_files import COUNTS, N_ANGLES

KEYS = np.array([2, 1, 1, *[0] * (N_ANGLES // 2), 3, *[0] * (N_ANGLES - N_ANGLES // 2), 1, 2])
"""A dark, two flats, half of the views, a failed frame, the other half, a flat and a dark."""
ANGLES = np.arange(N_ANGLES) * 30.0


def frames_of(keys=KEYS, counts=COUNTS):
    """Frames in the order of the scan: views of counts, flats of 60000 + number, darks of 10 + number."""
    frames = np.empty((len(keys), *counts.shape[1:]), np.uint16)
    frames[keys == 0] = counts
    for key, level in ((1, 60000), (2, 10), (3, 0), (-1, 1)):
        which = np.flatnonzero(keys == key)
        frames[which] = level + which[:, None, None]
    return frames


def angles_of(keys=KEYS, angles=ANGLES):
    """An angle for every frame; between views the stage stands still."""
    theta = np.zeros(len(keys))
    theta[keys == 0] = angles
    return theta


def group_of(parent, name, nx_class):
    group = parent.require_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def put(group, name, value, units=None):
    group[name] = value
    if units is not None:
        group[name].attrs["units"] = units


def write_entry(file, name="entry", *, keys=KEYS, data=None, theta=None, units="degree", lengths=None, **others):
    """An entry of a scan; others: further datasets of the detector."""
    entry = file
    for part in name.split("/"):
        entry = group_of(entry, part, "NXentry")
    entry["definition"] = "NXtomo"
    instrument = group_of(entry, "instrument", "NXinstrument")
    detector = group_of(instrument, "detector", "NXdetector")
    detector["data"] = frames_of(keys) if data is None else data
    if keys is not None:
        detector["image_key"] = np.maximum(keys, 0)
    put(group_of(entry, "sample", "NXsample"), "rotation_angle", angles_of(keys) if theta is None else theta, units)
    for where, (value, unit) in (lengths or {}).items():
        put(entry, where, value, unit)
    for key, value in others.items():
        detector[key] = value
    return entry


def write_nxtomo(path, name="entry", **changes):
    with h5py.File(path, "w") as file:
        file.attrs["NX_class"] = "NXroot"
        write_entry(file, name, **changes)
    return path
