"""One backend for most tests; each test is a customer of its own."""

import itertools
import os

import pytest

from backend import Account, Backend

# Nothing here leaves this machine, whatever proxy its owner uses.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"

TENANTS = 1500


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    accounts = [Account() for _ in range(TENANTS)]
    with Backend(tmp_path_factory.mktemp("shared"), accounts) as backend:
        yield backend
    text = backend.log()
    assert "listening" in text or "answered" in text
    assert not [secret for secret in backend.secrets() if secret in text]
    assert "internal trouble" not in text
    assert "panicked" not in text


@pytest.fixture(scope="session")
def numbers():
    return itertools.count()


@pytest.fixture
def tenant(shared, numbers):
    """A customer whom no other test knows."""
    return shared.tenant(next(numbers))


@pytest.fixture
def stranger(shared, numbers):
    """Another one."""
    return shared.tenant(next(numbers))


@pytest.fixture
def start(tmp_path):
    """Starts backends of a configuration of one's own, and stops them, also if the test fails."""
    started = []

    def start(accounts=None, **more):
        folder = tmp_path / f"backend-{len(started)}"
        folder.mkdir()
        backend = Backend(folder, accounts or [Account()], **more)
        started.append(backend)
        backend.start()
        return backend

    yield start
    wrong = []
    for backend in started:
        try:
            backend.close()
        except Exception as error:  # Stop the others, then fail.
            wrong.append(error)
    assert not wrong, wrong
