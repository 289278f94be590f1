"""A backend of one's own: its configuration, its process, and two ways to call it.

`Tenant.kms` is the official SDK's client, as it comes from the package index. `Tenant.http` and
`Tenant.signed` send what the SDK would not.
"""

import hashlib
import itertools
import json
import os
import re
import secrets
import selectors
import subprocess
import threading
import time
import uuid
from pathlib import Path

import requests
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.exceptions.exceptions import ClientRequestException
from huaweicloudsdkcore.http.http_config import HttpConfig
from huaweicloudsdkcore.http.http_handler import HttpHandler
from huaweicloudsdkcore.sdk_request import SdkRequest
from huaweicloudsdkcore.signer.signer import Signer
from huaweicloudsdkkms import v2 as kms

ROOT = Path(__file__).resolve().parents[3]
REGION = "cn-north-7"
SERVICES = ["obs", "evs"]
START_SECONDS = 60
STOP_SECONDS = 30
CALL_SECONDS = 60


def binary():
    """The backend to be tested: KMS_BACKEND, or what `cargo build -p keystead-kms` makes."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = Path(os.environ.get("KMS_BACKEND", target / "debug" / "keystead-kms"))
    path = path if path.is_absolute() else ROOT / path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: run `cargo build -p keystead-kms`")
    return path


class Account:
    """A customer of the configuration, with secrets of its own."""

    def __init__(self, projects=2, keys=()):
        self.domain = uuid.uuid4().hex
        self.projects = [uuid.uuid4().hex for _ in range(projects)]
        self.access_key = "AK" + secrets.token_hex(9).upper()
        self.secret_key = secrets.token_urlsafe(30)
        self.token = secrets.token_urlsafe(60)
        # (index of the project, key id, key alias, aliases), made on the first use of the project.
        self.keys = list(keys)

    def toml(self):
        lines = [
            "[[account]]",
            f'domain_id = "{self.domain}"',
            f"projects = {json.dumps(self.projects)}",
            "[[account.access]]",
            f'access_key = "{self.access_key}"',
            f'secret_key = "{self.secret_key}"',
            "[[account.token]]",
            f'token = "{self.token}"',
            'name = "tester"',
        ]
        for project, key_id, key_alias, aliases in self.keys:
            lines += [
                "[[account.key]]",
                f'project = "{self.projects[project]}"',
                f'key_id = "{key_id}"',
                f'key_alias = "{key_alias}"',
                f"aliases = {json.dumps(aliases)}",
            ]
        return "\n".join(lines)


class Backend:
    """A process on a loopback port of its own, with a configuration and a store in `folder`.

    `place` are the arguments that say where the store is, if it is not there.
    """

    def __init__(self, folder, accounts, *, head="", tables="", log=None, place=None):
        self.folder = Path(folder)
        self.accounts = accounts
        self.config = self.folder / "kms.toml"
        self.data = self.folder / "kms.redb"
        self.place = place or ["--data", self.data]
        self.log_path = self.folder / "log"
        self.environment = dict(os.environ)
        self.environment.pop("RUST_LOG", None)
        if log:
            self.environment["RUST_LOG"] = log
        parts = [f'region = "{REGION}"', f"default_key_services = {json.dumps(SERVICES)}", head, tables]
        parts += [account.toml() for account in accounts]
        opened = os.open(self.config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            file.write("\n".join(parts) + "\n")
        self.process = None
        self.url = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.close()

    def start(self):
        assert self.process is None
        command = [binary(), *self.place, "--listen", "127.0.0.1:0", "--config", self.config]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=self.environment
            )
        try:
            self.url = self._listening()
            self._healthy()
        except BaseException:
            self.kill()
            raise

    def _listening(self):
        """The address in the one line that the backend writes to its standard output."""
        deadline, line = time.monotonic() + START_SECONDS, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                ready = selector.select(max(0, deadline - time.monotonic()))
                part = os.read(self.process.stdout.fileno(), 4096) if ready else b""
                if not part:
                    raise RuntimeError(f"the backend did not start:\n{self.log()}")
                line += part
        found = re.fullmatch(rb"listening on (http://127\.0\.0\.1:[0-9]+)\n", line)
        assert found, line
        return found[1].decode()

    def _healthy(self):
        answer = requests.get(f"{self.url}/healthz", timeout=START_SECONDS)
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "ok"

    def stop(self):
        """Ends the process as an operator does; it must end well."""
        process, self.process = self.process, None
        process.terminate()
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()
        assert status == 0, f"the backend ended with {status}:\n{self.log()[-4000:]}"

    def kill(self):
        """SIGKILL: the process has no chance to say or to save anything."""
        process, self.process = self.process, None
        process.kill()
        process.wait()
        process.stdout.close()

    def close(self):
        if self.process is not None:
            self.stop()

    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def secrets(self):
        return [secret for account in self.accounts for secret in (account.secret_key, account.token)]

    def tenant(self, account=0, project=0):
        return Tenant(self, self.accounts[account], self.accounts[account].projects[project])


class Answer:
    """What came over the wire."""

    def __init__(self, response):
        self.status = response.status_code
        self.headers = response.headers
        self.text = response.text
        assert re.fullmatch("[0-9a-f]{32}", self.headers.get("X-Request-Id", "")), self.headers
        if self.status >= 400:
            self.refusal()

    def json(self):
        return json.loads(self.text)

    def refusal(self):
        """A refusal is nested, as documented, and flat, as some clients read it; both say the same."""
        body = self.json()
        assert set(body) == {"error", "error_code", "error_msg"}, body
        assert body["error"] == {"error_code": body["error_code"], "error_msg": body["error_msg"]}
        assert body["error_msg"], body
        return self.status, body["error_code"]


class Tenant:
    """A caller for one project of an account."""

    def __init__(self, backend, account, project):
        self.backend = backend
        self.account = account
        self.project = project
        self.sent = []
        self._local = threading.local()
        self.names = itertools.count(1)

    def __repr__(self):
        return f"Tenant({self.project})"

    @property
    def other_project(self):
        return Tenant(self.backend, self.account, self.account.projects[1])

    # The SDK

    @property
    def kms(self):
        """The SDK's client, one for each thread."""
        if getattr(self._local, "url", None) != self.backend.url:
            self._local.client = self.client()
            self._local.url = self.backend.url
        return self._local.client

    def client(self, access_key=None, secret_key=None, project=None):
        credentials = BasicCredentials(
            access_key or self.account.access_key, secret_key or self.account.secret_key, project or self.project
        )
        handler = HttpHandler().add_response_handler(self._record)
        builder = kms.KmsClient.new_builder().with_credentials(credentials).with_http_handler(handler)
        config = HttpConfig(timeout=(CALL_SECONDS, CALL_SECONDS))
        return builder.with_http_config(config).with_endpoint(self.backend.url).build()

    def _record(self, response, **_):
        """What the SDK sent and what it was answered."""
        Answer(response)
        self.sent.append((response.request, response))

    def create_key(self, key_alias=None, **fields):
        """Creates a key; answers its id."""
        key_alias = key_alias or f"key-{next(self.names)}-{uuid.uuid4().hex[:8]}"
        body = kms.CreateKeyRequestBody(key_alias=key_alias, **fields)
        return self.kms.create_key(kms.CreateKeyRequest(body)).key_info.key_id

    def describe(self, key_id):
        return self.kms.list_key_detail(kms.ListKeyDetailRequest(kms.OperateKeyRequestBody(key_id))).key_info

    def create_alias(self, alias, key_id):
        return self.kms.create_alias(kms.CreateAliasRequest(kms.CreateAliasRequestBody(key_id, alias)))

    def associate(self, alias, key_id):
        return self.kms.associate_alias(kms.AssociateAliasRequest(kms.AssociateAliasRequestBody(alias, key_id)))

    def delete_aliases(self, key_id, aliases):
        return self.kms.delete_alias(kms.DeleteAliasRequest(kms.DeleteAliasRequestBody(aliases, key_id)))

    def rename(self, key_id, key_alias):
        return self.kms.update_key_alias(
            kms.UpdateKeyAliasRequest(kms.UpdateKeyAliasRequestBody(key_id, key_alias))
        )

    def disable(self, key_id):
        return self.kms.disable_key(kms.DisableKeyRequest(kms.OperateKeyRequestBody(key_id)))

    def enable(self, key_id):
        return self.kms.enable_key(kms.EnableKeyRequest(kms.OperateKeyRequestBody(key_id)))

    def schedule(self, key_id, days="7"):
        return self.kms.delete_key(kms.DeleteKeyRequest(kms.ScheduleKeyDeletionRequestBody(key_id, days)))

    def cancel(self, key_id):
        return self.kms.cancel_key_deletion(kms.CancelKeyDeletionRequest(kms.OperateKeyRequestBody(key_id)))

    def aliases_page(self, **fields):
        # The SDK takes the one object of the answer for a list of them.
        (page,) = self.kms.list_aliases(kms.ListAliasesRequest(**fields)).body
        assert page.page_info.current_count == len(page.aliases)
        return page

    def aliases(self, **fields):
        """All pages: the key id of each alias, in the order in which they come."""
        found, marker = [], None
        while True:
            page = self.aliases_page(marker=marker, **fields)
            found += [(entity.alias, entity.key_id) for entity in page.aliases]
            marker = page.page_info.next_marker
            if not marker:
                assert len(dict(found)) == len(found), found
                return dict(found)

    def default_key(self):
        listed = self.kms.list_keys(kms.ListKeysRequest(kms.ListKeysRequestBody(key_spec="ALL")))
        return next(key.key_id for key in listed.key_details if key.default_key_flag == "1")

    # Raw HTTP

    @property
    def session(self):
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False
        return self._local.session

    def path(self, tail):
        return f"/v1.0/{self.project}/kms/{tail}"

    def http(self, method, path, body=None, headers=None, token=True, **more):
        """One request, with the account's token unless told otherwise. `body`: bytes, or what is to be JSON."""
        if body is not None and not isinstance(body, bytes) and not hasattr(body, "__next__"):
            body = json.dumps(body).encode()
        path = path if path.startswith("/") else self.path(path)
        all_headers = {"X-Auth-Token": self.account.token} if token else {}
        all_headers.update(headers or {})
        response = self.session.request(
            method, self.backend.url + path, data=body, headers=all_headers, timeout=CALL_SECONDS, **more
        )
        return Answer(response)

    def sign(self, method, tail, body=b"", headers=None, query=(), access_key=None, secret_key=None):
        """A request that the SDK's own signer has signed."""
        credentials = BasicCredentials(
            access_key or self.account.access_key, secret_key or self.account.secret_key, self.project
        )
        header_params = {"Content-Type": "application/json", "X-Project-Id": self.project}
        header_params.update(headers or {})
        host = self.backend.url.removeprefix("http://")
        request = SdkRequest(
            method, "http", host, self.path(tail), "", list(query), header_params, body or None
        )
        return Signer(credentials).sign(request)

    def send(self, request):
        """Sends a signed request, as it is now."""
        response = self.session.request(
            request.method,
            self.backend.url + request.uri,
            data=request.body,
            headers=request.header_params,
            timeout=CALL_SECONDS,
        )
        return Answer(response)


def refused(status, code, call):
    """The SDK must be refused, with this status and this code; answers its exception."""
    try:
        answer = call()
    except ClientRequestException as refusal:
        assert (refusal.status_code, refusal.error_code) == (status, code), refusal.error_msg
        assert refusal.error_msg and re.fullmatch("[0-9a-f]{32}", refusal.request_id)
        return refusal
    raise AssertionError(f"{code} was expected, but it was done: {answer}")


def sequence():
    return str(uuid.uuid4())


def sha256(body):
    return hashlib.sha256(body).hexdigest()
