"""Adds up, module by module, the lines that cargo-tarpaulin's JSON report says are covered."""

import json
import sys
from pathlib import Path

# Files that are tests themselves, by what is in their path.
TESTS = ("/tests/", "/tests.rs", "_tests.rs", "/conformance.rs", "/scripted.rs", "/fuzzing.rs", "/simulated.rs")


def module_of(place: str) -> str:
    return place.split("/")[1].removesuffix(".rs")


def main(report: str, *shown: str) -> None:
    root = Path.cwd()
    modules: dict[str, list[int]] = {}
    for file in json.loads(Path(report).read_text())["files"]:
        path = Path(*file["path"])
        if not path.is_relative_to(root / "src"):
            continue
        place = str(path.relative_to(root))
        if any(part in f"/{place}" for part in TESTS):
            continue
        missed = [trace["line"] for trace in file["traces"] if not trace["stats"].get("Line")]
        lines = modules.setdefault(module_of(place), [0, 0])
        lines[0] += len(file["traces"]) - len(missed)
        lines[1] += len(file["traces"])
        if module_of(place) in shown and missed:
            print(f"{place}: not covered: {' '.join(map(str, missed))}")
    if not modules:
        sys.exit(f"{report} tells nothing of src")
    for module, (covered, lines) in sorted(modules.items()):
        if lines:
            print(f"{module:10} {covered:5} of {lines:5} lines, {100 * covered / lines:.1f} %")


main(*sys.argv[1:])
