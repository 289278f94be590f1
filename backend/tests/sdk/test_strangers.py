"""What strangers, and customers who mean no good, can make of the memory and the connections. All on this machine,
and no more of it than is needed to see."""

import resource
import socket
import subprocess
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from backend import Account, binary, sha256

MIB = 1024 * 1024
SECONDS = 30


def address(backend):
    host, port = backend.url.removeprefix("http://").split(":")
    return host, int(port)


def connected(backend):
    connection = socket.socket()
    # So little that the backend soon has to wait.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(SECONDS)
    connection.connect(address(backend))
    return connection


def resident(backend):
    """The memory of the process that is not swapped out, in MiB."""
    status = Path(f"/proc/{backend.process.pid}/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize("paces", [0, 20], ids=["never", "a-byte-now-and-then"])
def test_who_does_not_read_its_answers_gives_its_connection_back(start, paces):
    backend = start(tables="[limits]\nconnections = 12\nwrite_seconds = 1")
    tenant = backend.tenant()
    assert tenant.http("GET", "aliases").status == 200
    tenant.session.close()
    many = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 400
    connections = [connected(backend) for _ in range(12)]
    try:
        for connection in connections:
            connection.sendall(many)
        for _ in range(paces):
            time.sleep(0.1)
            for connection in connections:
                connection.recv(1)
        # There is no connection left, for a while.
        assert tenant.http("GET", "aliases").status == 200
    finally:
        for connection in connections:
            connection.close()


def heads_of_strangers(tenant):
    date = datetime.now(timezone.utc)
    signed = "SDK-HMAC-SHA256 Access={}, SignedHeaders=x-sdk-date, Signature=" + "0" * 64
    now, long_ago = (time.strftime("%Y%m%dT%H%M%SZ") for time in (date, date - timedelta(hours=1)))
    known = signed.format(tenant.account.access_key)
    return {
        "nobody": [],
        "unknown-token": ["X-Auth-Token: unknown"],
        "unknown-access-key": [f"Authorization: {signed.format('AKUNKNOWN')}", f"X-Sdk-Date: {now}"],
        "malformed": ["Authorization: Bearer unknown"],
        "long-ago": [f"Authorization: {known}", f"X-Sdk-Date: {long_ago}"],
        "unhashed": [f"Authorization: {known}", f"X-Sdk-Date: {now}", "X-Sdk-Content-Sha256: UNSIGNED-PAYLOAD"],
    }


def head_of(tenant, lines, length=MIB):
    lines = [f"POST {tenant.path('create-key')} HTTP/1.1", "Host: x", f"Content-Length: {length}", *lines, "", ""]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize("expects", [False, True], ids=["", "expects-100"])
def test_strangers_are_refused_before_their_bodies_are_read(tenant, expects):
    for name, lines in heads_of_strangers(tenant).items():
        with connected(tenant.backend) as connection:
            connection.settimeout(5)
            connection.sendall(head_of(tenant, lines + ["Expect: 100-continue"] * expects))
            # Not a byte of the body was sent.
            first = connection.makefile("rb").readline()
            assert first.split()[1] == b"401", (name, first)


def test_the_refusal_of_a_long_body_is_not_lost(tenant):
    for number in range(20):
        answer = tenant.http("POST", "create-key", b" " * MIB, {"X-Auth-Token": "unknown"})
        assert answer.refusal() == (401, "APIGW.0301")


class Senders:
    """So many connections, each of which sends a body but for its last byte."""

    def __init__(self, tenant, number, lines):
        head, body = head_of(tenant, lines), b" " * (MIB - 1)
        self.connections = [socket.create_connection(address(tenant.backend), timeout=SECONDS) for _ in range(number)]
        self.sent = 0
        for connection in self.connections:
            connection.sendall(head)
            connection.setblocking(False)
        left = {connection: memoryview(body) for connection in self.connections}
        end = time.monotonic() + 3
        while left and time.monotonic() < end:
            for connection, rest in list(left.items()):
                try:
                    sent = connection.send(rest)
                except BlockingIOError:
                    continue
                except OSError:
                    del left[connection]
                    continue
                self.sent += sent
                left[connection] = rest[sent:]
                if not left[connection]:
                    del left[connection]
            time.sleep(0.001)

    def close(self):
        for connection in self.connections:
            connection.close()


BODIES = 200


@pytest.mark.parametrize("who", ["stranger", "customer"])
def test_bodies_have_so_much_memory_together_and_give_it_back(start, who):
    backend = start(tables=f"[limits]\nconnections = {BODIES + 20}\nbody_mebibytes = 8\nbody_seconds = 20")
    tenant = backend.tenant()
    assert tenant.http("GET", "aliases").status == 200
    before = resident(backend)
    token = tenant.account.token if who == "customer" else "unknown"
    senders = Senders(tenant, BODIES, [f"X-Auth-Token: {token}"])
    try:
        assert senders.sent > BODIES * 16 * 1024
        during = resident(backend)
        # Meanwhile ordinary requests are answered.
        assert tenant.http("POST", "create-key", {"key_alias": who}).status == 200
    finally:
        senders.close()
    # 8 MiB, and for each connection what is read before somebody asks for it.
    assert during - before < 8 + BODIES * 0.15 + 16, (before, during)
    # The long ones have their turn again, one after the other.
    for _ in range(10):
        assert tenant.http("POST", "list-keys", b" " * MIB).status == 200
    assert resident(backend) - before < 8 + BODIES * 0.15 + 16


LONG = b'{"key_alias": "%s"}' + b" " * 20 * 1024


@pytest.mark.parametrize("says", ["its-length", "no-length"])
def test_who_knows_an_access_key_and_no_secret_holds_up_nobody(start, says):
    backend = start([Account(), Account()], tables="[limits]\nbody_mebibytes = 8\nbody_seconds = 20")
    known, other = backend.tenant(), backend.tenant(account=1)
    date = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    signed = f"SDK-HMAC-SHA256 Access={known.account.access_key}, SignedHeaders=x-sdk-date, Signature=" + "0" * 64
    lines = [f"Authorization: {signed}", f"X-Sdk-Date: {date}"]
    head, begun = head_of(known, lines), b" " * (16 * 1024 + 1)
    if says == "no-length":
        head = head.replace(b"Content-Length: %d" % MIB, b"Transfer-Encoding: chunked")
        begun = b"%x\r\n%s\r\n" % (len(begun), begun)
    connections = [connected(backend) for _ in range(10)]
    try:
        for connection in connections:
            connection.sendall(head + begun)
        if says == "no-length":
            for connection in connections:
                answer = connection.recv(4096)
                assert answer.startswith(b"HTTP/1.1 411 ") and b"KMS.0308" in answer
        else:
            time.sleep(0.5)
        begin = time.monotonic()

        assert other.send(other.sign("POST", "create-key", LONG % b"other")).status == 200
        # Those of the access key itself that are proven before their bodies come, and by a token.
        hashed = known.sign("POST", "create-key", LONG % b"hash", {"X-Sdk-Content-Sha256": sha256(LONG % b"hash")})
        assert known.send(hashed).status == 200
        assert known.http("POST", "create-key", LONG % b"token").status == 200
        assert known.http("POST", "create-key", iter([LONG % b"chunks"])).status == 200
        if says == "no-length":
            assert known.send(known.sign("POST", "create-key", LONG % b"signed")).status == 200
        # Short ones wait for nothing.
        known.create_key()
        assert time.monotonic() - begin < 5
    finally:
        for connection in connections:
            connection.close()


def test_the_hash_of_a_body_proves_who_sends_it_before_it_is_read(tenant):
    body = LONG % b"a"
    request = tenant.sign("POST", "create-key", body, {"X-Sdk-Content-Sha256": sha256(body)})
    lines = [f"{name}: {value}" for name, value in request.header_params.items()]
    lines = [line for line in lines if line.split(":")[0].lower() not in ("host", "content-length")]
    wrong = [line.replace("Signature=", "Signature=00")[: -2] if line.startswith("Authorization") else line for line in lines]
    assert wrong != lines
    host = "Host: " + tenant.backend.url.removeprefix("http://")
    for lines, status in ((wrong, b"401"), (lines, b"200")):
        with connected(tenant.backend) as connection:
            connection.settimeout(5)
            connection.sendall(head_of(tenant, lines, len(body)).replace(b"Host: x", host.encode()))
            if status == b"200":
                connection.sendall(body)
            first = connection.makefile("rb").readline()
            assert first.split()[1] == status, first
    # And another body of the same length is not the one that was signed.
    request.body = LONG % b"b"
    assert tenant.send(request).refusal() == (401, "APIGW.0301")


def with_descriptors(backend, soft, hard):
    """Starts the backend with other limits of open files; answers the process, once it listens or has ended."""
    arguments = [binary(), "--data", backend.data, "--listen", "127.0.0.1:0", "--config", backend.config]
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    process = subprocess.Popen(arguments, preexec_fn=limit, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    limits = Path(f"/proc/{process.pid}/limits")
    (line,) = [line for line in limits.read_text(encoding="ascii").splitlines() if "open files" in line] or [None]
    process.terminate()
    said = process.communicate(timeout=SECONDS)[1].decode()
    return process.returncode, line and line.split()[3:5], said


def test_the_descriptors_are_counted_before_it_starts(start):
    backend = start([Account()])
    backend.stop()
    # The default is as many connections as a usual soft limit has files: it is raised.
    status, limits, said = with_descriptors(backend, 1024, 4096)
    assert (status, limits) == (0, ["1088", "4096"]), said
    # More than there are need no more.
    assert with_descriptors(backend, 4096, 4096)[:2] == (0, ["4096", "4096"])
    arguments = [binary(), "--data", backend.data, "--listen", "127.0.0.1:0", "--config", backend.config]
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (512, 1024))
    ran = subprocess.run(arguments, preexec_fn=limit, capture_output=True, timeout=SECONDS, text=True)
    assert ran.returncode == 1 and ran.stdout == ""
    for part in ("limits.connections = 1024", "1088", "512", "448", "ulimit -n", str(backend.config)):
        assert part in ran.stderr, ran.stderr
