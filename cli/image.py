"""``llama-hub image``: the container that the clouds start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama_hub.cli.options import Json, Quiet
from llama_hub.cli.output import output

app = typer.Typer(
    add_completion=False,
    help="The container that starts the service in any cloud.",
    no_args_is_help=True,
)

Base = Annotated[
    str | None,
    typer.Option(metavar="IMAGE", help="Base of the CPU variant, Debian or Ubuntu, pinned."),
]
CudaBase = Annotated[
    str | None,
    typer.Option(metavar="IMAGE", help="Base of the CUDA variant, Debian or Ubuntu, pinned."),
]


@app.callback()
def image() -> None:
    """The container that starts the service in any cloud."""


@app.command()
def write(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    base: Base = None,
    cuda_base: CudaBase = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a Dockerfile context, CPU and CUDA; nothing is built."""
    from llama_hub.deploy import image as images

    out = output(json, quiet)
    written = images.write(
        folder, cpu_base=base or images.CPU_BASE, cuda_base=cuda_base or images.CUDA_BASE
    )
    document = {
        "path": str(folder),
        "files": [{"path": path.name, "bytes": path.stat().st_size} for path in written],
        "port": images.PORT,
    }
    text = "\n".join(
        [
            *(f"{path}" for path in written),
            f"docker build -t llama-hub {folder}                    (CPU)",
            f"docker build -t llama-hub -f {folder}/Dockerfile.cuda {folder}   (CUDA)",
        ]
    )
    out.result(document, text)
