"""Check that a file of weights is refused at once."""

import time
import tracemalloc

import numpy as np
import pytest

from jaxiqa.pretrained import files

ONE = np.ones(3, np.float32)


def refused(path, message, *, seconds=20.0, bytes_=None):
    """Check that the file is refused with this message, within the time of a slow, busy machine under type checks."""
    began = time.monotonic()
    if bytes_:
        tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            files.read(path)
        assert not bytes_ or tracemalloc.get_traced_memory()[1] < bytes_
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < seconds
