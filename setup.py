"""Compiles the kernels into what is built; ``pyproject.toml`` holds everything else.

Without a compiler, or with ``LLAMA_HUB_BUILD_KERNELS=0``, the package is built without them: a
machine that has a compiler then compiles them at first use, another one computes with torch's.
``LLAMA_HUB_BUILD_KERNELS=avx2,sse4`` builds these variants only.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))

from llama_hub import kernel_build  # noqa: E402


def _variants() -> list[str] | None:
    stated = os.environ.get("LLAMA_HUB_BUILD_KERNELS", "1")
    return {"0": [], "1": None}.get(stated, stated.split(","))


class BuildPython(build_py):
    """The package's files, then its libraries beside them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib).resolve() / "llama_hub"
        try:
            kernel_build.build_prebuilt(package, _variants())
        except subprocess.SubprocessError as error:
            self.warn(f"built without kernels, which do not compile here: {error}")


class BuildWheel(bdist_wheel):
    """A wheel for any Python 3 on this kind of machine, or anywhere if it holds no library."""

    def get_tag(self) -> tuple[str, str, str]:
        libraries = list((Path(self.bdist_dir) / "llama_hub").glob("prebuilt/*.so"))
        if not libraries:
            return "py3", "none", "any"
        return "py3", "none", kernel_build.platform_tag(libraries, platform.machine())


class BinaryDistribution(Distribution):
    """Files for one kind of machine, although no extension module is among them."""

    def has_ext_modules(self) -> bool:
        return _variants() != [] and kernel_build.compiler() is not None


setup(distclass=BinaryDistribution, cmdclass={"build_py": BuildPython, "bdist_wheel": BuildWheel})
