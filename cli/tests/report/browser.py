"""A real Chromium without a window, and the stores and pages that it is shown.

KEYSTEAD is the tool's binary, REPORT_STORES the folder that `cli/examples/report_stores` made.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile

from playwright.sync_api import sync_playwright

KEYSTEAD = pathlib.Path(os.environ["KEYSTEAD"]).resolve()
STORES = pathlib.Path(os.environ["REPORT_STORES"]).resolve()
CHROMIUM = shutil.which("chromium")
HOSTILE = "<img src=x onerror=\"document.title='owned'\">.redb"
# What cli/examples/report_stores gives its largest store.
QUOTA = 150

ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
]


def keystead(*arguments):
    """What a command that must succeed wrote."""
    return subprocess.run([KEYSTEAD, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def write_page(store, folder, *options):
    page = pathlib.Path(folder) / f"{len(list(folder.iterdir()))}.html"
    keystead("report", "--store", STORES / store, "--output", page, *options)
    return page


@contextlib.contextmanager
def chromium():
    """A browser with an empty profile of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Shown:
    """A page in the browser, what it asked for, and what it complained of."""

    def __init__(self, browser, file, scheme="light", width=1400):
        self.requested, self.complaints = [], []
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        self.page = context.new_page()
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))
        self.file = file
        self.page.goto(file.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.page.context.close()

    def open_all(self):
        self.page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")

    def table(self, figure):
        """The rows of the table under a chart: the name, and the numbers."""
        rows = self.page.eval_on_selector_all(
            f"#{figure} table tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
        )
        return [(name, *(int(number.replace(",", "")) for number in numbers)) for name, *numbers in rows]


def temporary_folder():
    return tempfile.TemporaryDirectory(prefix="keystead-report-")
