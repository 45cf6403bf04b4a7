"""Columns and calibration of published shear catalogues, for `read_catalogue(survey=...)`.

Each preset names what the public documentation of a release names, and nothing else. It applies no selection, and says
nothing on the signs of the components, which `pnp.lensing.score_conventions` finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

_METACAL = (("R11", "R12"), ("R21", "R22"))


class Survey(NamedTuple):
    """A release: arguments of `read_catalogue`, what else a user must do, and the source."""

    arguments: Mapping[str, Any]
    remark: str
    source: str


SURVEYS: Mapping[str, Survey] = {
    "cfhtlens": Survey(
        {
            "ra": "ALPHA_J2000",
            "dec": "DELTA_J2000",
            "e1": "e1",
            "e2": "e2",
            "weight": "weight",
            "z": "Z_B",
            "m": "m",
        },
        "subtract the additive bias of e2 (Heymans et al. 2012, equation 19): c2= takes a column or a number",
        "Heymans et al. 2012 (MNRAS 427, 146), Miller et al. 2013 (MNRAS 429, 2858); columns as in dsigma",
    ),
    "des-y1": Survey(
        {"ra": "ra", "dec": "dec", "e1": "e1", "e2": "e2", "weight": None, "response": _METACAL},
        "add the response of the selection, about 1 %: response= takes numbers",
        "Zuntz et al. 2018 (MNRAS 481, 1149); columns as in dsigma",
    ),
    "des-y3": Survey(
        {
            "table": "catalog/unsheared",
            "ra": "ra",
            "dec": "dec",
            "e1": "e_1",
            "e2": "e_2",
            "weight": "weight",
            "response": _METACAL,
        },
        "keep the galaxies of the index file only; the response of the selection, about 1 %, is not in the columns",
        "Gatti et al. 2021 (MNRAS 504, 4312), DESY3_metacal_v03-004.h5; columns as in dsigma",
    ),
    "hsc-y3": Survey(
        {
            "ra": "i_ra",
            "dec": "i_dec",
            "e1": "i_hsmshaperegauss_e1",
            "e2": "i_hsmshaperegauss_e2",
            "weight": "i_hsmshaperegauss_derived_weight",
            "m": "i_hsmshaperegauss_derived_shear_bias_m",
            "c1": "i_hsmshaperegauss_derived_shear_bias_c1",
            "c2": "i_hsmshaperegauss_derived_shear_bias_c2",
            "rms_e": "i_hsmshaperegauss_derived_rms_e",
        },
        "the bias of the selection, about 1 %, is not in the columns",
        "Li et al. 2022 (PASJ 74, 421); columns as in dsigma",
    ),
    "kids-1000": Survey(
        {"ra": "ALPHA_J2000", "dec": "DELTA_J2000", "e1": "e1", "e2": "e2", "weight": "weight", "z": "Z_B"},
        "m is known for each tomographic bin, not for each galaxy: m=-0.009, -0.011, -0.015, 0.002, 0.007",
        "Giblin et al. 2021 (A&A 645, A105), KiDS_DR4.1_ugriZYJHKs_SOM_gold_WL_cat.fits; columns as in dsigma",
    ),
    "kids-450": Survey(
        {
            "ra": "RAJ2000",
            "dec": "DECJ2000",
            "e1": "e1",
            "e2": "e2",
            "weight": "weight",
            "z": "Z_B",
            "m": "m",
        },
        "subtract the mean e1 and e2 of each patch, which the release leaves in: c1=, c2=",
        "Hildebrandt et al. 2017 (MNRAS 465, 1454); columns as in dsigma",
    ),
}


def survey_arguments(survey: str) -> dict[str, Any]:
    """Return the arguments of `read_catalogue` for a survey's catalogue.

    Raises:
        ValueError: there is no such preset.
    """
    if survey not in SURVEYS:
        raise ValueError(
            f"read_catalogue: survey must be one of {', '.join(SURVEYS)}, got {survey!r:.40}; name its columns"
        )
    return dict(SURVEYS[survey].arguments)
