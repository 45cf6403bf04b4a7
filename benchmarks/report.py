"""Output of the benchmarks: one row per measurement, a table on stdout, JSON and Markdown files."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from timing import Spread, machine

HEADINGS = ("measurement", "who", "median (min..max)", "ratio to ours (min..max)", "target", "note")
WIDTHS = (40, 24, 30, 26, 16, 0)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: the measured quantity, with its size.
        who: "ours", or the name of the peer.
        value: the quantity over the rounds; None if it could not be measured; `note` says why.
        unit: "s", "B", "dB" or "" of the value.
        ratio: peer / ours over the rounds (how many times faster or smaller ours is), or as `what` says.
        target: (">=" or "<=", number) for the median of the ratio, or of the value without a ratio.
        note: a remark.
    """

    what: str
    who: str
    value: Spread | None
    unit: str = "s"
    ratio: Spread | None = None
    target: tuple[str, float] | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Return whether the target is met; None without target or value."""
        judged = self.ratio or self.value
        if self.target is None or judged is None:
            return None
        sign, number = self.target
        return judged.median >= number if sign == ">=" else judged.median <= number

    def cells(self) -> tuple[str, ...]:
        """Return the texts of the row, one per heading."""
        target = ""
        if self.target is not None:
            sign, number = self.target
            shown = f"{number:g}" if self.ratio else _show(number, self.unit)
            target = f"{sign} {shown}: " + {True: "met", False: "MISSED", None: "not measured"}[self.met]
        ratio = _range(self.ratio, "x") if self.ratio else ""
        return self.what, self.who, _range(self.value, self.unit), ratio, target, self.note


def _show(value: float, unit: str) -> str:
    if unit == "s":
        for scale, name in ((1, "s"), (1e-3, "ms"), (1e-6, "us")):
            if value >= scale or name == "us":
                return f"{value / scale:.3g} {name}"
    if unit == "B":
        return f"{value / 1e6:.0f} MB"
    if unit == "dB":
        return f"{value:.2f} dB"
    return f"{value:.3g}{' ' if unit not in ('', 'x') else ''}{unit}"


def _range(values: Spread | None, unit: str) -> str:
    if values is None:
        return "-"
    text = _show(values.median, unit)
    if len(values.values) == 1:
        return text
    return f"{text} ({_show(values.low, unit)}..{_show(values.high, unit)})"


def line(cells: tuple[str, ...]) -> str:
    """Return one line of the printed table."""
    return " | ".join(c.ljust(w) for c, w in zip(cells, WIDTHS, strict=True)).rstrip()


def markdown(facts: dict[str, Any], tables: dict[str, list[tuple[str, ...]]]) -> str:
    """Return the tables of all scripts as one Markdown text."""
    parts = ["# Benchmarks", "", "; ".join(f"{k}: {v}" for k, v in facts.items()) + "."]
    for title, rows in tables.items():
        parts += [
            "",
            f"## {title}",
            "",
            *("| " + " | ".join(r) + " |" for r in (HEADINGS, ("---",) * len(HEADINGS), *rows)),
        ]
    return "\n".join(parts) + "\n"


def write(path: Path, text: str) -> None:
    """Write a text file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text)
    os.replace(temporary, path)


Section = Callable[[bool], Iterator[Row]]


def main(
    title: str,
    sections: dict[str, Section],
    *,
    measured: Callable[[Path], dict[str, Section]] | None = None,
    in_quick: tuple[str, ...] = (),
) -> None:
    """Run a benchmark script from the command line: print its rows as they come, and write them.

    Args:
        title: the claim the script tests.
        sections: name to a function of `quick` that yields rows; "a: b" belongs to the group a.
        measured: further sections from the folder of --data. None: there is no such option.
        in_quick: the sections that --quick runs unless --only names others; empty: all.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to test the script")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these parts, or groups of parts, only")
    parser.add_argument("--output", type=Path, help="write rows and facts of the machine to this JSON file")
    if measured is not None:
        parser.add_argument("--data", type=Path, help="folder of measured data, for further parts")
    arguments = parser.parse_args()
    if measured is not None and arguments.data is not None:
        sections = {**sections, **measured(arguments.data)}
    names = arguments.only or (in_quick if arguments.quick else ()) or list(sections)
    known = {name for full in sections for name in (full, full.split(": ")[0])}
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--only must name parts or groups of {', '.join(sorted(known))}; got {', '.join(unknown)}")
    chosen = [full for full in sections if full in names or full.split(": ")[0] in names]
    facts = machine()
    print(title)
    print("; ".join(f"{k}: {v}" for k, v in facts.items()))
    if facts["load before"] > 0.5 * facts["cores"]:
        print("WARNING: other work is running on this machine; do not quote these times")
    print(line(HEADINGS), line(tuple("-" * w for w in WIDTHS)), sep="\n")
    rows: list[Row] = []
    for name in chosen:
        for row in sections[name](arguments.quick):
            if arguments.quick:
                row = replace(row, target=None)  # tiny sizes prove nothing
            rows.append(row)
            print(line(row.cells()), flush=True)
    if arguments.output is not None:
        entries = [{**asdict(r), "met": r.met, "cells": r.cells()} for r in rows]
        record = {"title": title, "quick": arguments.quick, "machine": facts, "rows": entries}
        write(arguments.output, json.dumps(record, indent=1))
