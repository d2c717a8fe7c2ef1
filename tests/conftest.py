"""What every test is run with."""

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import botocore.session
import pytest
from hypothesis import settings

# Tests start hundreds of Pythons.  Where none may leave bytecode beside its sources, they share it here: each
# compiling all that it imports is a third of the time.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".cache" / "test-bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
# The models of AWS's services are read once, not once for each session of boto3.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)

# How long one example may take is no promise of ours, and a busy machine breaks any bound.
settings.register_profile(
    "understudy", settings.get_profile(settings.get_current_profile_name()), deadline=None
)
settings.load_profile("understudy")


@pytest.fixture(scope="session")
def _moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def foreign_s3(_moto: str) -> str:
    """Address of somebody else's S3 (moto), empty: moto keeps one set of buckets for a whole process."""
    urlopen(Request(f"{_moto}/moto-api/reset", method="POST")).close()
    return _moto
