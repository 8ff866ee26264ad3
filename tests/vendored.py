"""Holds the page's scripts that are not ours against what their makers published: `python -m tests.vendored [--write]`.

Needs npm and a package index. Names and versions are those that the folders' own documents say; `--write` takes what is
published there, after a version has been changed in one of them, and writes the digests into the document.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

UI = Path(__file__).parents[1] / "service" / "ui"
DOCUMENTS = (UI / "vendor" / "README.txt", UI / "docs" / "swagger-ui" / "README.md")
# By package: what stands here of it, and where that is within it.
FILES = {
    "preact": {
        "vendor/preact/preact.js": "dist/preact.module.js",
        "vendor/preact/hooks.js": "hooks/dist/hooks.module.js",
        "vendor/preact/LICENSE.txt": "LICENSE",
    },
    "htm": {"vendor/htm/htm.js": "dist/htm.module.js", "vendor/htm/LICENSE.txt": "LICENSE"},
    "swagger-ui-dist": {
        f"docs/swagger-ui/{name}": name
        for name in (
            "LICENSE",
            "NOTICE",
            "swagger-ui-bundle.js",
            "swagger-ui-bundle.js.LICENSE.txt",
            "swagger-ui.css",
        )
    },
}


def versions(texts: str) -> dict[str, str]:
    """Return each package's version, as the documents say it."""
    return dict(re.findall(r"^ +([\w-]+)@([\d.]+) ", texts, re.MULTILINE)) | {
        "swagger-ui-dist": re.findall(r"^Swagger UI ([\d.]+),", texts, re.MULTILINE)[0]
    }


def ours(name: str, content: bytes) -> bytes:
    """Return a file as it stands here: without the names of maps, and with the one import that browsers know."""
    if not name.startswith("vendor/") or not name.endswith(".js"):
        return content
    content = re.sub(rb"^//# sourceMappingURL=.*\n?", b"", content, flags=re.MULTILINE)
    return content.replace(b'from"preact"', b'from"./preact.js"')


def published(package: str, version: str, folder: Path) -> dict[str, bytes]:
    """Return what a package holds of what stands here, by where it stands."""
    command = ["npm", "pack", "--silent", f"{package}@{version}"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(folder / f"{package}-{version}.tgz") as archive:
        found = {}
        for here, there in FILES[package].items():
            file = archive.extractfile(f"package/{there}")
            assert file is not None
            found[here] = ours(here, file.read())
    return found


def main() -> None:
    """Compare, or write.

    Raises:
        SystemExit: something is another than it was published.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    texts = {path: path.read_text("utf-8") for path in DOCUMENTS}
    differ = []
    with tempfile.TemporaryDirectory() as folder:
        for package, version in versions("\n".join(texts.values())).items():
            for name, content in published(package, version, Path(folder)).items():
                path = UI / name
                before = path.read_bytes()
                if content == before:
                    continue
                differ.append(f"{name} is not that of {package} {version}")
                if write:
                    path.write_bytes(content)
                    old, new = (hashlib.sha256(one).hexdigest() for one in (before, content))
                    texts = {document: text.replace(old, new) for document, text in texts.items()}
    for document, text in texts.items() if write else ():
        document.write_text(text, "utf-8")
    print("\n".join(differ) or "all as published")
    sys.exit(1 if differ and not write else 0)


if __name__ == "__main__":
    main()
