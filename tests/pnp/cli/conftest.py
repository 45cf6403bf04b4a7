"""What the tests of commands on raw scans share."""

import pytest
from scan_files import scan_file


@pytest.fixture(scope="module")
def scheduler():
    """The address of a cluster that the tests of a file share."""
    from pnp.stack.cluster import engine

    with engine(None, 2, "tests") as (client, _):
        yield ("--scheduler", client.scheduler.address)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A raw scan, as `scan_file` writes it."""
    return scan_file(tmp_path_factory.mktemp("scan") / "scan.h5")
