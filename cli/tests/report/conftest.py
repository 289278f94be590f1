import json
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import browser as driver


@pytest.fixture(scope="session")
def browser():
    with driver.chromium() as running:
        yield running


@pytest.fixture(scope="session")
def pages():
    """The pages of the stores, by name."""
    with driver.temporary_folder() as name:
        folder = pathlib.Path(name)
        yield {
            "sample": driver.write_page("kms.redb", folder, "--keys-per-project", str(driver.QUOTA)),
            "empty": driver.write_page("empty.redb", folder, "--no-verify"),
            "without history": driver.write_page("without-history.redb", folder),
            "hostile": driver.write_page(driver.HOSTILE, folder),
            "project": driver.write_page(
                "kms.redb", folder, "--domain", "3bab8e245e854f68af5967c00dd43127", "--project", "production",
                "--rows", "3",
            ),
        }


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="session")
def keys():
    """The keys of the sample with their aliases, as an export tells them."""
    exported = lines(driver.keystead("export", "--all", "--store", driver.STORES / "kms.redb"))
    return [line for line in exported if line["type"] == "key"]


@pytest.fixture(scope="session")
def commits():
    """The commits of the sample, as the feed tells them."""
    return lines(driver.keystead("changes", "--json", "--store", driver.STORES / "kms.redb"))
