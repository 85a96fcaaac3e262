"""Finding a Java that Lucene runs on."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from retrieval.errors import BackendUnavailableError

# Source: Anserini 1.x, which Pyserini 1.x brings, is compiled for Java 21.
_LEAST = 21

# Folders that hold one installation each in every sub-folder.
_PLACES = ("/usr/lib/jvm", "/usr/java", "/opt", "/opt/java", "~/.sdkman/candidates/java", "~/.jdks")


def find_java() -> Path:
    """Find an installation of Java: that of `JAVA_HOME`, that on the path, then the usual places.

    Returns:
        Its folder, as `JAVA_HOME` names it.

    Raises:
        BackendUnavailableError: If there is none that is new enough.
    """
    found: dict[Path, int] = {}
    for home in _homes():
        version = _version(home)
        if version is not None and version >= _LEAST:
            return home
        if version is not None:
            found[home] = version
    seen = ", ".join(f"{version} in {home}" for home, version in found.items()) or "none"
    raise BackendUnavailableError(
        f"expected Java {_LEAST} or later for Lucene, found {seen}; install one "
        f"(`apt-get install openjdk-{_LEAST}-jdk-headless`, `conda install openjdk>={_LEAST}`, or "
        "adoptium.net) and point JAVA_HOME at its folder"
    )


def _homes() -> Iterator[Path]:
    if os.environ.get("JAVA_HOME"):
        yield Path(os.environ["JAVA_HOME"])
    program = shutil.which("java")
    if program:
        yield Path(program).resolve().parents[1]
    for place in _PLACES:
        folder = Path(place).expanduser()
        if folder.is_dir():
            yield from sorted(folder.iterdir())


def _version(home: Path) -> int | None:
    """Major version from the file `release` that every installation has."""
    try:
        release = (home / "release").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', release, re.MULTILINE)
    return int(match[1]) if match else None
