"""What the tests of commands share."""

import pytest
import torch
from scan_files import scan_file

from pnp.io import write_image


@pytest.fixture(scope="module")
def client():
    """A cluster of two workers that the tests of a file share."""
    from pnp.stack.cluster import engine

    with engine(None, 2, "tests") as (client, _):
        yield client


@pytest.fixture(scope="module")
def scheduler(client):
    """Its address."""
    return ("--scheduler", client.scheduler.address)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A raw scan, as `scan_file` writes it."""
    return scan_file(tmp_path_factory.mktemp("scan") / "scan.h5")


@pytest.fixture
def photographs(tmp_path):
    """Three colour images of noise, barely larger than the receptive field."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for k in range(3):
        write_image(folder / f"{k}.png", torch.rand(3, 66, 70, generator=torch.Generator().manual_seed(k)))
    return folder
