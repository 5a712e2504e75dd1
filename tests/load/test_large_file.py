"""A gigabyte in one file; run by ``make load``."""

import pytest
from tests.server.uploading import upload_in_a_process


@pytest.mark.load
def test_a_gigabyte_goes_through_200_megabytes() -> None:
    """The whole process, client included, holds less than 200 MB."""
    _, after = upload_in_a_process(1024)
    assert after < 190
