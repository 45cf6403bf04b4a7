"""Catalogues and maps of shear in every format: what is read, and one sentence for whatever is wrong with a file."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from reader_files import refused

import pnp.readers.shear_catalogue
import pnp.readers.shear_surveys
from pnp.readers import read_catalogue, read_shear_maps

N = 30
# "/h5": a group of datasets, as h5py users write; ".dat": a commented header, as of numpy.savetxt
FORMATS = [".fits", ".fits.gz", ".csv", ".ecsv", ".h5", "/h5", ".vot", ".xml", ".txt", ".dat", ".tsv"]


def columns(**changes):
    rng = np.random.default_rng(0)
    return {
        "ra": 150 + rng.random(N),
        "dec": 2 + rng.random(N),
        "e1": 0.3 * (rng.random(N) - 0.5),
        "e2": 0.3 * (rng.random(N) - 0.5),
        "w": rng.random(N).astype(">f4") + np.float32(0.1),
        "z_b": rng.random(N),
        "name": np.array([f"g{k}" for k in range(N)]),
    } | changes


def write_table(folder, suffix, table):
    """Write columns, or a Table, in the format of a suffix, and return the path."""
    path = Path(folder) / f"galaxies{suffix.replace('/', '.')}"
    table = table if isinstance(table, Table) else Table(table)
    if suffix == "/h5":
        with h5py.File(path, "w") as file:
            for name in table.colnames:
                values = table[name]
                file[f"galaxies/{name}"] = np.asarray(values, dtype="S" if values.dtype.kind == "U" else None)
                if values.unit is not None:
                    file[f"galaxies/{name}"].attrs["units"] = str(values.unit)
    elif suffix == ".h5":
        if "name" in table.colnames:
            del table["name"]
        table.write(path, format="hdf5", path="galaxies", serialize_meta=True)
    else:
        kinds = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".vot": "votable", ".xml": "votable", ".tsv": "ascii.tab"}
        kinds |= {".txt": "ascii.basic", ".dat": "ascii.commented_header"}
        table.write(path, format=kinds.get(suffix, "fits"))
    return path


# ------------------------------------------------------------------------------------------- catalogues


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_galaxies(tmp_path, suffix):
    want = columns()
    c = read_catalogue(write_table(tmp_path, suffix, columns()))
    for name, column in {"ra": "ra", "dec": "dec", "e1": "e1", "e2": "e2", "weight": "w", "z": "z_b"}.items():
        values = getattr(c, name)
        np.testing.assert_allclose(values, want[column].astype(float), rtol=1e-12)
        assert values.dtype == np.float64 and values.dtype.isnative and values.flags.owndata
    assert c.columns == {"ra": "ra", "dec": "dec", "e1": "e1", "e2": "e2", "weight": "w", "z": "z_b"}
    assert c.dropped == {} and c.kappa is None


@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".h5", "/h5"])
@pytest.mark.parametrize(("unit", "scale"), [("rad", math.pi / 180), ("deg", 1.0), ("arcmin", 60.0)])
def test_units_of_the_file_count(tmp_path, suffix, unit, scale):
    table = Table(columns())
    for name in ("ra", "dec"):
        table[name] = table[name] * scale
        table[name].unit = unit
    c = read_catalogue(write_table(tmp_path, suffix, table))
    np.testing.assert_allclose(c.ra, columns()["ra"], rtol=1e-12)
    np.testing.assert_allclose(c.dec, columns()["dec"], rtol=1e-12)


def test_units_may_be_stated(tmp_path):
    want = columns()
    hours = write_table(tmp_path, ".csv", columns(ra=want["ra"] / 15))
    np.testing.assert_allclose(read_catalogue(hours, unit=("hourangle", "deg")).ra, want["ra"], rtol=1e-12)
    radians = write_table(tmp_path, ".fits", columns(ra=np.radians(want["ra"]), dec=np.radians(want["dec"])))
    np.testing.assert_allclose(read_catalogue(radians, unit="rad").dec, want["dec"], rtol=1e-12)


def test_radians_and_hours_are_noticed(tmp_path):
    want = columns()
    radians = write_table(tmp_path, ".csv", columns(ra=np.radians(want["ra"]), dec=np.radians(want["dec"])))
    assert "could be radians" in refused(read_catalogue, radians)
    hours = write_table(tmp_path, ".ecsv", columns(ra=want["ra"] / 15))
    assert "could be hours" in refused(read_catalogue, hours)
    assert len(read_catalogue(hours, unit="deg")) == N, "what is said counts"


def test_unknown_units_are_refused(tmp_path):
    table = Table(columns())
    table["ra"].unit = units.mag
    path = write_table(tmp_path, ".fits", table)
    assert "'mag'" in refused(read_catalogue, path)
    assert len(read_catalogue(path, unit="deg")) == N
    assert "'turns'" in refused(read_catalogue, path, unit="turns")


@pytest.mark.parametrize(
    "names",
    [
        ("ALPHA_J2000", "DELTA_J2000", "e1", "e2", "weight"),
        ("RA", "DEC", "g1", "g2", "WEIGHT"),
        ("raj2000", "dej2000", "gamma1", "gamma2", "w"),
        ("ra_gal", "dec_gal", "e1_gal", "e2_gal", "lensfit_weight"),
        ("ra", "dec", "mcal_g_1", "mcal_g_2", "wgt"),
    ],
)
def test_the_surveys_names_are_known(tmp_path, names):
    held = columns()
    table = {new: held[old] for new, old in zip(names, ("ra", "dec", "e1", "e2", "w"), strict=True)}
    c = read_catalogue(write_table(tmp_path, ".fits", table))
    assert tuple(c.columns.values()) == names
    np.testing.assert_array_equal(c.e2, held["e2"])


def test_other_names_may_be_told(tmp_path):
    held = columns()
    path = write_table(tmp_path, ".fits", columns(shape_1=held["e2"], shape_2=held["e1"], bias=held["z_b"] / 10))
    c = read_catalogue(path, e1="shape_1", weight=None, z=None, m="bias", c1=0.01, sigma_e=0.3)
    assert c.columns == {"ra": "ra", "dec": "dec", "e1": "shape_1", "e2": "shape_2", "m": "bias"}
    np.testing.assert_array_equal(c.e1, held["e2"])
    np.testing.assert_array_equal(c.weight, 1.0)
    assert c.z is None and set(c.c1) == {0.01} and set(c.sigma_e) == {0.3}
    assert read_catalogue(path, e1="SHAPE_1", weight="W").columns["weight"] == "w"


@pytest.mark.parametrize(
    ("change", "arguments", "part"),
    [
        (
            {"gamma1": 1, "gamma2": 1},
            {},
            "e1, gamma1",
        ),
        ({"weight": 1}, {}, "w, weight"),
        ({"ra": None}, {}, "ra='...'"),
        ({"e2": None}, {}, "e1='e1'"),
        ({}, {"e1": "shape"}, "'shape' for e1"),
        ({}, {"m": "nobody"}, "'nobody' for m"),
        ({"w": -1.0}, {}, "weight"),
    ],
)
def test_wrong_columns_are_refused(tmp_path, change, arguments, part):
    held = columns(**{k: np.full(N, v, dtype=float) for k, v in change.items() if v is not None})
    path = write_table(tmp_path, ".csv", {k: v for k, v in held.items() if change.get(k, 0) is not None})
    assert part in refused(read_catalogue, path, **arguments)


def test_columns_that_hold_equal_numbers_are_no_ambiguity(tmp_path):
    held = columns()
    twice = columns(raj2000=held["ra"] * (1 + 1e-9), decj2000=held["dec"])
    assert read_catalogue(write_table(tmp_path, ".fits", twice)).columns["ra"] == "ra"
    apart = write_table(tmp_path, ".csv", columns(raj2000=held["ra"] + 0.01))
    assert "ra, raj2000" in refused(read_catalogue, apart)


def test_redshifts_are_asked_for_where_they_are_used(tmp_path):
    c = read_catalogue(write_table(tmp_path, ".fits", columns(z_spec=np.ones(N))))
    assert c.z is None and "z" not in c.columns
    assert "z='...'" in refused(c.select, z_max=1)


def test_messages_name_whole_columns():
    """Names of HSC differ after 24 characters, and what is copied from a message must exist."""
    names = ["ishape_hsm_regauss_derived_shape_weight", "ishape_hsm_regauss_derived_sigma_e"]
    table = Table(columns() | {name: np.ones(N) for name in names})
    said = refused(read_catalogue, table, weight="ishape_hsm_regauss_derived_weight")
    assert names[0] in said and len(said) < 400
    wide = Table({f"a_column_with_a_name_that_is_rather_long_{k}": np.ones(3) for k in range(99)})
    said = refused(read_catalogue, wide)
    assert "_0, a_column" in said and "more" in said and len(said) < 400


@pytest.mark.parametrize("suffix", [".fits", ".h5", ".ecsv"])
def test_components_of_vectors(tmp_path, suffix):
    held = columns()
    table = Table(columns(g=np.stack([held["e1"], held["e2"]], 1), R=np.tile(0.5 * np.eye(2), (N, 1, 1))))
    path = write_table(tmp_path, suffix, table)
    c = read_catalogue(path, e1="g[0]", response="R")
    np.testing.assert_array_equal(c.e2, held["e2"])
    assert c.columns["e2"] == "g[1]" and c.response.shape == (N, 2, 2)
    assert set(read_catalogue(path, response="R[0,0]").response) == {0.5}
    assert "component" in refused(read_catalogue, path, e1="g[2]", e2="g[1]", response=1)


@pytest.mark.parametrize(
    ("names", "arguments"),
    [
        (["m", "c1", "c2"], {"m": "m", "c1": 0, "c2": "c2"}),
        (["R11", "R22"], {"response": ("R11", "R22")}),
        (["mcal_r_11"], {"response": 1.0}),
        (["responsivity"], {"response": "responsivity"}),
        (["i_hsmshaperegauss_derived_shear_bias_m"], {"m": 0}),
    ],
)
def test_calibration_that_is_not_used_is_named(tmp_path, names, arguments):
    path = write_table(tmp_path, ".fits", columns(**{name: np.full(N, 0.5) for name in names}))
    with pytest.warns(UserWarning, match=names[0]) as caught:
        c = read_catalogue(path)
    assert set(c.unused) == set(names) and all(len(str(w.message)) < 400 for w in caught)
    assert "not used" in repr(c)
    assert read_catalogue(path, **arguments).unused == ()


@pytest.mark.parametrize("survey", sorted(pnp.readers.shear_surveys.SURVEYS))
def test_presets_read_the_columns_of_their_release(tmp_path, survey):
    arguments, _, source = pnp.readers.shear_surveys.SURVEYS[survey]
    held, given = columns(), dict(arguments)
    given.pop("table", None)
    plain = {name: given[name] for name in ("ra", "dec", "e1", "e2") if name in given}
    table = {column: held[name] for name, column in plain.items()} | {"other": held["w"]}
    for name in ("weight", "z", "m", "c1", "c2", "rms_e"):
        if isinstance(given.get(name), str):
            table[given[name]] = np.full(N, 0.3)
    table |= {
        column: np.full(N, 0.6 if column in ("R11", "R22") else 0.0)
        for row in given.get("response", ())
        for column in row
    }
    c = read_catalogue(write_table(tmp_path, ".fits", Table(table)), survey=survey)
    assert c.unused == () and {c.columns[name] for name in plain} == set(plain.values())
    np.testing.assert_array_equal(c.e2, held["e2"])
    assert source and read_catalogue(Table(table), survey=survey, weight="other").columns["weight"] == "other"


def test_unknown_surveys_are_refused():
    assert "kids-1000" in refused(read_catalogue, Table(columns()), survey="lsst-y10")
    assert "response" in refused(read_catalogue, Table(columns()), response=1, rms_e=0.3)
    assert "response='R11'" in refused(read_catalogue, Table(columns(R11=np.ones(N))), m="R11")


def test_text_and_vectors_are_refused(tmp_path):
    path = write_table(tmp_path, ".fits", columns(pair=np.ones((N, 2))))
    assert ": e1 " in refused(read_catalogue, path, e1="pair", e2="e2")
    with pytest.raises(TypeError, match=": e1 "):
        read_catalogue(path, e1="name", e2="e2")
    with pytest.raises(TypeError, match=": e1 "):
        read_catalogue(path, e1=3)
    with pytest.raises(TypeError, match=": ra "):
        read_catalogue(path, ra="name")
    with pytest.raises(TypeError, match="source"):
        read_catalogue([1, 2])


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_without_values_are_counted(tmp_path, suffix):
    held = columns()
    held["e1"][:3], held["w"][2:6], held["z_b"][7] = np.nan, 0, np.nan
    c = read_catalogue(write_table(tmp_path, suffix, held))
    assert c.dropped == {"not finite": 3, "weight 0": 3} and len(c) == N - 6
    assert c.select(z_min=-1, z_max=2).dropped == {"not finite": 3, "weight 0": 3, "z outside [-1, 2)": 1}


@pytest.mark.parametrize("suffix", [".fits", ".csv", ".ecsv", ".h5"])
def test_blanks_are_no_numbers(tmp_path, suffix):
    table = Table(columns())
    table["e1"] = MaskedColumn(table["e1"], mask=np.arange(N) < 4)
    table["w"] = MaskedColumn(np.full(N, 2), mask=np.arange(N) == 5)  # integers, which have no NaN
    assert read_catalogue(write_table(tmp_path, suffix, table)).dropped == {"not finite": 5}


def test_tables_in_memory_are_read_too():
    table = Table(columns())
    c = read_catalogue(table[table["z_b"] > 0.5])
    assert 0 < len(c) < N and c.path == ""
    q = QTable(columns())
    q["ra"] *= units.deg
    np.testing.assert_array_equal(read_catalogue(q).ra, columns()["ra"])


def test_one_of_several_tables(tmp_path):
    path = tmp_path / "a.fits"
    parts = [fits.table_to_hdu(Table(columns(w=np.full(N, float(k))))) for k in (1, 2)]
    parts[0].name, parts[1].name = "NORTH", "SOUTH"
    fits.HDUList([fits.PrimaryHDU(), *parts]).writeto(path)
    assert read_catalogue(path, table="south").weight[0] == 2 and read_catalogue(path, table=1).weight[0] == 1
    for table in (None, "east"):
        assert "NORTH (BinTableHDU)" in refused(read_catalogue, path, table=table)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name in ("north", "deep/south"):
            for column, values in columns().items():
                file[f"{name}/{column}"] = values.astype("S") if column == "name" else values
    assert len(read_catalogue(path, table="deep/south")) == N
    assert "deep/south, north" in refused(read_catalogue, path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_empty_and_damaged_tables_are_one_sentence(tmp_path, suffix):
    path = write_table(tmp_path, suffix, Table(columns())[:0])
    # astropy finds no columns in a commented header alone
    assert ("a galaxy" if suffix != ".dat" else "text table") in refused(read_catalogue, path)
    path.unlink()
    whole = write_table(tmp_path, suffix, columns(e1=np.full(N, 0.1))).read_bytes()
    for cut in (0, 10, len(whole) // 2):
        path.write_bytes(whole[:cut])
        try:
            n = len(read_catalogue(path))
        except ValueError as error:
            assert str(path) in str(error) and len(str(error)) < 400 and "\n" not in str(error)
        else:  # half a text is a text, if a shorter one
            assert suffix in (".csv", ".ecsv") and n < N
    path.write_bytes(np.random.default_rng(1).bytes(3000))
    assert str(path) in refused(read_catalogue, path)


def test_what_is_no_table(tmp_path):
    assert "no such file" in refused(read_catalogue, tmp_path / "a.fits")
    assert "is a folder" in refused(read_catalogue, tmp_path)
    fits.PrimaryHDU(np.ones((4, 4))).writeto(tmp_path / "map.fits")
    assert "table" in refused(read_catalogue, tmp_path / "map.fits")
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    assert ".h5" in refused(read_catalogue, tmp_path / "a.xlsx")


def test_a_votable_written_by_hand(tmp_path):
    """By the standard (VOTable 1.4, section 4), as archives send it: units, a name beside the ID, two tables."""
    fields = "".join(
        f'<FIELD ID="c{k}" name="{name}" datatype="double"{unit}/>'
        for k, (name, unit) in enumerate([("ra", ' unit="arcmin"'), ("dec", ' unit="arcmin"'), ("e1", ""), ("e2", "")])
    )
    rows = "".join(f"<TR><TD>{60 * (150 + k)}</TD><TD>120</TD><TD>0.1</TD><TD>-0.{k}</TD></TR>" for k in range(3))
    table = f'<TABLE name="shapes">{fields}<DATA><TABLEDATA>{rows}</TABLEDATA></DATA></TABLE>'
    xml = '<?xml version="1.0"?><VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE>{}'
    path = tmp_path / "archive.xml"
    path.write_text((xml + "</RESOURCE></VOTABLE>").format(table))
    c = read_catalogue(path)
    assert c.ra.tolist() == pytest.approx([150, 151, 152]) and c.e2.tolist() == [0, -0.1, -0.2]
    path.write_text((xml + "</RESOURCE></VOTABLE>").format(table + table.replace("shapes", "stars")))
    assert "table=0" in refused(read_catalogue, path)
    assert len(read_catalogue(path, table="shapes")) == len(read_catalogue(path, table=1)) == 3


def test_text_without_names_is_read_by_number(tmp_path):
    path = tmp_path / "shapes.txt"
    path.write_text("# made by hand\n150.0 2.0 0.1 0.2\n150.1 2.1 -0.1 0.0\n")
    assert "col1" in refused(read_catalogue, path)
    c = read_catalogue(path, ra="col1", dec="col2", e1="col3", e2="col4")
    assert c.e1.tolist() == [0.1, -0.1]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    held = columns()
    vector = [list(pair) for pair in zip(held["e1"], held["e2"], strict=True)]
    arrays = {name: pyarrow.array(np.asarray(held[name]).astype(float)) for name in ("ra", "dec", "w", "z_b")}
    parquet.write_table(pyarrow.table(arrays | {"g": pyarrow.array(vector)}), tmp_path / "shapes.parquet")
    c = read_catalogue(tmp_path / "shapes.parquet", e1="g[0]")
    np.testing.assert_array_equal(c.e2, held["e2"])


def test_parquet_without_pyarrow_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "shapes.parquet"
    path.write_bytes(b"PAR1")
    assert "pyarrow" in refused(read_catalogue, path)


def test_healpix_maps_are_recognised(tmp_path):
    """Cards of a map of the sphere as healpy writes them."""
    hdu = fits.BinTableHDU(Table({"Q_POLARISATION": np.zeros(12, "f4"), "U_POLARISATION": np.zeros(12, "f4")}))
    hdu.header.update(PIXTYPE="HEALPIX", ORDERING="RING", NSIDE=1, INDXSCHM="IMPLICIT", COORDSYS="C")
    hdu.writeto(tmp_path / "sphere.fits")
    for read in (read_catalogue, read_shear_maps):
        said = refused(read, tmp_path / "sphere.fits", e1="Q_POLARISATION", e2="U_POLARISATION")
        assert "HEALPix" in said and "tangent" in said


def test_aliases_are_lower_case_and_unique():
    every = [name for names in pnp.readers.shear_catalogue.ALIASES.values() for name in names]
    assert len(set(every)) == len(every) and all(name == name.lower() for name in every)
