"""How the service's other SDKs sign their requests: which headers, in which order, spelled how, and what they make
of the path. Written from what the signing code that they publish does, each in the version that is named.

`Tenant.sign` is the SDK of Python itself.
"""

import hashlib
import hmac
import http.client
import json
from datetime import datetime, timezone
from urllib.parse import quote, urlsplit

from backend import CALL_SECONDS, Answer

ALGORITHM = "SDK-HMAC-SHA256"
DATE = "%Y%m%dT%H%M%SZ"


def escaped(text):
    """All but letters, digits and `-._~`."""
    return quote(text, safe="~")


class Request:
    """A request as it is sent: `target` is the path and query of its first line, `headers` their pairs in order."""

    def __init__(self, method, target, headers, body):
        self.method, self.target, self.headers, self.body = method, target, headers, body

    def header(self, name, value):
        """Sends another value of a header than the one that was signed; None: sends no such header."""
        assert name.lower() in [other.lower() for other, _ in self.headers]
        pairs = [(other, value if other.lower() == name.lower() else was) for other, was in self.headers]
        self.headers = [pair for pair in pairs if pair[1] is not None]

    def send(self, tenant):
        connection = http.client.HTTPConnection(urlsplit(tenant.backend.url).netloc, timeout=CALL_SECONDS)
        try:
            connection.putrequest(self.method, self.target, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers:
                connection.putheader(name, value.encode())
            if self.body:
                connection.putheader("Content-Length", str(len(self.body)))
            connection.endheaders(self.body or None)
            response = connection.getresponse()
            response.status_code, response.text = response.status, response.read().decode()
            return Answer(response)
        finally:
            connection.close()


class Client:
    """What the SDKs have in common. `signed` chooses the headers, `spelled` how the list of them is written."""

    host_is_signed = False

    def __init__(self, access_key, secret_key, project, host):
        self.access_key, self.secret_key, self.project, self.host = access_key, secret_key, project, host
        self.date = None

    @classmethod
    def of(cls, tenant):
        account = tenant.account
        return cls(account.access_key, account.secret_key, tenant.project, urlsplit(tenant.backend.url).netloc)

    def request(self, method, path, body=None, query=()):
        body = self.json(body) if body is not None else b""
        headers = self.headers(body)
        names = self.signed(headers)
        lower = {name.lower(): value for name, value in headers}
        lines = "".join(f"{self.spelled(name)}:{self.trimmed(lower[name.lower()])}\n" for name in names)
        pairs = "&".join(f"{escaped(name)}={escaped(value)}" for name, value in sorted(query))
        segments = "/".join(escaped(segment) for segment in self.signed_path(path).split("/"))
        canonical_path = segments if segments.endswith("/") else segments + "/"
        listed = ";".join(self.spelled(name) for name in names)
        hashed = hashlib.sha256(body).hexdigest()
        canonical = "\n".join([method, canonical_path, pairs, lines, listed, hashed])
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = f"{ALGORITHM}\n{lower['x-sdk-date']}\n{digest}"
        signature = hmac.new(self.secret_key.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
        authorization = f"{ALGORITHM} Access={self.access_key}, SignedHeaders={listed}, Signature={signature}"
        target = self.sent_path(path) + ("?" + self.sent_query(query) if query else "")
        return Request(method, target, [*headers, ("Authorization", authorization)], body)

    def now(self):
        return self.date or datetime.now(timezone.utc).strftime(DATE)

    def json(self, body):
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()

    def trimmed(self, value):
        return value.strip()

    def spelled(self, name):
        return name.lower()

    def signed_path(self, path):
        return path

    def sent_path(self, path):
        # What a URL's own type makes of a path: a slash in a tag's key stays one.
        return quote(path, safe="/~$&+,:;=@")

    def sent_query(self, query):
        return "&".join(f"{escaped(name)}={escaped(value)}" for name, value in query)


class Go(Client):
    """huaweicloud-sdk-go-v3: the headers that it was given, but not their type; no host. It signs the path before
    any of it is encoded."""

    def headers(self, body):
        return [
            ("Host", self.host),
            ("User-Agent", "huaweicloud-usdk-go/3.0"),
            ("Content-Type", "application/json;charset=UTF-8"),
            ("X-Project-Id", self.project),
            ("X-Sdk-Date", self.now()),
            ("Accept-Encoding", "gzip"),
        ]

    def signed(self, headers):
        # Neither host nor what its HTTP library adds are among those that it was given.
        given = [name for name, _ in headers if name not in ("Host", "Accept-Encoding")]
        return sorted(name.lower() for name in given if not name.lower().startswith("content-type"))

    def json(self, body):
        return super().json(body) + b"\n"

    def sent_query(self, query):
        # Without the `=` of an empty value.
        return super().sent_query(sorted(query)).replace("=&", "&").rstrip("=")


class GoBefore(Go):
    """Its versions of some years ago signed the type too."""

    def signed(self, headers):
        return sorted([*super().signed(headers), "content-type"])


class Terraform(Client):
    """golangsdk, on which the provider for Terraform is: all headers of the request, and host is none in Go."""

    def headers(self, body):
        return [
            ("Host", self.host),
            ("User-Agent", "terraform-provider-huaweicloud/1.80 golangsdk/2.0.0"),
            ("Accept", "application/json"),
            ("Content-Type", "application/json"),
            ("X-Sdk-Date", self.now()),
            ("Accept-Encoding", "gzip"),
        ]

    def signed(self, headers):
        return sorted(name.lower() for name, _ in headers if name not in ("Host", "Accept-Encoding"))


class Java(Client):
    """huaweicloud-sdk-java-v3: all headers, by name in lower case, and host. Values are signed as they are."""

    host_is_signed = True

    def headers(self, body):
        return [
            ("User-Agent", "huaweicloud-usdk-java/3.0"),
            ("X-Project-Id", self.project),
            ("Content-Type", "application/json;charset=UTF-8"),
            ("Host", self.host),
            ("X-Sdk-Date", self.now()),
        ]

    def signed(self, headers):
        return sorted(name.lower() for name, _ in headers)

    def trimmed(self, value):
        return value


class Node(Client):
    """huaweicloud-sdk-nodejs-v3: what its request has, sorted by names in lower case, and host. Its HTTP library adds
    the rest."""

    host_is_signed = True

    def headers(self, body):
        return [
            ("Accept", "application/json, text/plain, */*"),
            ("content-type", "application/json"),
            ("X-Project-Id", self.project),
            ("X-Sdk-Date", self.now()),
            ("host", self.host),
            ("User-Agent", "huaweicloud-usdk-nodejs/3.0"),
        ]

    def signed(self, headers):
        return sorted((name for name, _ in headers if name not in ("Accept", "User-Agent")), key=str.lower)


class OnlyTheDate(Client):
    """All that the service's signing guide demands."""

    def headers(self, body):
        return [("Host", self.host), ("X-Sdk-Date", self.now())]

    def signed(self, headers):
        return ["x-sdk-date"]


class Capitals(Client):
    """The list as the headers are sent, the lines as the guide has them."""

    host_is_signed = True

    def headers(self, body):
        return [("Host", self.host), ("Content-Type", "application/json"), ("X-Sdk-Date", self.now())]

    def signed(self, headers):
        return ["Content-Type", "Host", "X-Sdk-Date"]

    def request(self, method, path, body=None, query=()):
        request = super().request(method, path, body, query)
        name, value = request.headers[-1]
        listed = ";".join(self.signed([]))
        request.headers[-1] = (name, value.replace(listed.lower(), listed))
        return request


class AllCapitals(Capitals):
    """The list and the lines as the headers are sent."""

    def spelled(self, name):
        return name


CLIENTS = [Go, GoBefore, Terraform, Java, Node, OnlyTheDate, Capitals, AllCapitals]
