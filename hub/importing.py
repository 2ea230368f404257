"""The import of a folder that other tools downloaded: checked, described, not copied if possible.

Understood are the folder of Meta's ``download.sh`` (tokenizer and licence one level up), a folder
of ``hf download --local-dir``, and a repository or snapshot in Hugging Face's cache.
"""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from llama_hub.errors import IntegrityError, NotFoundError, UsageError
from llama_hub.files import delete
from llama_hub.hub.catalog import Catalog, Model
from llama_hub.hub.checkpoints import gguf_types
from llama_hub.hub.digests import check, hash_file
from llama_hub.hub.download import Downloaded, Job, complete
from llama_hub.hub.inspection import Problems, inspect
from llama_hub.hub.manifest import FileEntry, Format, Manifest
from llama_hub.hub.model_id import ModelId, model_id
from llama_hub.hub.repository_id import RepositoryId, is_repository, parse
from llama_hub.hub.sources import evidence, hf_cache, layout
from llama_hub.hub.sources.agreement import WithAgreement, agreement_for
from llama_hub.hub.sources.base import FetchPlan, Source, read_small
from llama_hub.hub.sources.licensing import OPEN, license_of
from llama_hub.hub.sources.mirror import FolderTree
from llama_hub.hub.store import StoredModel, path_of
from llama_hub.hub.transfer.fetch import Fetched
from llama_hub.hub.transfer.linking import bring
from llama_hub.hub.transfer.remote_file import FolderRequest, RemoteFile, Request
from llama_hub.licenses import terms
from llama_hub.licenses.gate import Gate, Texts
from llama_hub.progress import Progress
from llama_hub.strict import FileKind, read_text

SHARED = (*layout.LICENSE_NAMES, *layout.POLICY_NAMES, "tokenizer.model", *layout.CHECKLISTS[1:])
MANY = 100  # snapshots, after which they are not counted
HINT = "the file is damaged where it lies; nothing was imported"


class ImportedFolder:
    """The source ``import``: a folder whose files are linked instead of read."""

    kind = "import"

    def __init__(self, folder: Path, fmt: Format) -> None:
        self._place = _FolderTree(folder)
        self.format = fmt
        self._origin = hf_cache.origin(folder)
        self._record = {"kind": self.kind, "folder": folder.name} | self._origin
        self.about = f"from {folder}"

    def texts(self, model: Model) -> Texts:
        """Licence and policy, in the folder or above it."""
        return layout.texts(self._place, model, self.format, self._record)

    def close(self) -> None:
        """There is nothing to let go."""

    @property
    def repository(self) -> str | None:
        """The repository that the folder is a snapshot of, if it tells."""
        return self._origin.get("repository")

    @property
    def model_id(self) -> ModelId | None:
        """The model's name in the store if no other is given; ``None`` where nothing tells."""
        return RepositoryId(self.repository).model_id if self.repository else None

    @property
    def names(self) -> tuple[str, ...]:
        """What the model is called: the repository, else the folder."""
        return (self.repository or self._place.root.name,)

    @property
    def files(self) -> set[str]:
        """Names of what lies in the folder."""
        return {path.name for path in self._place.root.iterdir()}

    def read(self, name: str) -> bytes | None:
        """A small file of the folder."""
        return read_small(self._place, name)

    def plan(self, model: Model) -> FetchPlan:
        """The files that are there."""
        root = self._place.root
        model = replace(model, folder=".")
        plan = layout.plan(self._place, model, self.format, self._record, self.files)
        files = [
            replace(file, digests=hf_cache.digests_of(root / file.path) | dict(file.digests))
            for file in plan.files
        ]
        return replace(plan, files=tuple(files))

    def holds(self, manifest: Manifest) -> bool:
        """Whether the manifest is of the same repository and commit, where both are known."""
        return all(manifest.source.get(key, value) == value for key, value in self._origin.items())


class _FolderTree(FolderTree):
    """A folder whose shared files may lie one level up, as Meta's script leaves them."""

    def request(self, path: str) -> Request:
        here = self.root / path
        above = self.root.parent / path
        if path in SHARED and not here.is_file() and above.is_file():
            return FolderRequest(above)
        return FolderRequest(here)


LM_STUDIO = ("~/.lmstudio/models", "~/.cache/lm-studio/models")


def place_of(text: str) -> Path:
    """The folder that ``lmstudio://PUBLISHER/MODEL``, ``hf://ORG/NAME`` or a path means.

    ``NotFoundError`` if the cache does not have it, ``UsageError`` for a malformed name.
    """
    if text.startswith("lmstudio://"):
        name = text.removeprefix("lmstudio://")
        if not is_repository(name):
            raise UsageError(
                f"{text!r} is no model of LM Studio's", hint="lmstudio://PUBLISHER/MODEL"
            )
        places = [Path(home).expanduser() / name for home in LM_STUDIO]
        return next((place for place in places if place.is_dir()), places[0])
    repository = parse(text) if text.startswith("hf://") else None
    if repository is None:
        return Path(text)
    folder = hf_cache.repository_folder(repository.name)
    if not folder.is_dir():
        raise NotFoundError(
            f"the cache of Hugging Face has no {repository.name} ({folder})",
            hint=f"llama-hub download {repository}",
        )
    is_commit = re.fullmatch("[0-9a-f]{40}", repository.revision or "")
    return folder / "snapshots" / str(repository.revision) if is_commit else folder


def locate(folder: Path) -> tuple[Path, Format]:
    """The folder that really has the files (a cache's snapshot, say), and its format.

    ``NotFoundError`` if there is no model of ours.
    """
    folder = path_of(str(folder)).absolute()
    if not folder.is_dir():
        raise NotFoundError(
            f"there is no folder {folder}",
            hint="name the folder or GGUF file; what the Hub has: llama-hub download ORG/NAME",
        )
    if (folder / "snapshots").is_dir():
        folder = _snapshot(folder)
    if (folder / "params.json").is_file():
        return folder, "meta"
    if (folder / "config.json").is_file() and _has_weights(folder):
        return folder, "hf"
    raise NotFoundError(
        f"{folder} is neither a download of Meta's (params.json, consolidated.00.pth) nor of "
        "Hugging Face's (config.json, model.safetensors)",
        hint="name the folder that has these files",
    )


REFERENCE = FileKind("the reference", max_bytes=4096)
_COMMIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def _has_weights(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.endswith((".safetensors", ".bin")) for entry in entries)


def _snapshot(repository: Path) -> Path:
    """The snapshot of Hugging Face's cache that ``main`` points to, or the only one."""
    main = repository / "refs" / "main"
    snapshots = repository / "snapshots"
    if main.is_file():
        commit = read_text(main, REFERENCE).strip()
        if _COMMIT.fullmatch(commit) and (snapshots / commit).is_dir():
            return snapshots / commit
    revisions = list(islice(snapshots.iterdir(), MANY))
    if len(revisions) != 1:
        many = f"{MANY} or more" if len(revisions) == MANY else str(len(revisions))
        raise UsageError(f"{repository} has {many} snapshots", hint="name one of them")
    return revisions[0]


def guess(folder: Path, catalog: Catalog) -> Model:
    """The model that the folder's name speaks of; ``UsageError`` if it speaks of none."""
    names = {part.lower() for part in folder.absolute().parts[-4:]}
    if gguf_types.has_name(folder):
        names.add(gguf_types.model_name(folder).lower())
    for model in catalog:
        repositories = [name for name in (model.huggingface, model.huggingface_original) if name]
        spellings = {model.id, model.folder.lower()}
        spellings |= {name.rsplit("/", 1)[-1].lower() for name in repositories}
        spellings |= {f"models--{name.replace('/', '--')}".lower() for name in repositories}
        if names & spellings:
            return model
    raise UsageError(
        f"the name {folder.name!r} does not tell which model it is",
        hint=f"llama-hub import {folder} MODEL   (ids: llama-hub models)",
    )


@dataclass(frozen=True)
class Naming:
    """What a person says of a folder: where it is, and which model that is."""

    folder: Path
    model: str | None = None  # catalogue id
    license: str | None = None
    name: str | None = None  # in the store, of a model outside the catalogue


def entry_of(
    source: ImportedFolder, naming: Naming, catalog: Catalog, gate: Gate | None = None
) -> tuple[Model, Source]:
    """The model that the folder holds, and the source to import it from.

    Everything that is wrong is one error: name, licence, files.
    """
    if naming.model is not None:
        return _listed(naming, catalog), source
    if naming.name is None and naming.license is None:
        try:
            return guess(naming.folder, catalog), source
        except UsageError:
            pass
    return _unlisted(source, naming, catalog, gate or Gate())


def _listed(naming: Naming, catalog: Catalog) -> Model:
    model = catalog.get(naming.model or "")
    if naming.name is not None or naming.license not in (None, model.license):
        raise UsageError(
            f"{model.id} is a model of the catalogue, with the licence {model.license}",
            hint="leave --license and --name out, or MODEL",
        )
    return model


def _unlisted(
    source: ImportedFolder, naming: Naming, catalog: Catalog, gate: Gate
) -> tuple[Model, Source]:
    problems = Problems()
    name, license = None, None
    known = evidence.gather(str(naming.folder), source.names, source.read)
    with problems.collecting():
        name = _name(source, naming, catalog)
    with problems.collecting():
        license = license_of(known, catalog, lambda base: None, naming.license)
    model = evidence.entry(
        name or ModelId("model"), known, license or OPEN, source.format, source.files,
        sources=("mirror",),
    )  # fmt: skip
    with problems.collecting():
        inspect(source.plan(model), problems)
    agreement = None
    with problems.collecting():
        own = source.texts(replace(model, license=OPEN))
        terms_ = terms.load(model.license)
        agreement = agreement_for(terms_, str(naming.folder), own, gate, ())
    problems.tell()
    return model, source if agreement is None else WithAgreement(source, agreement)


def _name(source: ImportedFolder, naming: Naming, catalog: Catalog) -> ModelId:
    """As the person says, else as the repository or the GGUF file is called."""
    if naming.name is not None:
        name = model_id(naming.name, "--name")
        if name in catalog:
            raise UsageError(
                f"{name} is a model of the catalogue",
                hint=f"llama-hub import {naming.folder} {name}, or another --name",
            )
        return name
    if source.model_id is not None:
        return source.model_id
    if gguf_types.has_name(naming.folder):
        return ModelId.of_folder(gguf_types.model_name(naming.folder))
    raise UsageError(
        f"the name {naming.folder.name!r} does not tell which model it is",
        hint=f"llama-hub import {naming.folder} MODEL   (ids: llama-hub models), or for a "
        f"fine-tune: llama-hub import {naming.folder} --name NAME --license ID",
    )


def import_folder(job: Job) -> Downloaded:
    """Like ``download``, with an ``ImportedFolder`` as the source of ``job``.

    ``UsageError`` if the store's model of that name has other files: nothing is replaced unasked.
    """
    stored = job.store.complete(job.model.id, job.format)
    if stored is not None and job.source.holds(stored.manifest):
        _check_same(stored, job.source.plan(job.model))
    return complete(job, _take_all, job.store.work_folder(job.model.id, job.format, "import"))


def _check_same(stored: StoredModel, plan: FetchPlan) -> None:
    documents = {name for name, _ in layout.documents(plan.format)}
    entries = {entry.path: entry for entry in stored.manifest.files}
    for file in plan.files:
        if file.path in documents:
            continue
        entry = entries.get(file.path)
        if entry is None or not _is_same(file, entry, stored.path):
            raise UsageError(
                f"{stored.id} is in the store already, and its {file.path} is not "
                f"{file.request.where}",
                hint=f"import it under another --name, or first: llama-hub remove {stored.id}",
            )


def _is_same(file: RemoteFile, entry: FileEntry, folder: Path) -> bool:
    """Whether the bytes are those of the store: the same file, as a link is, or an equal one."""
    if not isinstance(file.request, FolderRequest):
        body = file.request.open(0, None)
        data = bytearray(body.total or 0)
        body.readinto(memoryview(data))
        return hashlib.sha256(data).hexdigest() == entry.sha256
    path, here = file.request.path, folder / entry.path
    if not path.is_file():
        return False
    if here.is_file() and path.samefile(here):
        return True
    size = path.stat().st_size
    return size == entry.size and hash_file(path, limit=size).digests["sha256"] == entry.sha256


def _take_all(plan: FetchPlan, folder: Path, job: Job) -> list[Fetched]:
    """All files; nothing is left of an import that fails, whose files are the person's own."""
    delete(folder)
    folder.mkdir(parents=True)
    try:
        return _take_each(plan, folder, job)
    except BaseException:
        delete(folder)
        raise


def _take_each(plan: FetchPlan, folder: Path, job: Job) -> list[Fetched]:
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda file: _take(file, folder, job.progress), plan.files))


def _take(file: RemoteFile, folder: Path, progress: Progress) -> Fetched:
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if isinstance(file.request, FolderRequest):
        _check_size(file, file.request.path)
        how = bring(file.request.path.resolve(), target)
    else:
        body = file.request.open(0, None)
        data = bytearray(body.total or 0)
        body.readinto(memoryview(data))
        target.write_bytes(data)
        how = "copied"
    progress.start(file.path, target.stat().st_size)
    algorithms = ["sha256", *(name for name in file.digests if name != "sha256")]
    size = target.stat().st_size
    hashed = hash_file(
        target, algorithms, limit=size, advance=lambda count: progress.advance(file.path, count)
    )
    check(file.path, file.digests, hashed.digests, hint=HINT)
    progress.finish(file.path, f"{how}, {'verified' if file.digests else 'no digest to compare'}")
    return Fetched(file.path, hashed, 0)


def _check_size(file: RemoteFile, path: Path) -> None:
    """``IntegrityError`` for a file that no model has, before it is read for hours."""
    size = path.stat().st_size
    if size > file.limit or file.size not in (None, size):
        raise IntegrityError(
            f"{path} has {size} bytes; {file.size or file.limit} are what it may have", hint=HINT
        )
