"""Weights into an S3 that looks at every byte."""

from __future__ import annotations

import base64
import hashlib
import random
from pathlib import Path

import pytest

from llama_hub.backends.sagemaker.client import Aws
from llama_hub.backends.sagemaker.storage import Bucket
from llama_hub.errors import AccessError, IntegrityError
from llama_hub.hub.manifest import FileEntry, Manifest
from tests.support.sagemaker_plane import Fault, Plane

MIB = 1 << 20
PREFIX = "llama-hub/models/aa/"


class Model:
    """A folder with files of the given sizes."""

    def __init__(self, folder: Path, *sizes: int, seed: int = 0) -> None:
        noise = random.Random(seed)
        folder.mkdir(parents=True)
        entries = []
        for number, size in enumerate(sizes):
            content = noise.randbytes(size)
            path = folder / f"part-{number}"
            path.write_bytes(content)
            entries.append(FileEntry(path.name, size, hashlib.sha256(content).hexdigest()))
        self.folder, self.manifest = folder, Manifest("m", "hf", "llama-hub-demo", tuple(entries))
        self.manifest.write(folder)


@pytest.fixture
def bucket(plane: Plane, aws: Aws) -> Bucket:
    """Parts of 5 MiB, the smallest that S3 takes; more than 6 MiB goes in parts."""
    aws.call("s3", "create_bucket", Bucket="weights")
    return Bucket(aws, "weights", single=6 * MIB, part=5 * MIB)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Two small files and one of three parts."""
    return Model(tmp_path / "model", 10, 3 * MIB + 1, 12 * MIB + 7)


def object_names(plane: Plane) -> set[str]:
    return {key.removeprefix(PREFIX) for key in plane.s3.buckets["weights"].objects}


def test_all_files_arrive_and_the_manifest_is_last(
    plane: Plane, bucket: Bucket, model: Model
) -> None:
    facts = bucket.upload(model.folder, model.manifest, PREFIX)
    assert facts == {"bytes": model.manifest.bytes, "bytes_sent": model.manifest.bytes} | {
        "bytes_there": 0
    }
    stored = plane.s3.buckets["weights"].objects
    for entry in model.manifest.files:
        content = stored[PREFIX + entry.path].path.read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry.sha256
    assert list(stored)[-1] == PREFIX + "llama-hub.json"
    assert all(ok for _, ok, _ in bucket.prove(model.manifest, PREFIX))


def test_s3_itself_states_the_manifests_digest(plane: Plane, bucket: Bucket, model: Model) -> None:
    bucket.upload(model.folder, model.manifest, PREFIX)
    entry = model.manifest.files[1]
    held = bucket.head(PREFIX + entry.path)
    assert held is not None
    assert held.checksum == base64.b64encode(bytes.fromhex(entry.sha256)).decode()
    large = bucket.head(PREFIX + model.manifest.files[2].path)
    assert large is not None
    assert large.checksum is not None
    assert large.checksum.endswith("-3")


def test_a_second_upload_sends_nothing_but_the_manifest(
    plane: Plane, bucket: Bucket, model: Model
) -> None:
    bucket.upload(model.folder, model.manifest, PREFIX)
    plane.forget()
    assert bucket.upload(model.folder, model.manifest, PREFIX)["bytes_sent"] == 0
    assert plane.writes() == ["s3:PutObject"]


def test_other_bytes_under_the_same_name_are_replaced(
    plane: Plane, bucket: Bucket, model: Model, tmp_path: Path
) -> None:
    other = Model(tmp_path / "other", 10, 3 * MIB + 1, 12 * MIB + 7, seed=1)
    bucket.upload(other.folder, other.manifest, PREFIX)
    assert not any(ok for _, ok, _ in bucket.prove(model.manifest, PREFIX))
    bucket.upload(model.folder, model.manifest, PREFIX)
    assert all(ok for _, ok, _ in bucket.prove(model.manifest, PREFIX))


def test_a_cut_off_upload_sends_only_what_is_missing(
    plane: Plane, bucket: Bucket, model: Model
) -> None:
    plane.denied = {"s3:PostUpload"}  # before the parts are joined
    with pytest.raises(AccessError):
        bucket.upload(model.folder, model.manifest, PREFIX)
    ((_, upload),) = plane.s3.uploads.items()
    del upload.parts[2]
    plane.denied = set()
    plane.forget()
    facts = bucket.upload(model.folder, model.manifest, PREFIX)
    assert facts["bytes_sent"] == 12 * MIB + 7 - 5 * MIB - (2 * MIB + 7)
    assert plane.writes().count("s3:PutPart") == 1
    assert plane.s3.uploads == {}
    assert all(ok for _, ok, _ in bucket.prove(model.manifest, PREFIX))


def test_a_part_that_s3_lost_is_sent_again(plane: Plane, bucket: Bucket, model: Model) -> None:
    plane.faults = [Fault("s3:PostUpload", "InvalidPart", "One of the parts could not be found")]
    facts = bucket.upload(model.folder, model.manifest, PREFIX)
    assert facts["bytes_sent"] == model.manifest.bytes
    assert all(ok for _, ok, _ in bucket.prove(model.manifest, PREFIX))


def test_a_throttled_part_is_sent_again(plane: Plane, bucket: Bucket, model: Model) -> None:
    plane.faults = [Fault("s3:PutPart", times=2), Fault("s3:PutObject", times=2)]
    bucket.upload(model.folder, model.manifest, PREFIX)
    assert all(ok for _, ok, _ in bucket.prove(model.manifest, PREFIX))


@pytest.mark.parametrize("number", [1, 2])
def test_a_file_that_changed_is_never_put_in_place(
    plane: Plane, bucket: Bucket, model: Model, number: int
) -> None:
    path = model.folder / f"part-{number}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"part-{number} is not what the manifest says"):
        bucket.upload(model.folder, model.manifest, PREFIX)
    assert f"part-{number}" not in object_names(plane)
    assert "llama-hub.json" not in object_names(plane)
    assert plane.s3.uploads == {}


def test_a_shorter_file_is_refused(plane: Plane, bucket: Bucket, model: Model) -> None:
    path = model.folder / "part-1"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="it has 3145728 bytes"):
        bucket.upload(model.folder, model.manifest, PREFIX)


def test_damage_in_storage_is_seen(plane: Plane, bucket: Bucket, model: Model) -> None:
    bucket.upload(model.folder, model.manifest, PREFIX)
    stored = plane.s3.buckets["weights"].objects
    stored[PREFIX + "part-1"].checksums["sha256"] = base64.b64encode(b"x" * 32).decode()
    del stored[PREFIX + "part-0"]
    wrong = {path: words for path, ok, words in bucket.prove(model.manifest, PREFIX) if not ok}
    assert set(wrong) == {"part-0", "part-1"}
    assert wrong["part-0"] == "is not there"


def test_deleting_takes_uploads_along(plane: Plane, bucket: Bucket, model: Model) -> None:
    plane.denied = {"s3:PostUpload"}
    with pytest.raises(AccessError):
        bucket.upload(model.folder, model.manifest, PREFIX)
    plane.denied = set()
    bucket.delete(PREFIX)
    assert (plane.s3.buckets["weights"].objects, plane.s3.uploads) == ({}, {})


def test_the_emulator_refuses_wrong_checksums(plane: Plane, aws: Aws, bucket: Bucket) -> None:
    wrong = base64.b64encode(b"0" * 32).decode()
    with pytest.raises(IntegrityError):
        aws.call("s3", "put_object", Bucket="weights", Key="x", Body=b"abc", ChecksumSHA256=wrong)
    assert bucket.head("x") is None
