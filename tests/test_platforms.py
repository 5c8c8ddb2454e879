"""Every platform gets wheels of every dependency, and decord2 gives the frames that decord gives."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.helpers import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYTHON = "3.12"
PLATFORMS = {  # name: sys_platform, platform_machine, the wheel tags that pip takes there
    "Linux x86-64": ("linux", "x86_64", ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2010_x86_64"]),
    "Linux aarch64": ("linux", "aarch64", ["manylinux_2_28_aarch64", "manylinux_2_17_aarch64"]),
    "macOS arm64": ("darwin", "arm64", ["macosx_14_0_arm64"]),
    "Windows x86-64": ("win32", "AMD64", ["win_amd64"]),
}


def requirements(name: str) -> list[Requirement]:
    """What pip installs on a platform, of the dependencies in pyproject.toml."""
    system, machine, _ = PLATFORMS[name]
    environment = {"sys_platform": system, "platform_machine": machine, "python_version": PYTHON}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted = [Requirement(line) for line in listed]
    return [one for one in wanted if one.marker is None or one.marker.evaluate(environment)]


@pytest.mark.parametrize("name", PLATFORMS)
def test_each_platform_has_one_decord(name: str) -> None:
    decords = [one.name for one in requirements(name) if one.name.startswith("decord")]
    assert decords == (["decord"] if "x86-64" in name else ["decord2"])


def versions(package: str, *options: str) -> list[str]:
    """The versions with a wheel that pip finds."""
    command = [sys.executable, "-m", "pip", "index", "versions", package, "--only-binary=:all:", *options]
    found = re.search(r"Available versions: (.*)", subprocess.run(command, capture_output=True, text=True).stdout)
    return found[1].split(", ") if found else []


@pytest.mark.slow
def test_every_platform_has_wheels_of_every_dependency() -> None:
    if not versions("decord2"):
        pytest.skip("the package index cannot be reached")
    cases = [(name, one) for name in PLATFORMS for one in requirements(name)]

    def fits(case: tuple[str, Requirement]) -> bool:
        name, one = case
        tags = [f"--platform={tag}" for tag in PLATFORMS[name][2]]
        return any(map(one.specifier.contains, versions(one.name, f"--python-version={PYTHON}", *tags)))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fits, cases))
    assert [(name, str(one)) for (name, one), there in zip(cases, found, strict=True) if not there] == []


@pytest.mark.slow
def test_decord2_gives_the_frames_that_decord_gives(tmp_path: Path) -> None:
    """The tests of videos, in an environment that differs from this one in decord alone."""
    if not versions("decord2"):
        pytest.skip("the package index cannot be reached")
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    [decord2] = [one for one in requirements("macOS arm64") if one.name == "decord2"]
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", f"{decord2.name}{decord2.specifier}"]
    subprocess.run(install, check=True)

    def run(*arguments: str) -> str:
        done = subprocess.run([python, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    own = Path(run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (own / "the_rest.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after its own packages
    assert Path(run("-c", "import decord; print(decord.__file__)").strip()).is_relative_to(own)
    assert "failed" not in run("-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/test_videos.py")
