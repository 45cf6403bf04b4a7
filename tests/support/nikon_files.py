"""A Nikon scan of a disc: parameters as CT Pro writes them, and projections computed ray by ray."""

from __future__ import annotations

import numpy as np
import tifffile

N_VIEWS, N_ROWS, N_COLUMNS = 36, 5, 80
SOURCE_OBJECT, SOURCE_DETECTOR, PITCH = 100.0, 150.0, 0.6
DISC = (6.0, -9.0, 3.0, 0.2)
"""Centre of a rod seen from above in the first view, x to the right and y along the beam, its radius (mm), its 1/mm."""
WHITE = 60000.0
PARAMETERS = {
    "Name": "rod",
    "VoxelsX": 80,
    "VoxelSizeX": 0.4,
    "SrcToObject": SOURCE_OBJECT,
    "SrcToDetector": SOURCE_DETECTOR,
    "MaskRadius": 15.5,
    "DetectorPixelsX": N_COLUMNS,
    "DetectorPixelSizeX": PITCH,
    "DetectorPixelsY": N_ROWS,
    "DetectorPixelSizeY": PITCH,
    "CentreOfRotationTop": "0.6",
    "CentreOfRotationBottom": "0.3",
    "WhiteLevel": f"{WHITE:.1f}",
    "Scattering": "0.0",
    "CoefX4": "0.0",
    "Projections": N_VIEWS,
    "InitialAngle": "180.0",
    "AngularStep": f"{360 / N_VIEWS:.4f}",
    "InputSeparator": "_",
    "InputFolderName": "",
    "Units": "mm",
}
TAIL = (
    "\n[Xrays]\nXraykV=120\nXrayuA=145\n\n[CTPro]\nVersion=V2.2\nFilter_Material=None\nSliceSingle_Region={X=0,Y=0}\n"
)


def write_points(path, points, n_rows, n_columns, rows_pitch, *, angle_step=10.0, n_views=4):
    """Write a scan of small absorbing balls at points (x, y, z) in mm, z up, seen as from the detector.

    Each is a Gaussian spot about where the ray through it meets the detector; bins from the right, rows from the top.
    """
    parameters = PARAMETERS | {
        "Projections": n_views,
        "AngularStep": angle_step,
        "DetectorPixelsX": n_columns,
        "DetectorPixelsY": n_rows,
        "DetectorPixelSizeY": rows_pitch,
        "CentreOfRotationTop": 0,
        "CentreOfRotationBottom": 0,
    }
    path.write_text("[XTekCT]\r\n" + "".join(f"{key}={value}\r\n" for key, value in parameters.items()))
    row, column = np.mgrid[:n_rows, :n_columns]
    for k in range(n_views):
        shadow = np.zeros((n_rows, n_columns))
        for x, y, z in points:
            turned = np.exp(-1j * np.deg2rad(k * angle_step)) * (x + 1j * y)  # clockwise seen from above
            magnification = SOURCE_DETECTOR / (SOURCE_OBJECT + turned.imag)
            from_left = turned.real * magnification / PITCH + (n_columns - 1) / 2
            from_top = (n_rows - 1) / 2 - z * magnification / rows_pitch
            shadow += np.exp(-((column - (n_columns - 1 - from_left)) ** 2 + (row - from_top) ** 2) / (2 * 1.5**2))
        image = np.rint(WHITE * np.exp(-shadow)).astype(np.uint16)
        tifffile.imwrite(path.with_name(f"rod_{k + 1:04d}.tif"), image)
    return path


def line_integrals(angle: float) -> np.ndarray:
    """Integrals through the rod, turned clockwise seen from above; columns from left to right seen from the source."""
    x, y, radius, attenuation = DISC
    cos, sin = np.cos(-angle), np.sin(-angle)
    centre = np.array([cos * x - sin * y, sin * x + cos * y])
    columns = PITCH / 8 * (np.arange(8 * N_COLUMNS) - (8 * N_COLUMNS - 1) / 2)  # eight rays a column
    ray = np.stack([columns, np.full(columns.shape, SOURCE_DETECTOR)], -1)
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    source = np.array([0.0, -SOURCE_OBJECT])
    along = centre - source
    distance = ray[:, 0] * along[1] - ray[:, 1] * along[0]
    chords = 2 * np.sqrt(np.clip(radius**2 - distance**2, 0, None))
    return attenuation * chords.reshape(-1, 8).mean(1)


def write_xtekct(path, *, images=True, tail=TAIL, **changes):
    """Write the parameters, changed or left out for None, and the projections, as seen from the detector."""
    parameters = {key: value for key, value in (PARAMETERS | changes).items() if value is not None}
    path.write_text("[XTekCT]\r\n" + "".join(f"{key}={value}\r\n" for key, value in parameters.items()) + tail)
    for k in range(N_VIEWS * images):
        row = WHITE * np.exp(-line_integrals(np.deg2rad(10.0 * k)))[::-1]
        image = np.rint(np.stack([row] * N_ROWS) - np.arange(N_ROWS)[:, None]).astype(np.uint16)
        tifffile.imwrite(path.with_name(f"rod_{k + 1:04d}.tif"), image)
    return path
