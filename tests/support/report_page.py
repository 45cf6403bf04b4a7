"""A result to report on, and what is in the page of its report."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np

from pnp.io import SavedResult


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


class Page(HTMLParser):
    """The parts of a page: tags with their attributes, text by element, data and the pictures' values."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self.stack = ""
        self.feed(text)
        blocks = [attributes for tag, attributes in self.tags if tag == "script"]
        scripts = dict(
            zip([str(b.get("id") or b.get("class") or "") for b in blocks], self.inside["script"], strict=False)
        )
        self.data: dict[str, Any] = json.loads(scripts["data"])
        texts = [t for t, b in zip(self.inside["script"], blocks, strict=True) if b.get("class") == "pixels"]
        kind = "<u2" if self.data["bits"] == 16 else "u1"
        self.pictures: dict[str, np.ndarray] = {}
        for panel, text in zip(self.data["panels"], texts, strict=True):
            codes = np.frombuffer(base64.b64decode(text), kind).reshape(self.data["shape"])
            with np.errstate(over="ignore"):
                values = panel["low"] + (codes.astype(float) - 1) * panel["step"]
            self.pictures[panel["name"]] = np.where(codes == 0, np.nan, values)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.stack = tag
        self.inside.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        self.stack = ""

    def handle_data(self, data: str) -> None:
        if self.stack:
            self.inside[self.stack][-1] += data


def result(shape: tuple[int, ...] = (1, 1, 16, 20), **changes: Any) -> SavedResult:
    x = noise(*shape)
    made = SavedResult(
        x,
        "radon",
        {"shape": shape[-2:], "angles": np.arange(9.0)},
        0.125,
        {"sigma": np.geomspace(1, 0.01, 8), "primal": np.geomspace(1, 1e-4, 8), "dual": np.full(8, 0.1)},
        x + 0.1 * noise(*shape, seed=1),
        {"command": "pnp reconstruct y.h5 -o x.h5", "stop": "It converged.", "n_iter": 8, "version_torch": "2.5"},
    )
    return replace(made, **changes)
