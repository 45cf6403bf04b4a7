"""SPECT files that say a radius, a collimator or an energy window in one of the ways in which files say it."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from reader_files import refused
from spect_files import QUARTERS, items, write_interfile, write_nm

from operators import collimator_fwhm
from pnp.readers import EnergyWindow, SpectScan, read_dicom_nm, read_interfile
from pnp.spect import intrinsic_fwhm, lead_attenuation

V8 = {
    ";program version := V7.0.1": "program version := V8.0",
    "camera := 0.380": "camera := 3.80",
    "diameter := 0.294": "diameter := 2.94",
    "thickness := 4.064": "thickness := 40.64",
    "Radius := 23.0": "Radius := 230.0",
}


@pytest.mark.parametrize("replace", [{}, V8], ids=["cm before version 8", "mm from version 8 on"])
def test_simind_states_one_camera_in_two_units(tmp_path, replace):
    scan = read_interfile(write_interfile(tmp_path / "a.h00", QUARTERS, replace=replace))
    sheet = scan.facts["collimator_mm"]
    assert sheet == pytest.approx(
        {
            "hole_diameter": 2.94,
            "hole_length": 40.64,
            "intrinsic": 3.8 * math.sqrt(140 / 208),
            "septal_attenuation": lead_attenuation(208.0),
        }
    )
    assert scan.radius_mm is not None and scan.radius_mm.tolist() == [230.0] * 4
    # By hand: an effective length of 40.64 - 2/1.033 = 38.70 mm, 2.94 (38.70 + 230)/38.70 = 20.41, and 3.118.
    fwhm = collimator_fwhm(1, 230.0, voxel_size=4.8, **sheet)
    assert float(fwhm[0]) == pytest.approx(math.hypot(20.41, 3.118), rel=1e-3)


@pytest.mark.parametrize(
    ("replace", "said"),
    [
        ({";program version := V7.0.1\n": ""}, "program version"),
        ({"V7.0.1": "V8.0.3"}, "hole_diameter is 0.294 mm"),  # centimetres in a file of millimetres
        ({"diameter := 0.294": "diameter := 2.94"}, "hole_diameter is 29.4 mm"),
        ({"thickness := 4.064": "thickness := 40.64"}, "hole_length is 406.4 mm"),
        ({";# SIMIND: Photon Energy := 208.000\n": ""}, "photon's energy"),
        ({"Photon Energy := 208.000": "Photon Energy := lu177"}, "photon's energy"),
    ],
)
def test_simind_collimators_that_can_be_read_otherwise(tmp_path, replace, said):
    with pytest.warns(UserWarning, match=said):
        read_interfile(write_interfile(tmp_path / "a.h00", QUARTERS, replace=replace))


def test_a_collimator_of_no_camera_is_questioned_in_any_format(tmp_path):
    scan = read_dicom_nm(write_nm(tmp_path / "a.dcm", QUARTERS))
    with pytest.warns(UserWarning, match="hole_length"):
        scan.operator(collimator={"hole_diameter": 2.9, "hole_length": 406.0})
    scan.operator(collimator={"hole_diameter": 2.9, "hole_length": 40.6})


def test_lead_at_the_energies_of_the_table_and_its_edge():
    """NIST SRD 126, Z = 82: mass attenuation in cm^2/g, times 11.35 g/cm^3, in 1/mm."""
    for energy, mass in ((60.0, 5.021), (100.0, 5.549), (200.0, 0.9985), (400.0, 0.2323)):
        assert lead_attenuation(energy) == pytest.approx(1.135 * mass)
    assert lead_attenuation(87.9) < 2.3 < 8.6 < lead_attenuation(88.1)
    assert intrinsic_fwhm(4.0, 35.0) == 8.0
    assert "keV" in refused(lead_attenuation, 0.2)


# ------------------------------------------------------------------------------------------- windows


def test_a_window_of_several_ranges_is_as_wide_as_its_ranges(tmp_path):
    """111In, 171 and 245 keV in one window of 28 + 40 keV, between windows of 16 keV with 20 counts a bin."""
    ranges = [[(157, 185), (225, 265)], [(140, 156)], [(266, 282)]]
    windows = items(*(
        {
            "EnergyWindowRangeSequence": items(*(
                {"EnergyWindowLowerLimit": low, "EnergyWindowUpperLimit": high} for low, high in window
            ))
        }
        for window in ranges
    ))  # fmt: skip
    path = write_nm(
        tmp_path / "a.dcm",
        np.concatenate([0 * QUARTERS + n for n in (400, 20, 20)]),
        EnergyWindowVector=np.repeat([1, 2, 3], 4).tolist(),
        AngularViewVector=[1, 2, 3, 4] * 3,
        EnergyWindowInformationSequence=windows,
    )
    scan = read_dicom_nm(path)
    assert [w.width_kev for w in scan.windows] == [68, 16, 16] and scan.windows[0].energies == "157-185 + 225-265 keV"
    with pytest.warns(UserWarning, match=r"157-185 \+ 225-265 keV, 68 keV"):
        scatter = scan.scatter(0, 1, 2)
    np.testing.assert_allclose(scatter, (20 / 16 + 20 / 16) / 2 * 68)
    assert EnergyWindow("", 1, 9, ((1, 5), (4, 9))).width_kev == 8


# ------------------------------------------------------------------------------------------- radii


def two_heads(path: Any, radii: list[Any], **changes: Any) -> Any:
    heads = [{"StartAngle": start, "RadialPosition": r} for start, r in zip(("0", "180"), radii, strict=True)]
    return write_nm(
        path,
        QUARTERS,
        DetectorVector=[1, 1, 2, 2],
        AngularViewVector=[1, 2, 1, 2],
        DetectorInformationSequence=items(*({k: v for k, v in head.items() if v is not None} for head in heads)),
        **changes,
    )


def turn(**more: Any) -> dict[str, Any]:
    return {"StartAngle": "0", "AngularStep": "90", "RotationDirection": "CC", **more}


@pytest.mark.parametrize(
    ("radii", "changes", "expected"),
    [
        ([["200", "210"], ["220", "230"]], {}, [200, 210, 220, 230]),
        (["200", "220"], {}, [200, 200, 220, 220]),
        ([None, None], {"RotationInformationSequence": items(turn(RadialPosition=["200", "210"]))}, [200, 210] * 2),
        (
            [None, None],
            {"RotationInformationSequence": items(turn(RadialPosition=["200", "210", "220", "230"]))},
            [200, 210, 220, 230],
        ),
        (  # a rotation item a detector, whose frames are all of rotation 1
            [None, None],
            {
                "RotationInformationSequence": items(
                    turn(RadialPosition=["200", "210"]), turn(RadialPosition=["220", "230"])
                )
            },
            [200, 210, 220, 230],
        ),
        (  # a rotation a detector, by number
            [None, None],
            {
                "RotationVector": [1, 1, 2, 2],
                "RotationInformationSequence": items(
                    turn(RadialPosition=["200", "210"]), turn(StartAngle="180", RadialPosition=["220", "230"])
                ),
            },
            [200, 210, 220, 230],
        ),
    ],
)
def test_dicom_radii_wherever_they_are(tmp_path, radii, changes, expected):
    scan = read_dicom_nm(two_heads(tmp_path / "a.dcm", radii, **changes))
    assert scan.radius_mm is not None and scan.radius_mm.tolist() == expected
    assert np.rad2deg(scan.angles).tolist() == pytest.approx([180, 90, 0, 270])


@pytest.mark.parametrize(
    ("radii", "said"),
    [
        ([["0", "0"], ["0", "0"]], "0 in 2"),
        ([["200", "0"], ["220", "230"]], "0 in 1"),
        ([["200", "210", "220"], ["220", "230", "240"]], "3 radii for 2 views"),
        ([["200", "210"], None], "missing"),
    ],
)
def test_dicom_radii_that_are_not_known(tmp_path, radii, said):
    path = two_heads(tmp_path / "a.dcm", radii)
    with pytest.warns(UserWarning, match=said):
        assert read_dicom_nm(path).radius_mm is None
    scan = read_dicom_nm(path, radius_mm=[200, 210, 220, 230])
    assert scan.radius_mm is not None and scan.radius_mm.tolist() == [200, 210, 220, 230]
    assert "radius_mm" in refused(read_dicom_nm, path, radius_mm=[200, 210])


PER_VIEW = "\n".join(f"Radius Per View [{k}] := {r}" for k, r in ((2, 210), (1, 200), (3, 220), (4, 230)))


def interfile_radii(tmp_path: Any, line: str, **options: Any) -> list[float] | None:
    path = write_interfile(tmp_path / "a.h00", QUARTERS, replace={"Radius := 23.0": line})
    radius = read_interfile(path, **options).radius_mm
    return None if radius is None else radius.tolist()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Radii := {200, 210, 220, 230}", [200, 210, 220, 230]),
        ("Radius := {200 210 220 230}", [200, 210, 220, 230]),
        (PER_VIEW, [200, 210, 220, 230]),
        ("Radius Per View [1] := {200, 210, 220, 230}", [200, 210, 220, 230]),
        # A comment that another program left, whose file did not travel along.
        (";# Non-Uniform Orbit File := gone.cor\nRadii := {200, 210, 220, 230}", [200, 210, 220, 230]),
        (";# Non-Uniform Orbit File := gone.cor\nRadius := 23.0", [230] * 4),
    ],
)  # fmt: skip
def test_interfile_radii_wherever_they_are(tmp_path, line, expected):
    assert interfile_radii(tmp_path, line) == expected


COR = {
    "simind": (" 20.000 64\n 21.000 64\n 22.0 64\n 23.0 64\n\n", None),
    "with angles": ("COR_USAGE=DEFINE_ROTATION\t\n20\t0.00\n21\t90.00\n22\t180.0\n23\t270.0\n", None),
    "in mm": ("200 64\n210 64\n220 64\n230 64\n", None),
    "with other angles": ("COR_USAGE=DEFINE_ROTATION\n20\t0.0\n21\t14.2\n22\t28.5\n23\t42.7\n", "42.7"),
}


@pytest.mark.parametrize("name", COR)
def test_orbit_files_of_either_kind(tmp_path, name):
    text, said = COR[name]
    (tmp_path / "a.cor").write_text(text)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert interfile_radii(tmp_path, ";# Non-Uniform Orbit File := a.cor") == [200, 210, 220, 230]
    assert [said in str(w.message) for w in caught if said] == [True] * bool(said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Radius := 0", "0 in 1"),
        ("Radii := {200, 0, 220, 230}", "0 in 1 of 4"),
        ("Radii := {200, 210}", "2 radii for 4 views"),
        (";# Non-Uniform Orbit File := short.cor", "short.cor has 3 radii"),
        (";# Non-Uniform Orbit File := gone.cor", "gone.cor"),
    ],
)
def test_interfile_radii_that_are_not_known(tmp_path, line, said):
    (tmp_path / "short.cor").write_text("20 64\n20 64\n20 64\n")
    with pytest.warns(UserWarning, match=said):
        assert interfile_radii(tmp_path, line) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert interfile_radii(tmp_path, line, radius_mm=231) == [231.0] * 4


def test_orbit_files_of_words_are_refused(tmp_path):
    (tmp_path / "a.cor").write_text("twenty\n")
    path = write_interfile(
        tmp_path / "a.h00", QUARTERS, replace={"Radius := 23.0": ";# Non-Uniform Orbit File := a.cor"}
    )
    assert "a.cor" in refused(read_interfile, path)
    assert isinstance(read_interfile(path, radius_mm=[1, 2, 3, 4]), SpectScan)
