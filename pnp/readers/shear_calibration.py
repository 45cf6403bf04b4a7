"""Calibration of shapes: e = R ((1 + m) shear + c), with R, m and c from columns or numbers.

R is the response: a number, one of each component, or a matrix for each galaxy. A single galaxy's is mostly noise
(Sheldon and Huff 2017, ApJ 841, 24), and may be negative; only the mean over many is used. Distortions, |e| =
(1 - q^2)/(1 + q^2), have the response 2 (1 - e_rms^2) (Bernstein and Jarvis 2002, AJ 123, 583).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_Array = npt.NDArray[np.float64]

_UNUSED: tuple[tuple[str, str], ...] = (
    ("m", r"m|m_corr|nbc_m|.*shear_bias_m"),
    ("c1", r"c1|nbc_c1|.*shear_bias_c1"),
    ("c2", r"c2|nbc_c2|.*shear_bias_c2"),
    ("response", r"(.*_)?r_?(11|12|21|22)|responsivity|response"),
    ("rms_e", r".*_derived_rms_e"),
)
"""Columns that hold a calibration, in lower case, and the argument of `read_catalogue` that uses each."""


def is_response(column: str) -> bool:
    """Return whether a column's name is that of a response."""
    return re.fullmatch(dict(_UNUSED)["response"], column.lower()) is not None


def unused_calibration(held: Iterable[str], given: Mapping[str, Any]) -> dict[str, str]:
    """Return the columns that hold a calibration which no argument mentions, and the argument for each."""
    if given.get("response") is not None or given.get("rms_e") is not None:
        given = {**given, "response": 1.0, "rms_e": 1.0}
    missing = [(argument, names) for argument, names in _UNUSED if given.get(argument) is None]
    return {column: argument for column in held for argument, names in missing if re.fullmatch(names, column.lower())}


def unused_sentence(where: str, unused: Mapping[str, str]) -> str:
    """Return the warning that names columns which hold a calibration."""
    arguments = list(dict.fromkeys(unused.values()))
    remedy = ", ".join(
        "response=(('R11', 'R12'), ('R21', 'R22')) or one or two columns" if a == "response" else f"{a}='...'"
        for a in arguments
    )
    none = ", ".join(f"{a}={1 if a == 'response' else 0}" for a in arguments if a != "rms_e") or "response=1"
    shown = ", ".join(list(unused)[:6]) + (f" and {len(unused) - 6} more" if len(unused) > 6 else "")
    return (
        f"{where}: the calibration in {shown:.120} is not used, and the shear may be biased; give {remedy}, or {none} "
        "where it is applied already"
    )


def as_response(where: str, value: Any, n: int) -> _Array:
    """Return the response of n galaxies: (n,), (n, 2) or (n, 2, 2).

    Args:
        where: beginning of messages.
        value: a number or (n,); two of them, of e1 and e2; two pairs, the rows of a matrix; or an array (n, 2) or
            (n, 2, 2).
        n: number of galaxies.
    """
    try:
        if isinstance(value, tuple | list):
            rows = [as_response(where, part, n) for part in value]
            array = np.stack(rows, axis=1)
        else:
            array = np.asarray(np.ma.filled(np.ma.asarray(value, dtype=np.float64), np.nan))
            array = np.full(n, float(array)) if array.ndim == 0 else array
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape not in ((n,), (n, 2), (n, 2, 2)):
        raise ValueError(
            f"{where}: response must be one, two or 2 x 2 numbers or columns of {n} galaxies, got shape {array.shape}; "
            "give response='R', ('R11', 'R22') or (('R11', 'R12'), ('R21', 'R22'))"
        )
    return array


def response_columns(value: Any, find: Callable[[str], Any]) -> tuple[Any, list[str]]:
    """Return a response with its columns' names replaced by their values, and the names."""
    if isinstance(value, str):
        return find(value), [value]
    if isinstance(value, tuple | list):
        parts = [response_columns(part, find) for part in value]
        return tuple(part for part, _ in parts), [name for _, names in parts for name in names]
    return value, []


def mean_response(where: str, m: Any, response: _Array | None, w: _Array) -> tuple[float, npt.NDArray[Any] | None]:
    """Return the mean response of galaxies: a number r, and a matrix M of mean diagonal 1, of R (1 + m) = r M.

    M is None where R is a number for each galaxy.

    Raises:
        ValueError: the mean response is not positive.
    """
    r, M = 1 + float(np.average(m, weights=w)), None
    if response is not None:
        R = np.average(response, axis=0, weights=w)
        if R.ndim == 1:
            R = np.diag(R)
        if R.ndim == 2:
            scale = float(np.trace(R)) / 2
            M, positive = R / scale if scale else R, bool(np.diag(R).min() > 0 and np.linalg.det(R) > 0)
        else:
            scale = float(R)
            positive = scale > 0
        if not positive:
            raise ValueError(
                f"{where}: the mean response must be positive, got {R.round(3).tolist()!s:.80}; are these the "
                "columns of R11 and R22?"
            )
        r *= scale
    if not r > 0:
        raise ValueError(
            f"{where}: m must be above -1 on average, got {float(np.average(m, weights=w)):.4g}; e = R ((1 + m) shear "
            "+ c), m is no response: response= takes one"
        )
    return r, M
