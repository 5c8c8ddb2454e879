"""Every platform gets wheels of every dependency."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

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


def versions(package: str, *options: str) -> list[str]:
    """The versions with a wheel that pip finds."""
    command = [sys.executable, "-m", "pip", "index", "versions", package, "--only-binary=:all:", *options]
    found = re.search(r"Available versions: (.*)", subprocess.run(command, capture_output=True, text=True).stdout)
    return found[1].split(", ") if found else []


@pytest.mark.slow
def test_every_platform_has_wheels_of_every_dependency() -> None:
    if not versions("av"):
        pytest.skip("the package index cannot be reached")
    cases = [(name, one) for name in PLATFORMS for one in requirements(name)]

    def fits(case: tuple[str, Requirement]) -> bool:
        name, one = case
        tags = [f"--platform={tag}" for tag in PLATFORMS[name][2]]
        return any(map(one.specifier.contains, versions(one.name, f"--python-version={PYTHON}", *tags)))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fits, cases))
    assert [(name, str(one)) for (name, one), there in zip(cases, found, strict=True) if not there] == []
