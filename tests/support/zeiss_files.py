"""A Zeiss scan: the streams of a .txrm file, of the types that they have in the instrument's files."""

from __future__ import annotations

import numpy as np
from compound_file import write_compound_file

N_VIEWS, N_ROWS, N_COLUMNS = 203, 4, 6
IMAGES = np.random.default_rng(1).integers(100, 60000, (N_VIEWS, N_ROWS, N_COLUMNS), dtype=np.uint16)
REFERENCE = np.random.default_rng(2).uniform(5e4, 6e4, (N_ROWS, N_COLUMNS)).astype(np.float32)
ANGLES = np.linspace(-180, 180, N_VIEWS).astype("<f4")


def _number(form, *values):
    return np.array(values, form).tobytes()


def zeiss_streams(images=IMAGES):
    n, height, width = images.shape
    streams = {
        "Version": _number("<f4", 5.0),
        "exeVersion": b"Version 15.0\0",
        "ImageInfo/NoOfImages": _number("<i4", n),
        "ImageInfo/ImagesTaken": _number("<u4", n),
        "ImageInfo/ImageWidth": _number("<i4", width),
        "ImageInfo/ImageHeight": _number("<i4", height),
        "ImageInfo/DataType": _number("<i4", {"u1": 3, "u2": 5, "f4": 10}[images.dtype.str[1:]]),
        "ImageInfo/AcquisitionMode": _number("<i4", 0),
        "ImageInfo/XrayGeometry": _number("<i4", 1),
        "ImageInfo/Angles": np.resize(ANGLES, n).tobytes(),
        "ImageInfo/StoRADistance": _number("<f4", *[-40.0] * n),
        "ImageInfo/DtoRADistance": _number("<f4", *[60.0] * n),
        "ImageInfo/PixelSize": _number("<f4", 12.5),
        "ImageInfo/ExpTimes": _number("<f4", *[2.0] * n),
        "ImageInfo/Voltage": _number("<f4", 80.0),
        "ImageInfo/MosiacRows": _number("<i4", 0),
        "ImageInfo/MosiacColumns": _number("<i4", 0),
        "Alignment/X-Shifts": _number("<f4", *[0.25] * n),
        "Alignment/Y-Shifts": _number("<f4", *[0.0] * n),
        "ReferenceData/Image": REFERENCE.tobytes(),
        "ReferenceData/DataType": _number("<i4", 10),
        "ReferenceData/ImageInfo/ImageWidth": _number("<i4", width),
        "ReferenceData/ImageInfo/ImageHeight": _number("<i4", height),
        "ReferenceData/ImageInfo/ExpTimes": _number("<f4", 2.0),
    }
    return streams | {f"ImageData{k // 100 + 1}/Image{k + 1}": image.tobytes() for k, image in enumerate(images)}


def write_txrm(path, images=IMAGES, **changes):
    """Write streams, changed or left out for None; in the names of changes, "__" stands for "/" and "_" for "-"."""
    streams = zeiss_streams(images)
    for name, content in changes.items():
        key = name.replace("__", "/").replace("_", "-")
        if content is None:
            del streams[key]
        else:
            streams[key] = content if isinstance(content, bytes) else _number(*content)
    return write_compound_file(path, streams)
