"""What is installed: floors, the lists of versions, and the bill of materials agree with each other."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.lock import CONSTRAINTS, LOCK

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SERVER = [Requirement(text) for text in PROJECT["dependencies"]]
# All extras but the protocols' own clients, which no image has.
EXTRAS = [
    Requirement(text)
    for name, texts in PROJECT["optional-dependencies"].items()
    if name != "protocols"
    for text in texts
]
SBOM = ROOT / "docker" / "sbom.py"


def _listed(path: Path) -> dict[str, tuple[Version, Marker | None, list[str]]]:
    """Return a list's packages: version, where it is for, and hashes."""
    found = {}
    for line in path.read_text("utf-8").replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            text, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
            requirement = Requirement(text)
            (exact,) = requirement.specifier
            assert exact.operator == "=="
            found[canonicalize_name(requirement.name)] = Version(exact.version), requirement.marker, hashes
    return found


LOCKED, CONSTRAINED = _listed(LOCK), _listed(CONSTRAINTS)


@pytest.mark.parametrize("requirement", SERVER, ids=str)
def test_the_lock_has_all_that_the_server_needs(requirement: Requirement) -> None:
    version, marker, _ = LOCKED[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)
    assert marker is None  # on every platform


@pytest.mark.parametrize("requirement", [*SERVER, *EXTRAS], ids=str)
def test_constraints_have_a_version_of_everything(requirement: Requirement) -> None:
    assert requirement.specifier.contains(CONSTRAINED[canonicalize_name(requirement.name)][0])


def test_the_lock_is_the_server_alone_and_has_a_hash_of_each_file() -> None:
    assert all(re.fullmatch("[0-9a-f]{64}", text) for _, _, hashes in LOCKED.values() for text in hashes)
    assert not [name for name, (_, _, hashes) in LOCKED.items() if not hashes]
    assert not [name for name, (_, _, hashes) in CONSTRAINED.items() if hashes]
    server = {canonicalize_name(requirement.name) for requirement in SERVER}
    only_extras = {canonicalize_name(requirement.name) for requirement in EXTRAS} - server
    assert not only_extras & LOCKED.keys()
    assert {name: version for name, (version, *_) in LOCKED.items()} == {name: CONSTRAINED[name][0] for name in LOCKED}


def test_every_dependency_of_the_server_has_a_floor() -> None:
    for requirement in SERVER:
        assert {one.operator for one in requirement.specifier} & {">=", "=="}, requirement


def test_the_floors_are_past_holes_that_are_told_of() -> None:
    """`SECURITY.md` names the version of each; a floor may be above it."""
    floors = {
        canonicalize_name(requirement.name): Version(
            next(one for one in requirement.specifier if one.operator == ">=").version
        )
        for requirement in SERVER
        if ">=" in str(requirement.specifier)
    }
    told = re.findall(
        r"([\w-]+) (\d[\d.]*\d) \((?:CVE|GHSA)-", (ROOT / "SECURITY.md").read_text("utf-8"), re.IGNORECASE
    )
    assert len(told) >= 6
    for name, version in told:
        assert floors[canonicalize_name(name)] >= Version(version), name


# What an image says of itself


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Let an environment describe itself that has packages with metadata as makers write them, and ours."""
    folder = tmp_path_factory.mktemp("image")
    site = folder / "site"
    packages = {
        "heatlens": ("0.1.0", ["License-Expression: Apache-2.0"], {}),
        "Some.Package": (
            "1.2",
            ["Classifier: License :: OSI Approved :: MIT License"],
            {"LICENSE": "Permission is granted."},
        ),
        "long": ("3", ["License: Redistribution and use\n        in source"], {"COPYING.txt": "Use it."}),
        "unknown": ("4+cpu", ["License: UNKNOWN"], {}),
    }
    for name, (version, lines, files) in packages.items():
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, ""])
        )
        for file, text in files.items():
            (info / file).write_text(text)
        (info / "RECORD").write_text("".join(f"{info.name}/{file},,\n" for file in files))
    (site / "service").symlink_to(ROOT / "service")
    subprocess.run([sys.executable, "-I", str(SBOM), str(folder / "out"), str(site)], check=True, timeout=60)
    return folder / "out"


def test_the_bill_names_every_package_with_its_licence(described: Path) -> None:
    bill = json.loads((described / "sbom.cdx.json").read_text("utf-8"))
    assert (bill["bomFormat"], bill["specVersion"], bill["metadata"]["component"]["name"]) == (
        "CycloneDX",
        "1.6",
        "heatlens",
    )
    entries = {entry["name"]: entry for entry in bill["components"]}
    assert entries["some-package"] == {
        "type": "library",
        "bom-ref": "pkg:pypi/some-package@1.2",
        "name": "some-package",
        "version": "1.2",
        "purl": "pkg:pypi/some-package@1.2",
        "licenses": [{"license": {"name": "MIT License"}}],
    }
    assert entries["unknown"]["purl"] == "pkg:pypi/unknown@4%2Bcpu"
    assert "licenses" not in entries["unknown"]
    assert entries["swagger-ui-dist"]["licenses"] == [{"expression": "Apache-2.0"}]
    installed = {canonicalize_name(one.metadata["Name"]) for one in distributions()} - {"heatlens"}
    assert installed <= entries.keys()
    references = [entry["bom-ref"] for entry in bill["components"]]
    assert len(set(references)) == len(references)


def test_all_licences_lie_beside_it(described: Path) -> None:
    text = (described / "THIRD-PARTY.txt").read_text("utf-8")
    assert re.search(r"Some.Package 1.2: MIT License\n=+\nPermission is granted.", text)
    assert re.search(r"long 3: see below\n=+\nUse it.", text)
    assert "swagger-ui-dist" in text
    assert "Apache License" in text
