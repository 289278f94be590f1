"""The process: how it starts, what it refuses to start with, how it ends."""

import os
import re
import socket
import stat
import subprocess
import time

import pytest
import requests

from backend import REGION, ROOT, Account, Backend, binary

SECONDS = 60


def ends(*arguments, folder):
    """Runs the backend with arguments that it must refuse; answers what it says."""
    ran = subprocess.run([binary(), *arguments], cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    assert ran.returncode == 1 and ran.stdout == "", ran
    return ran.stderr


class Demonstration(Backend):
    """Started without a configuration, as the documentation shows; only the port is another."""

    def __init__(self, folder):
        super().__init__(folder, [])
        self.config.unlink()

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [binary(), "--listen", "127.0.0.1:0"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment,
            )
        first = self.process.stdout.readline().decode()
        assert first == f"access key and secret key are in {self.folder.resolve() / 'keystead-kms.toml'}\n"
        second = self.process.stdout.readline().decode()
        self.url = re.fullmatch(r"listening on (http://127\.0\.0\.1:[0-9]+)\n", second)[1]
        self._healthy()


def test_the_documentations_example(tmp_path, monkeypatch):
    """The lines of Python in docs/backend.md, as they are, against a backend without a configuration."""
    text = (ROOT / "docs" / "backend.md").read_text(encoding="utf-8")
    example = re.search("## Try it with the SDK.*?```python\n(.*?)```", text, re.S)[1]
    assert example.count("http://127.0.0.1:8080") == 1
    shown = []
    with Demonstration(tmp_path) as backend:
        config = tmp_path / "keystead-kms.toml"
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        made = config.read_text(encoding="utf-8")
        secret = re.search('secret_key = "(.+)"', made)[1]
        monkeypatch.chdir(tmp_path)
        program = compile(example.replace("http://127.0.0.1:8080", backend.url), "docs/backend.md", "exec")
        exec(program, {"print": shown.append})
        assert secret not in backend.log()
        backend.stop()
        # The second time it is the same configuration and the same store.
        backend.start()
        assert config.read_text(encoding="utf-8") == made
    associated, renamed, described = shown
    key = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e"
    assert (associated.alias, associated.key_id) == ("kms-1234", key)
    assert (renamed.key_info.key_id, renamed.key_info.key_alias) == (key, "test")
    assert (described.key_info.key_id, described.key_info.key_alias) == (key, "test")


def test_without_a_configuration_it_is_for_this_machine_only(tmp_path):
    # An address that is of no machine.
    said = ends("--listen", "192.0.2.1:0", folder=tmp_path)
    assert "loopback" in said
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_opened_by_one_process(start):
    backend = start()
    tenant = backend.tenant()
    key = tenant.create_key()
    arguments = ["--data", backend.data, "--listen", "127.0.0.1:0", "--config", backend.config]
    assert str(backend.data) in ends(*arguments, folder=backend.folder)
    tenant.disable(key)
    assert tenant.describe(key).key_state == "3"


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (f'region = "{REGION}"', 'region = "cn-north-1"'),
        ("[[account]]", 'alias_scope = "project"\n[[account]]'),
    ],
    ids=["region", "alias-scope"],
)
def test_a_store_is_not_served_with_other_rules(start, was, now):
    backend = start()
    tenant = backend.tenant()
    key = tenant.create_key()
    backend.stop()
    right = backend.config.read_text(encoding="utf-8")
    backend.config.write_text(right.replace(was, now, 1), encoding="utf-8")
    arguments = ["--data", backend.data, "--listen", "127.0.0.1:0", "--config", backend.config]
    said = ends(*arguments, folder=backend.folder)
    assert str(backend.data) in said
    backend.config.write_text(right, encoding="utf-8")
    backend.start()
    assert tenant.describe(key).key_id == key


def test_what_is_no_store_is_not_opened(start):
    backend = start()
    backend.stop()
    other = backend.folder / "other"
    other.write_bytes(b"this is no store" * 1000)
    arguments = ["--data", other, "--listen", "127.0.0.1:0", "--config", backend.config]
    assert str(other) in ends(*arguments, folder=backend.folder)
    assert other.read_bytes() == b"this is no store" * 1000


def test_a_port_that_is_taken(start):
    backend = start()
    port = backend.url.rsplit(":", 1)[1]
    arguments = ["--data", "other.redb", "--listen", f"127.0.0.1:{port}", "--config", backend.config]
    assert port in ends(*arguments, folder=backend.folder)
    backend._healthy()


def test_a_request_that_does_not_come_to_an_end(start):
    backend = start(tables="[limits]\nrequest_seconds = 1")
    tenant = backend.tenant()
    host, port = backend.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        head = f"POST {tenant.path('create-key')} HTTP/1.1\r\nHost: {host}\r\nX-Auth-Token: {tenant.account.token}\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        answer = connection.makefile("rb").readline()
    assert answer.split()[1] == b"503", answer
    assert tenant.http("GET", "aliases").status == 200


def test_a_stop_lets_a_request_end(start):
    backend = start()
    tenant = backend.tenant()
    tenant.create_key()
    host, port = backend.url.removeprefix("http://").split(":")
    body = b'{"key_alias":"begun"}'
    head = f"POST {tenant.path('create-key')} HTTP/1.1\r\nHost: {host}\r\nX-Auth-Token: {tenant.account.token}\r\n"
    head += f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        answer = connection.makefile("rb")
        connection.sendall(head.encode())
        # It has begun to read the body of this request.
        assert answer.readline().split()[1] == b"100" and answer.readline() == b"\r\n"
        backend.process.terminate()
        # It takes no one new, but this one.
        deadline = time.monotonic() + SECONDS
        with pytest.raises(OSError):
            while time.monotonic() < deadline:
                socket.create_connection((host, int(port)), timeout=SECONDS).close()
        connection.sendall(body)
        assert answer.readline().split()[1] == b"200"
    backend.stop()
    backend.start()
    listed = tenant.http("POST", "list-keys").json()["key_details"]
    assert "begun" in [key["key_alias"] for key in listed]


def test_a_stop_ends_well_and_keeps_all(start):
    backend = start()
    tenant = backend.tenant()
    key = tenant.create_key("kept")
    backend.stop()
    with pytest.raises(requests.ConnectionError):
        tenant.http("GET", "/healthz")
    backend.start()
    assert tenant.describe(key).key_alias == "kept"


def test_a_configuration_that_is_wrong_is_refused_without_its_secrets(start):
    account = Account()
    with pytest.raises(RuntimeError, match="did not start") as failed:
        start([account, account])
    assert account.secret_key not in str(failed.value) and account.token not in str(failed.value)
    assert re.search("the same .* twice", str(failed.value))


def test_a_configuration_that_others_can_read_is_warned_of(start):
    backend = start()
    assert "others than its owner" not in backend.log()
    backend.stop()
    os.chmod(backend.config, 0o644)
    backend.start()
    assert "others than its owner" in backend.log()
