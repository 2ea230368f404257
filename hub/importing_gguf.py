"""Taking over a GGUF file that other tools downloaded, with all its parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llama_hub.hub.catalog import Model
from llama_hub.hub.checkpoints import gguf_types
from llama_hub.hub.importing import ImportedFolder
from llama_hub.hub.sources import layout
from llama_hub.hub.sources.base import FetchPlan, read_first
from llama_hub.hub.transfer.remote_file import BytesRequest, FolderRequest, RemoteFile
from llama_hub.licenses.gate import Texts


class ImportedFile(ImportedFolder):
    """The source ``import``: a GGUF file (or any part of one) that is linked instead of read."""

    def __init__(self, file: Path) -> None:
        super().__init__(file.parent, "gguf")
        self._file = file
        self.about = f"from {file}"

    def texts(self, model: Model) -> Texts:
        """Licence and policy that lie beside the file."""
        return super().texts(replace(model, folder="."))

    def plan(self, model: Model) -> FetchPlan:
        """The parts of the file and the documents beside it; ``IntegrityError`` for no model."""
        from llama_hub.hub.checkpoints import gguf

        with gguf.open_gguf(self._file, quantised=True):  # names, shapes and keys are a model's
            content = gguf.read_model(self._file)
        paths = sorted({content.path, *(info.path for info in content.tensors.values())})
        names = [path.name if gguf_types.has_name(path) else f"{model.id}.gguf" for path in paths]
        weights = [
            RemoteFile(name, FolderRequest(path), path.stat().st_size)
            for name, path in zip(names, paths, strict=True)
        ]
        small = self._documents()
        inline = [
            RemoteFile(name, BytesRequest(data, f"{self._file.parent} ({name})"), len(data))
            for name, data in small.items()
        ]
        lacks = (
            *layout.lacking(small, model, "gguf"),
            *(f"a digest of {name}" for name in names),
        )
        return FetchPlan("gguf", (*inline, *weights), self._record, self._place.policy, lacks)

    def _documents(self) -> dict[str, bytes]:
        """What goes along; a name with the file's own before it is the file's own."""
        stem, found = gguf_types.stem_of(self._file), {}
        for name, names in layout.documents("gguf"):
            hit = read_first(self._place, [f"{stem}.{name}", *names])
            if hit is not None:
                found[name] = hit[1]
        return found


def gguf_file_at(path: Path) -> Path | None:
    """The GGUF file that ``path`` is or, of a folder with no other model, that it holds."""
    if gguf_types.is_file(path):
        return path.absolute()
    others = ("config.json", "params.json", "snapshots")
    if not path.is_dir() or any((path / name).exists() for name in others):
        return None
    if not any(path.glob("*.gguf")):
        return None
    from llama_hub.hub.checkpoints import gguf

    return gguf.read_model(path).path.absolute()
