"""Entry point of the command ``llama-hub``, in a module that no other project can replace.

The import package is ``llama_hub``, but ``llama-hub`` on PyPI is another project (the loader
library of LlamaIndex), whose wheel installs a package ``llama_hub`` as well: over ours, or before
it on the path. So the command starts here, outside that package, and looks before it imports.
"""

import sys

FOREIGN = "llama-hub"  # the distribution on PyPI that is not ours
REPAIR = f"pip uninstall -y {FOREIGN} && pip install --force-reinstall --no-deps llama2-hub"


def main() -> None:
    """Run the command.

    Exit code 2 on Windows, or if ``llama_hub`` is another project's or was removed with it.
    """
    if sys.platform == "win32":
        sys.stderr.write(
            "error: llama-hub does not run on Windows: its locks, preallocation, safe paths and"
            " service processes are those of POSIX\n"
            "  hint: wsl --install   and then, in that Linux: pip install llama2-hub\n"
        )
        raise SystemExit(2)
    import llama_hub

    if "DeploymentSpec" not in getattr(llama_hub, "__all__", ()):
        place = getattr(llama_hub, "__file__", None) or "llama_hub (its __init__.py is missing)"
        sys.stderr.write(
            f"error: {place} is not this project's: {FOREIGN} from PyPI, another project, was"
            f" installed\n  hint: {REPAIR}\n"
        )
        raise SystemExit(2)
    from llama_hub.cli.main import main as run

    run()
