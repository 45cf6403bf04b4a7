"""The order of a stack's files: by the numbers in their names, which may be decimal, negative or in powers of ten."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

_DEGREES = re.compile(r"(?:^|[\W_])(?:90|180|270|360)\s*deg(?:rees?)?$", re.IGNORECASE)
"""End of the name of a view that scanners repeat beside the series, to check the alignment."""
_SUFFIX = re.compile(r"\.tiff?$", re.IGNORECASE)
_MOST_STRAYS = 4
_LISTED = 6
"""Largest number of names, or of missing numbers, in a message."""
_WHOLE = r"\d+"
_DECIMAL = (
    r"(?:(?<!\d[.,])\d+[.,]\d+(?!\d|[.,]\d)(?:[eE][-+]?\d{1,3}(?![0-9A-Za-z]))?|\d+(?:[eE][-+]\d{1,3}(?![0-9A-Za-z]))?)"
)
"""Not decimal: what lies between two points, as in a date 2024.01.05."""
_SIGN = r"(?:(?<![^\W_])(?<![-+])[-+])?"
"""A sign follows a separator; behind a letter or a digit, a hyphen is a separator itself."""
_SIGN_BEHIND_LETTERS = r"(?:(?<![\d+-])[-+])?"


@dataclass(frozen=True)
class _Name:
    """A name taken apart: its text with # for each number, and the numbers."""

    file: Path
    text: str
    written: tuple[str, ...]

    @property
    def numbers(self) -> tuple[Decimal, ...]:
        return tuple(Decimal(number.replace(",", ".")) for number in self.written)


@dataclass(frozen=True)
class Series:
    """Files of one series.

    Attributes:
        files: the files, in the order of their numbers.
        numbers: (n_files, n_numbers), the numbers in the names that are not the same in all of them.
        label: the text that the names have in common.
    """

    files: list[Path]
    numbers: list[tuple[Decimal, ...]]
    label: str


def sorted_series(path: str | os.PathLike[str], files: Sequence[Path], *, gaps: bool = True) -> Series:
    """Sort the files of a stack by the numbers in their names: 2 before 10, -3 before 0, 0.25 before 0.5.

    Views at 180 degrees and the like beside the series ("scan_180deg.tif") are left out, with a warning. Missing
    numbers, and an order that two numbers leave open, are warnings as well. Names without numbers that a pattern
    chooses come in their alphabetical order.

    Args:
        path: the folder or the pattern, for messages.
        files: the files, one at least.
        gaps: warn of missing numbers.

    Raises:
        ValueError: the names belong to several series, or two of them have the same numbers.
    """
    names = _without_strays(path, _parsed(files))
    texts = sorted({name.text for name in names})
    if not Path(path).is_dir() and not any(name.written for name in names):
        return Series(sorted(name.file for name in names), [()] * len(names), texts[0])
    if len(texts) > 1:
        listed = ", ".join(f"{Path(text).name:.30}" for text in texts[:4])
        raise ValueError(
            f"{path} holds {len(texts)} series of TIFF files ({listed}); choose one by a pattern, or move the "
            "others away"
        )
    names.sort(key=lambda name: (name.numbers, str(name.file)))
    for one, other in pairwise(names):
        if one.numbers == other.numbers:
            raise ValueError(
                f"{path}: {one.file.name:.80} and {other.file.name:.80} have the same numbers, and a stack has one "
                "file per number; move one of them away"
            )
    varying = [column for column in zip(*(name.numbers for name in names), strict=True) if len(set(column)) > 1]
    if len(varying) > 1 and not any(_is_monotone(column) for column in varying):
        warnings.warn(
            f"{path}: {names[0].file.name:.60} and the {len(names) - 1} other names differ in {len(varying)} numbers; "
            "they are sorted by the first of these, then by the next: choose one series by a pattern if that is wrong",
            stacklevel=4,
        )
    if gaps and len(varying) == 1:
        _warn_of_gaps(path, varying[0])
    numbers: list[tuple[Decimal, ...]] = list(zip(*varying, strict=True)) if varying else [()] * len(names)
    return Series([name.file for name in names], numbers, texts[0])


def angles_in_names(path: str | os.PathLike[str], series: Series) -> npt.NDArray[np.float64]:
    """Return the angles that the names give in degrees, as radians, (n_files,).

    Raises:
        ValueError: the names hold no number that differs between them, or several.
    """
    n = len(series.numbers[0])
    if n != 1:
        raise ValueError(
            f"{path}: angles='names' needs names that differ in one number, the angle in degrees, got {n} in "
            f"{series.files[0].name:.80}; give angles= in radians"
        )
    return np.deg2rad([float(number) for (number,) in series.numbers])


def _parsed(files: Sequence[Path]) -> list[_Name]:
    """Take names apart, by the reading of points and hyphens that all of them together allow."""
    roots = {file.parent for file in files}
    common = next(iter(roots)) if len(roots) == 1 else Path(os.path.commonpath([str(root) for root in roots]))

    def take_apart(pattern: str) -> list[_Name]:
        number = re.compile(pattern)
        stems = [_SUFFIX.sub("", str(file.relative_to(common))) for file in files]
        return [
            _Name(file, number.sub("#", stem), tuple(number.findall(stem)))
            for file, stem in zip(files, stems, strict=True)
        ]

    names = take_apart(_SIGN + _DECIMAL)
    value = _DECIMAL if _are_decimal(names) else _WHOLE
    names = take_apart(_SIGN + value)
    # "tilt-6" beside "tilt3": the hyphen is a sign; where all names have one, it is a separator.
    signed = take_apart(_SIGN_BEHIND_LETTERS + value)
    if len({name.text for name in signed}) < len({name.text for name in names}) and not _are_padded(signed):
        return signed
    if _are_padded(names) and not any(re.match(r"[+\d]", n) for n in _first_signed(names)):
        return take_apart(value)
    return names


def _are_padded(names: list[_Name]) -> bool:
    """Say whether a number behind a hyphen is filled up with zeros, as counters are."""
    return any(re.match(r"-0\d", number) for name in names for number in name.written)


def _first_signed(names: list[_Name]) -> list[str]:
    """Return, of the first place in the names where some number is negative, all numbers."""
    lengths = min(len(name.written) for name in names)
    for k in range(lengths):
        column = [name.written[k] for name in names]
        if any(number.startswith("-") for number in column):
            return column
    return []


def _are_decimal(names: list[_Name]) -> bool:
    """Say whether points in numbers are decimal: then all have as many decimals, or none has a zero too many.

    Of scan_1.9, scan_1.10 and scan_1.11, the last number is a whole one.
    """
    decimals = [
        n.partition("." if "." in n else ",")[2] for name in names for n in name.written if re.search("[.,]", n)
    ]
    decimals = [d for d in decimals if d.isdigit()]
    return len({len(d) for d in decimals}) < 2 or not any(len(d) > 1 and d.endswith("0") for d in decimals)


def _without_strays(path: str | os.PathLike[str], names: list[_Name]) -> list[_Name]:
    """Leave out views of 180 degrees and the like that lie beside a series."""
    (main, _), *others = Counter(name.text for name in names).most_common()
    strays = [name for name in names if name.text != main and _DEGREES.search(name.file.stem)]
    if not others or not strays or len(strays) > _MOST_STRAYS or 2 * len(strays) >= len(names):
        return names
    listed = ", ".join(f"{name.file.name:.60}" for name in strays)
    warnings.warn(
        f"{path}: {listed} {'is' if len(strays) == 1 else 'are'} no part of the series {Path(main).name:.60} and left "
        "out; to use such a view, read it by its name",
        stacklevel=5,
    )
    return [name for name in names if name not in strays]


def _is_monotone(column: Sequence[Decimal]) -> bool:
    pairs = list(pairwise(column))
    return all(a < b for a, b in pairs) or all(a > b for a, b in pairs)


def _warn_of_gaps(path: str | os.PathLike[str], numbers: Sequence[Decimal]) -> None:
    """Name the numbers that a series with an even step leaves out."""
    steps = [b - a for a, b in pairwise(numbers)]
    step = sorted(steps)[len(steps) // 2]
    # Decimals are rounded: 0.14, 0.28, 0.42, 0.56, 0.70, 0.85.
    rounding = max(Decimal(1).scaleb(int(n.as_tuple().exponent)) for n in numbers) if step % 1 else Decimal(0)
    if sum(abs(s - step) <= rounding for s in steps) * 2 <= len(steps) or step <= 2 * rounding:
        return
    gaps = [(a, round(s / step) - 1) for a, s in zip(numbers, steps, strict=False) if s > step * Decimal("1.5")]
    n_missing = sum(n for _, n in gaps)
    if not n_missing:
        return
    names = [f"{(a + step * k).normalize():f}" for a, n in gaps[:_LISTED] for k in range(1, min(n, _LISTED) + 1)]
    more = "" if n_missing <= _LISTED else f" and {n_missing - _LISTED} more"
    warnings.warn(
        f"{path}: the names run from {numbers[0]} to {numbers[-1]} in steps of {step.normalize():f}, without "
        f"{', '.join(names[:_LISTED])}{more}; if frames are missing, leave out their angles too",
        stacklevel=5,
    )
