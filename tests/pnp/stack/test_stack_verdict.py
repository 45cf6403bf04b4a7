"""What a stack says of its slices: warnings are kept slice by slice, and said once for each distinct sentence."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
from stacks import OPTIONS, SHAPE, Average, command, data, masks

from pnp.drivers.result_warning import ResultWarning
from pnp.io import read_result, write_measurements

pytest.importorskip("distributed", reason="the extra 'stack' is not installed")
zarr = pytest.importorskip("zarr", reason="the extra 'stack' is not installed")

from distributed import WorkerPlugin  # noqa: E402
from stacks import Suspicious  # noqa: E402

from pnp.stack import StackResult, solve_stack  # noqa: E402
from pnp.stack.cluster import engine  # noqa: E402
from pnp.stack.results_store import DONE, OPEN, Parts, Summary  # noqa: E402
from pnp.stack.stack_result import distinct, sentences  # noqa: E402

SENTENCES = ("2 of 5 slices (1, 3): noise_std is too low by 1.50.", "1 of 5 slices (3): One pixel is saturated.")


class Plugin(Suspicious, WorkerPlugin):
    """Distributed wants its own class."""


@pytest.fixture(scope="module")
def client():
    """One worker that finds something in bright slices."""
    with engine(None, 1, "tests") as (client, _):
        client.register_plugin(Plugin(), name="suspicious")
        yield client


@pytest.fixture
def y() -> np.ndarray:
    """Five slices: the second is bright, the fourth brighter."""
    y = data(5) / 10
    y[1] += 1.5 - y[1].mean()
    y[3] += 2.5 - y[3].mean()
    return y


def test_a_stack_keeps_and_sums_up_the_warnings_of_its_slices(client, y, tmp_path):
    with pytest.warns(ResultWarning, match="^solve_stack: .*2 of 5 slices have warnings: 1, 3") as raised:
        result = solve_stack(masks, y, Average(), output=tmp_path / "x.zarr", client=client, **OPTIONS)
    assert len(raised) == 1 and raised[0].filename == __file__
    assert result.done == 5 and not result.failed  # a warning is no failure, even where warnings are errors
    assert result.warnings == {
        1: ("noise_std is too low by 1.50.",),
        3: ("noise_std is too low by 2.50.", "One pixel is saturated."),
    }
    assert result.distinct_warnings == {"noise_std is too low by 1.50.": [1, 3], "One pixel is saturated.": [3]}
    assert result.misfits == {0: 1, 1: 2, 2: 1, 3: 3, 4: 1} and result.n_rejected == 1
    assert result.verdict == (
        "misfit 1, the median of 5 slices, 1 measurement rejected as outlier: 2 of 5 slices have warnings: 1, 3"
    )
    with pytest.warns(ResultWarning, match="solve_stack"):  # a finished run still says it
        again = solve_stack(masks, y, Average(), output=tmp_path / "x.zarr", client=client, **OPTIONS)
    assert again.computed == 0 and again.warnings == result.warnings and again.misfits == result.misfits


def test_the_command_says_each_distinct_sentence_once(client, y, tmp_path, capsys):
    write_measurements(tmp_path / "y.h5", y, operator="mask", parameters={"mask": np.ones(SHAPE)}, noise_std=0.1)
    options = ("--scheduler", client.scheduler.address, "--denoiser", "tv", "--max-iter", 2)
    with pytest.warns(ResultWarning, match="solve_stack"):  # `pnp` itself silences it
        assert command(tmp_path / "y.h5", "-o", tmp_path / "x.h5", *options) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1].endswith("2 of 5 slices have warnings: 1, 3")
    assert [line for line in err.splitlines() if "warning" in line] == [f"warning: {line}" for line in SENTENCES]
    saved = read_result(tmp_path / "x.h5")
    assert saved.warnings == SENTENCES and saved.attributes["misfit"] == 1
    with h5py.File(tmp_path / "x.h5") as file:
        texts = file["slices/warnings"].asstr()[:].tolist()
        assert texts == [
            "",
            "noise_std is too low by 1.50.",
            "",
            "noise_std is too low by 2.50.\nOne pixel is saturated.",
            "",
        ]
        assert list(file["slices/n_rejected"]) == [0, 0, 0, 1, 0]


def test_a_folder_of_an_earlier_version_goes_on(tmp_path):
    parts = Parts.create(tmp_path / "x.zarr", 3, (1, 4, 4), "float32", {"a": "1"})
    parts.finish(Summary(0, (1.0, 0.9, 0.1, 2.0)), np.zeros((1, 1, 4, 4), "float32"))
    for name in ("warnings", "n_rejected"):
        shutil.rmtree(tmp_path / "x.zarr" / name)
    assert parts.warnings() == {} and parts.n_rejected().tolist() == [0, 0, 0] and parts.misfits() == {0: 0.9}
    again = Parts.resume(tmp_path / "x.zarr", {"a": "1"}, overwrite=False, caller="tests")
    summary = Summary(2, (1.0, 9.0, 0.1, 2.0), warnings=("é" * 1500,), n_rejected=7)
    again.finish(summary, np.zeros((1, 1, 4, 4), "float32"))
    assert again.ledger().tolist() == [DONE, OPEN, DONE]
    assert again.warnings() == {2: ("é" * 1000,)} and again.n_rejected().tolist() == [0, 0, 7]


def test_sentences_that_differ_in_numbers_only_are_one():
    said = {2: ("too low by 3.1e-4 (12 of 23,040).",), 5: ("too low by -2e7 (1 of 1,000).", "other"), 9: ("other",)}
    assert distinct(said) == {said[2][0]: [2, 5], "other": [5, 9]}
    many = {k: ("the same",) for k in range(30)}
    assert sentences(many, 40) == ["30 of 40 slices (0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 20 more): the same"]


def test_a_stack_without_warnings_says_so(tmp_path):
    result = StackResult(tmp_path, 3, 3, 3, {}, 1.0, misfits={0: 0.9, 1: 1.1, 2: 1.0})
    assert result.verdict == "misfit 1, the median of 3 slices: no warnings"
    assert StackResult(tmp_path, 3, 0, 0, {}, 1.0).verdict == "no slice is finished"
