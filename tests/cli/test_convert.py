"""``llama-hub convert`` at the shell: documents, texts, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama_hub.cli.convert import parse_size
from llama_hub.errors import ExitCode, UsageError
from tests.support.command import run, spawn
from tests.support.make_checkpoint import GROUPED, make_checkpoint

OPEN = ("--license", "llama-hub-demo")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "acme-chat", GROUPED)


def test_the_document_that_scripts_rely_on(source: Path, tmp_path: Path) -> None:
    done = run(
        "convert", str(source), str(tmp_path / "out"), "--to", "hf", *OPEN, "--json", "--verify"
    )
    assert done.code == 0
    document = done.json
    assert document["path"] == str(tmp_path / "out")
    assert document["format"] == "hf"
    assert document["manifest"].startswith("sha256:")
    assert document["parent"] is None
    assert document["tensors"] == 21
    assert document["verified"] is True
    assert (
        document["bytes"]
        == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
        - (tmp_path / "out/llama-hub.json").stat().st_size
        - (tmp_path / "out/README.llama-hub.md").stat().st_size
    )
    second = run("convert", str(tmp_path / "out"), str(tmp_path / "back"), "--to", "meta", "--json")
    assert second.json["parent"] == document["manifest"]
    assert "verified" not in second.json


def test_a_person_reads_what_was_made(source: Path, tmp_path: Path) -> None:
    done = run(
        "convert", str(source), str(tmp_path / "out"), "--to", "gguf", "--dtype", "Q8_0", *OPEN
    )
    assert done.code == 0
    assert "manifest sha256:" in done.stdout
    assert (tmp_path / "out/acme-chat-Q8_0.gguf").is_file()


def test_a_file_name_makes_a_gguf_file(source: Path, tmp_path: Path) -> None:
    done = run(
        "convert", str(source), str(tmp_path / "m.gguf"), "--dtype", "q4_0", *OPEN,
        "--split-max-size", "60K", "--json",
    )  # fmt: skip
    assert done.code == 0
    assert done.json["format"] == "gguf"
    assert done.json["path"] == str(min(tmp_path.glob("m-00001-of-*.gguf")))
    assert (tmp_path / "LICENSE").is_file()
    again = run("convert", done.json["path"], str(tmp_path / "hf"), "--json")
    assert again.code == 5
    assert "--dequantize" in again.json["error"]["hint"]
    again = run("convert", done.json["path"], str(tmp_path / "hf"), "--dequantize", "--json")
    assert again.code == 0
    assert run("verify", done.json["path"], "--deep", "--json").json["ok"] is True


def test_a_dry_run_shows_files_and_room(source: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    done = run("convert", str(source), out, "--dry-run", "--max-shard-size", "100KB")
    assert done.code == 0
    assert "fits" in done.stdout
    assert "model-00001-of-0000" in done.stdout
    document = run("convert", str(source), out, "--dry-run", "--json").json
    assert document["dry_run"] is True
    assert document["manifest"] is None
    assert document["free"] > document["needed"] > document["bytes"]
    assert not Path(out).exists()


def test_a_catalogue_id_goes_into_the_store(home: Path) -> None:
    assert run("download", "llama-demo", "--source", "builtin", "-q").code == 0
    first = run("convert", "llama-demo", "--json")
    assert first.code == 0
    assert first.json["path"] == str(home / "models/llama-demo/hf")
    again = run("convert", "llama-demo", "--json").json
    assert again["manifest"] == first.json["manifest"]
    gguf = run("convert", "llama-demo", "--to", "gguf", "--verify", "--json").json
    assert gguf["path"] == str(home / "models/llama-demo/gguf")
    deep = run("verify", "llama-demo", "--format", "gguf", "--deep", "--json")
    assert deep.code == 0
    assert run("convert", "llama-demo", "--to", "meta").code == ExitCode.USAGE
    changed = run("convert", "llama-demo", "--quantize", "int8")
    assert changed.code == ExitCode.USAGE
    assert "llama-hub convert llama-demo FOLDER" in changed.stderr


def test_perplexity_before_and_after(tmp_path: Path) -> None:
    assert run("download", "llama-demo", "--source", "builtin", "-q").code == 0
    text = tmp_path / "text.txt"
    text.write_text("The little dog went to the park. It was happy to see the big tree. " * 4)
    done = run(
        "convert", "llama-demo", str(tmp_path / "out"), "--quantize", "int8",
        "--evaluate", str(text), "--json", "-q",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    found = done.json["perplexity"]
    assert found["tokens"] > 40
    assert found["before"] > 1
    assert found["after"] == pytest.approx(found["before"], rel=0.05)
    assert found["difference"] == pytest.approx(found["after"] - found["before"], abs=1e-3)
    assert len(done.json["relative_errors"]) == 35
    assert max(done.json["relative_errors"].values()) < 0.01


def test_a_text_to_evaluate_is_read_before_the_work(source: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    missing = run(
        "convert", str(source), out, "--quantize", "int8", "--evaluate", "nowhere.txt", *OPEN
    )
    assert missing.code == ExitCode.USAGE
    plain = run("convert", str(source), out, "--evaluate", str(source / "LICENSE"), *OPEN)
    assert plain.code == ExitCode.USAGE
    assert not Path(out).exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--to", "hf"], ExitCode.LICENSE),
        (["--to", "onnx", *OPEN], ExitCode.USAGE),
        (["--to", "meta", "--model-parallel", "3", *OPEN], ExitCode.USAGE),
        (["--max-shard-size", "lots", *OPEN], ExitCode.USAGE),
        (["--license", "nobody-s", "--to", "hf"], ExitCode.NOT_FOUND),
    ],
)
def test_refusals_have_their_exit_codes(
    source: Path, tmp_path: Path, arguments: list[str], code: ExitCode
) -> None:
    done = run("convert", str(source), str(tmp_path / "out"), *arguments)
    assert done.code == code
    assert "hint:" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"acme-chat", "home"}


def test_a_damaged_source_is_exit_5_as_json_too(source: Path, tmp_path: Path) -> None:
    (source / "consolidated.00.pth").write_text("<html>expired</html>")
    done = spawn(["convert", str(source), str(tmp_path / "out"), *OPEN, "--json"])
    assert done.code == ExitCode.INTEGRITY
    error = json.loads(done.stdout)["error"]
    assert error["code"] == 5
    assert "web page" in error["message"]


def test_an_unknown_model_is_exit_6(tmp_path: Path) -> None:
    assert run("convert", "nothing-here", str(tmp_path / "out")).code == ExitCode.NOT_FOUND


def test_a_cast_warns(source: Path, tmp_path: Path) -> None:
    done = run("convert", str(source), str(tmp_path / "out"), "--dtype", "float16", *OPEN, "-q")
    assert done.code == 0
    assert "values were changed" in done.stderr


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("500m", 5 * 10**8), ("2GiB", 2 << 30), ("1.5 KB", 1500), ("7", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "5TB", "-1MB", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)
