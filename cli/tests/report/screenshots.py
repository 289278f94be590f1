"""Makes the pictures in docs/images, behind `.ci/run report`:

KEYSTEAD=target/debug/keystead REPORT_STORES=target/report-stores target/report-venv/bin/python cli/tests/report/screenshots.py
"""

import pathlib

from browser import QUOTA, Shown, chromium, temporary_folder, write_page

IMAGES = pathlib.Path(__file__).parents[3] / "docs" / "images"

IMAGES.mkdir(exist_ok=True)
with temporary_folder() as folder, chromium() as browser:
    file = write_page("kms.redb", pathlib.Path(folder), "--keys-per-project", str(QUOTA))
    for scheme in ("light", "dark"):
        with Shown(browser, file, scheme, width=1000) as shown:
            clip = {"x": 0, "y": 0, "width": 1000, "height": 1160}
            shown.page.screenshot(path=IMAGES / f"report-{scheme}.png", clip=clip, full_page=True)
