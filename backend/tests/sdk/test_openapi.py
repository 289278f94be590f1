"""schemathesis: requests made up from the description that the backend serves, right ones and wrong ones."""

import os
import re
import subprocess
import sys
from pathlib import Path

from backend import Account

EXAMPLES = 25
SECONDS = 120
HERE = Path(__file__).resolve().parent
# The right form is not enough to be accepted: a key may be in a state that does not allow it, and this
# API answers that with 400 too. And `Allow` of `.../tags/action` has DELETE too, rightly: a tag may be
# called `action`; that is described at `.../tags/{key}`.
EXCLUDED = "positive_data_acceptance,allow_header_conformance"


def test_no_request_finds_a_fault(start, tmp_path):
    backend = start([Account()], tables="[quotas]\nkeys_per_project = 10000")
    tenant = backend.tenant()
    keys = [
        tenant.create_key(),
        tenant.create_key(),
        tenant.create_key(origin="external"),
        tenant.create_key(key_spec="RSA_2048"),
        tenant.default_key(),
    ]
    aliases = [f"known-{number}" for number in range(4)]
    for alias in aliases:
        tenant.create_alias(alias, keys[0])

    environment = os.environ | {
        "PYTHONPATH": str(HERE),
        "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
        "KEYSTEAD_PROJECT": tenant.project,
        "KEYSTEAD_KEYS": ",".join(keys),
        "KEYSTEAD_ALIASES": ",".join(aliases),
    }
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{backend.url}/openapi.json"]
    command += ["--header", f"X-Auth-Token: {tenant.account.token}"]
    command += ["--checks", "all", "--exclude-checks", EXCLUDED, "--continue-on-failure"]
    command += ["--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, timeout=SECONDS, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert ran.returncode == 0, ran.stdout

    # What the backend itself says of it: each described operation was called, and none failed.
    description = tenant.http("GET", "/openapi.json", token=False).json()
    described = {(method.upper(), path) for path, methods in description["paths"].items() for method in methods}
    answered = {}
    counted = r'^kms_requests_total\{method="(.*)",path="(.*)",status="(.*)"\} ([0-9.]+)$'
    for method, path, status, number in re.findall(counted, tenant.http("GET", "/metrics").text, re.M):
        answered.setdefault((method, path), {})[int(status)] = int(float(number))
    assert described <= set(answered)
    assert not [statuses for statuses in answered.values() if max(statuses) >= 500]
    # Most of them did something: what was made up did not only fail at the door.
    done = {operation for operation in described if min(answered[operation]) < 300}
    assert len(done) >= len(described) * 2 // 3, sorted(described - done)
    assert "internal trouble" not in backend.log() and "panicked" not in backend.log()
