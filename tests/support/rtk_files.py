"""RTK's geometry files, and the projection matrix of RTK's documentation."""

from __future__ import annotations

import numpy as np

VIEWS = [
    {"GantryAngle": 10.0, "ProjectionOffsetX": 1.5, "ProjectionOffsetY": -2.0, "SourceOffsetY": 0.0},
    {"GantryAngle": 131.847274780273, "ProjectionOffsetX": -0.7, "ProjectionOffsetY": -1.0, "SourceOffsetY": 1.0},
    {"GantryAngle": 271.852905273438, "ProjectionOffsetX": 0.4, "ProjectionOffsetY": 0.5, "SourceOffsetY": -2.0},
]
GLOBAL = {"SourceToIsocenterDistance": 240.0, "SourceToDetectorDistance": 400.0}


def matrix(view):
    """M_P of the documentation (3D Circular Projection Geometry), factor by factor."""
    v = dict.fromkeys(("OutOfPlaneAngle", "InPlaneAngle", "SourceOffsetX"), 0.0) | GLOBAL | view
    g, o, i = (np.deg2rad(-v[name]) for name in ("GantryAngle", "OutOfPlaneAngle", "InPlaneAngle"))
    m_r = (
        np.array([[np.cos(i), -np.sin(i), 0, 0], [np.sin(i), np.cos(i), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        @ np.array([[1, 0, 0, 0], [0, np.cos(o), -np.sin(o), 0], [0, np.sin(o), np.cos(o), 0], [0, 0, 0, 1]])
        @ np.array([[np.cos(g), 0, np.sin(g), 0], [0, 1, 0, 0], [-np.sin(g), 0, np.cos(g), 0], [0, 0, 0, 1]])
    )
    shift = np.array(
        [
            [1, 0, v["SourceOffsetX"] - v["ProjectionOffsetX"]],
            [0, 1, v["SourceOffsetY"] - v["ProjectionOffsetY"]],
            [0, 0, 1],
        ]
    )
    sdd, sid = v["SourceToDetectorDistance"], v["SourceToIsocenterDistance"]
    magnify = np.array([[-sdd, 0, 0, 0], [0, -sdd, 0, 0], [0, 0, 1, -sid]])
    source = np.array([[1, 0, 0, -v["SourceOffsetX"]], [0, 1, 0, -v["SourceOffsetY"]], [0, 0, 1, 0], [0, 0, 0, 1]])
    return shift @ magnify @ source @ m_r


def write_rtk(path, views=VIEWS, *, matrices=True, version="3", head="<!DOCTYPE RTKGEOMETRY>\n", **changes):
    """A file as the documentation has it; changes are of the global entries, None leaves one out."""
    common = {name: value for name, value in (GLOBAL | changes).items() if value is not None}
    text = f'<?xml version="1.0"?>\n{head}<RTKThreeDCircularGeometry version="{version}">\n'
    text += "".join(f"  <{name}>{value}</{name}>\n" for name, value in common.items())
    for view in views:
        text += "  <Projection>\n" + "".join(f"    <{name}>{value}</{name}>\n" for name, value in view.items())
        if matrices:
            rows = "\n".join(" ".join(f"{number:.15g}" for number in row) for row in matrix(view))
            text += f"    <Matrix>\n{rows}\n    </Matrix>\n"
        text += "  </Projection>\n"
    path.write_text(text + "</RTKThreeDCircularGeometry>\n")
    return path
