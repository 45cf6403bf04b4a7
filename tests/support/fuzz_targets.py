"""What is fuzzed: every reader with a small good file, ways to spoil its bytes, and what must never happen then."""

from __future__ import annotations

import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import nibabel
import numpy as np
import scipy.io
import tifffile
import torch
from astropy.table import Table
from nexus_files import write_nxtomo
from nikon_files import write_xtekct
from PIL import Image
from reader_files import VOLUME, write_dicom, write_dx, write_enhanced, write_htc
from rtk_files import write_rtk
from spect_files import seen_from, write_interfile, write_nm
from zeiss_files import IMAGES, write_txrm

from denoisers import MLPatch, SuperResolver
from pnp.io import (
    read_fits_maps,
    read_image,
    read_measurements,
    read_nifti,
    read_result,
    write_fits_maps,
    write_image,
    write_measurements,
    write_nifti,
    write_result,
)
from pnp.learned import Glimpse, UnrolledEM
from pnp.readers import (
    read_catalogue,
    read_dicom,
    read_dicom_nm,
    read_dxchange,
    read_htc2022,
    read_htc2022_segmentation,
    read_interfile,
    read_nxtomo,
    read_rtk_geometry,
    read_scan,
    read_shear_maps,
    read_tiff_scan,
    read_tiff_stack,
    read_txrm,
    read_xtekct,
)
from pnp.training.images import load_folder
from pnp.training.state import CHECKPOINT_KEYS, load_checkpoint

RNG = np.random.default_rng(0)
IMAGE = RNG.random((6, 7)).astype(np.float32)
FRAMES = np.stack([seen_from(phi) for phi in (0, 90, 180, 270)])


class Target(NamedTuple):
    """A reader and a good file of its format; both are named by the file."""

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]


def _measurements(path: Path) -> None:
    parameters = {"shape": (4, 4), "angles": np.array([0, 0.5, 1.0]), "n_detectors": 4}
    more = {"noise_std": np.full((1, 1, 3, 4), 0.1), "reference": IMAGE[None, None, :4, :4], "units": "1"}
    write_measurements(path, RNG.random((1, 1, 3, 4)), operator="radon", parameters=parameters, **more)


def _spect(path: Path) -> None:
    parameters = {"shape": (3, 3, 2), "angles": np.array([0, 1.0]), "voxel_size": (4.8, 5.0), "attenuation": VOLUME[:3]}
    camera = {"radius": np.array([230.0, 231.0]), "hole_diameter": 2.94, "hole_length": 40.0}
    more = {"background": 0.5, "collimator": camera, "units": "counts"}
    write_measurements(path, np.ones((1, 1, 2, 3, 2)), operator="spect", parameters=parameters, **more)


def _result(path: Path) -> None:
    history = {"sigma": [0.2, 0.1], "alpha": [1.0, 2.0]}
    facts = {"stop": "converged", "n_iter": 2, "command": "pnp"}
    write_result(path, IMAGE[None, None], noise_std=0.1, history=history, attributes=facts, operator="mask")


def _tomoscan(path: Path) -> None:
    """Angles, flats and the size of a bin where TomoScan has them."""
    write_dx(path, theta=False, axes="theta:y:x")
    numbers = {
        "process/acquisition/rotation/rotation_start": (0.0, "degrees"),
        "process/acquisition/rotation/rotation_step": (30.0, "degrees"),
        "process/acquisition/flat_fields/flat_field_value": (60000.0, "counts"),
        "measurement/instrument/detection_system/objective/resolution": (0.69, "Microns"),
        "measurement/instrument/detector/pixel_size": (3.45, "microns"),
    }
    with h5py.File(path, "a") as file:
        for name, (value, units) in numbers.items():
            file[name] = value
            file[name].attrs["units"] = units
        file["defaults/HDF5FrameLocation"] = np.array([b"/exchange/data"] * 6, "S256")
        file["defaults/NDArrayUniqueId"] = np.array([0, 1, 2, 4, 5, 6], np.int32)


def _master(path: Path) -> None:
    """Frames in a file beside, by a link and by a virtual dataset."""
    write_nxtomo(path.with_name("frames.h5"))
    with h5py.File(write_nxtomo(path), "a") as file:
        detector = file["entry/instrument/detector"]
        layout = h5py.VirtualLayout(detector["data"].shape, "u2")
        del detector["data"], detector["image_key"]
        layout[:] = h5py.VirtualSource("frames.h5", "entry/instrument/detector/data", layout.shape)
        detector.create_virtual_dataset("data", layout)
        detector["image_key"] = h5py.ExternalLink("frames.h5", "/entry/instrument/detector/image_key")


def _table(path: Path) -> None:
    columns = {name: low + RNG.random(9) for name, low in {"ra": 150, "dec": 2, "e1": -0.5, "e2": -0.5, "w": 0}.items()}
    if path.suffix in (".h5", ".fits"):
        Table(columns).write(path, **({"path": "t", "serialize_meta": True} if path.suffix == ".h5" else {}))
    else:
        Table(columns).write(path, format=f"ascii.{path.suffix[1:]}")


def _group(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, low in {"ra": 150, "dec": 2, "e1": -0.5, "e2": -0.5}.items():
            file[f"galaxies/{name}"] = low + RNG.random(9)


def _shear(path: Path) -> None:
    maps = {"e1": IMAGE, "e2": -IMAGE, "noise_std": IMAGE + 1, "mask": IMAGE > 0.5}
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, values in maps.items():
                file[name] = values
    else:
        write_fits_maps(path, maps, header={"SHEARCON": "lenspack", "PIXARCMN": 1.5})


def _packed(path: Path) -> None:
    from astropy.io import fits

    parts = [fits.PrimaryHDU(), fits.CompImageHDU(np.arange(64, dtype=np.int16).reshape(8, 8), name="PACKED")]
    fits.HDUList(parts).writeto(path)


def _bare_dicom(path: Path) -> None:
    path.write_bytes(write_dicom(path).read_bytes()[132:])


def _stack(path: Path) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for page in VOLUME[:3]:
            tiff.write(page, contiguous=False, metadata=None)


def _packed_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.arange(400, dtype=np.uint16).reshape(20, 20), compression="zlib", tile=(16, 16))


def _seg(path: Path) -> None:
    scipy.io.savemat(path, {"fbpSeg": np.zeros((512, 512), np.uint8)}, do_compression=True)


def _picture(path: Path) -> None:
    Image.fromarray((IMAGE * 255).astype(np.uint8)).save(path)


def _indexed(path: Path) -> None:
    Image.fromarray((IMAGE * 255).astype(np.uint8)).quantize(16).save(path)


def _checkpoint(path: Path) -> None:
    torch.save(
        {key: torch.arange(3) for key in CHECKPOINT_KEYS} | {"history": [[1, 2.0, 3.0]], "options": {"seed": 0}}, path
    )


def _photographs(path: Path) -> Any:
    return load_folder(path.parent)


SMALL = {"features": 4, "hidden": 4}
TARGETS: dict[str, Target] = {
    "measurements.h5": Target(_measurements, read_measurements),
    "spect.h5": Target(_spect, read_measurements),
    "result.h5": Target(_result, read_result),
    "image.h5": Target(lambda p: write_image(p, IMAGE), read_image),
    "dxchange.h5": Target(lambda p: write_dx(p, data_white=np.ones((2, 3, 9))), read_dxchange),
    "tomoscan.h5": Target(_tomoscan, read_dxchange),
    "nxtomo.h5": Target(write_nxtomo, read_nxtomo),
    "master.h5": Target(_master, read_nxtomo),
    "any.h5": Target(_tomoscan, read_scan),
    "table.h5": Target(_table, read_catalogue),
    "columns.h5": Target(_group, read_catalogue),
    "shear.h5": Target(_shear, read_shear_maps),
    "table.fits": Target(_table, read_catalogue),
    "table.csv": Target(_table, read_catalogue),
    "table.ecsv": Target(_table, read_catalogue),
    "shear.fits": Target(_shear, read_shear_maps),
    "maps.fits": Target(_shear, read_fits_maps),
    "packed.fits": Target(_packed, read_fits_maps),
    "image.fits": Target(lambda p: write_image(p, IMAGE), read_image),
    "image.fits.gz": Target(lambda p: write_fits_maps(p, {"A": IMAGE}), read_image),
    "scan.mat": Target(write_htc, read_htc2022),
    "flat.mat": Target(lambda p: write_htc(p, compress=False), read_htc2022),
    "any.mat": Target(lambda p: write_htc(p, variable="Walnut"), read_scan),
    "any.tif": Target(_stack, lambda p: read_scan(p, angles=[0.0, 1.0, 2.0], kind="counts")),
    "seg.mat": Target(_seg, read_htc2022_segmentation),
    "ct.dcm": Target(write_dicom, read_dicom),
    "scan.txrm": Target(lambda p: write_txrm(p, IMAGES[:3]), read_txrm),
    "rod.xtekct": Target(write_xtekct, read_xtekct),
    "geometry.xml": Target(write_rtk, lambda p: read_rtk_geometry(p, (5, 7), 1.0)),
    "enhanced.dcm": Target(write_enhanced, read_dicom),
    "bare.dcm": Target(_bare_dicom, read_dicom),
    "nm.dcm": Target(lambda p: write_nm(p, FRAMES), read_dicom_nm),
    "views.h00": Target(lambda p: write_interfile(p, FRAMES), read_interfile),
    "stack.tif": Target(_stack, read_tiff_stack),
    "packed.tif": Target(_packed_tiff, read_tiff_stack),
    "scan.tif": Target(_stack, lambda p: read_tiff_scan(p, angles=[0.0, 0.5, 1.0], rows=slice(1, 3), kind="counts")),
    "image.tif": Target(lambda p: write_image(p, IMAGE), read_image),
    "image.npy": Target(lambda p: write_image(p, IMAGE), read_image),
    "image.png": Target(_picture, read_image),
    "image.jpg": Target(_picture, read_image),
    "colour16.png": Target(lambda p: write_image(p, np.stack([IMAGE] * 3), bits=16), read_image),
    "indexed.png": Target(_indexed, read_image),
    "indexed.tif": Target(_indexed, read_image),
    "photograph.png": Target(_picture, _photographs),
    "photograph.tif": Target(_picture, _photographs),
    "volume.nii": Target(lambda p: write_nifti(p, VOLUME, 4.8), read_nifti),
    "volume.nii.gz": Target(lambda p: write_nifti(p, VOLUME, 4.8), read_nifti),
    "second.nii": Target(lambda p: nibabel.save(nibabel.Nifti2Image(VOLUME, np.eye(4)), p), read_nifti),
    "mlpatch.safetensors": Target(
        lambda p: MLPatch(**SMALL, taps=3, patch=3, dilations=(1,)).save(p), MLPatch.from_pretrained
    ),
    "super.safetensors": Target(lambda p: SuperResolver(1, taps=3, hidden=4).save(p), SuperResolver.from_pretrained),
    "glimpse.safetensors": Target(
        lambda p: Glimpse((8, 8), np.linspace(0, 3, 4), n_detectors=8, **SMALL, blocks=(1,)).save(p),
        Glimpse.from_pretrained,
    ),
    "em.safetensors": Target(lambda p: UnrolledEM(n_outer=1, features=2, layers=2).save(p), UnrolledEM.from_pretrained),
    "checkpoint.pt": Target(_checkpoint, load_checkpoint),
}


class Edit(NamedTuple):
    """One change of a file's bytes: what, where (0 to 1 of its length), and with which number."""

    kind: str
    place: float
    value: int


WORDS = (b"99999999999", b"-1", b"0", b"nan", b"1e308", b"../../etc/passwd", b"\xff\xfe", b"")
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1, 10**6)
KINDS = ("flip", "byte", "number", "truncate", "remove", "repeat", "splice", "word")


def spoil(content: bytes, edits: list[Edit]) -> bytes:
    """Return a file's bytes after some edits; half of the places are in its first 512 bytes, where headers are."""
    data = bytearray(content)
    for kind, place, value in edits:
        early = value % 2 and len(data) > 512
        at = min(int(place * (512 if early else len(data))), max(len(data) - 1, 0))
        if kind == "flip" and data:
            data[at] ^= 1 << (value // 2) % 8
        elif kind == "byte" and data:
            data[at] = (value // 2) % 256
        elif kind == "number":
            form = "<I >I <Q >Q <H >H".split()[(value // 2) % 6]
            number = NUMBERS[(value // 12) % len(NUMBERS)] % 256 ** struct.calcsize(form)
            data[at : at + struct.calcsize(form)] = struct.pack(form, number)
        elif kind == "truncate":
            del data[at:]
        elif kind == "remove":
            del data[at : at + 1 + (value // 2) % 64]
        elif kind == "repeat":
            data[at:at] = data[at : at + 1 + (value // 2) % 64] * 3
        elif kind == "splice" and data:
            start = (value // 2) % len(data)
            data[at : at + 16] = data[start : start + 16]
        elif kind == "word":
            start = next((k for k in range(at, len(data)) if chr(data[k]).isdigit()), at)
            end = next((k for k in range(start, len(data)) if not chr(data[k]).isdigit()), len(data))
            data[start:end] = WORDS[(value // 2) % len(WORDS)]
    return bytes(data)


def some_edits(rng: random.Random) -> list[Edit]:
    """Draw up to four edits."""
    return [
        Edit(rng.choice(KINDS), rng.random() ** rng.choice((1, 3)), rng.randrange(2**16))
        for _ in range(rng.randint(1, 4))
    ]


class Broken(AssertionError):
    """A reader did what it must not."""


def outcome(read: Callable[[Path], Any], path: Path) -> str:
    """Read a file and return "read", or "refused" after one sentence that names it; anything else is Broken."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            read(path)
            result = "read"
        except (ValueError, TypeError, OSError) as error:
            message = str(error)
            if type(error) not in (ValueError, TypeError) and not isinstance(error, OSError):
                raise Broken(f"{type(error).__name__}: {message}") from error
            if path.name not in message or "\n" in message or len(message.replace(str(path.parent), "")) >= 400:
                raise Broken(f"no sentence of ours, {type(error).__name__}: {message:.500}") from error
            result = "refused"
        except Exception as error:
            raise Broken(f"{type(error).__name__}: {error}") from error
    for warning in warned:
        if path.name not in str(warning.message) or len(str(warning.message).replace(str(path.parent), "")) >= 400:
            raise Broken(f"a warning escapes: {warning.category.__name__}: {warning.message} ({warning.filename})")
    return result
