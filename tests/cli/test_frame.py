"""The command line's frame: exit codes, the JSON error form, help that imports nothing heavy."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import typer

from llama_hub import errors
from llama_hub.cli import failures, main, output
from llama_hub.cli.options import secret
from llama_hub.deploy import journal
from llama_hub.errors import ExitCode, LlamaHubError
from tests.support.command import run, spawn

FAILURES: dict[ExitCode, BaseException] = {
    ExitCode.UNEXPECTED: RuntimeError("surprise"),
    ExitCode.USAGE: errors.UsageError("bad option"),
    ExitCode.LICENSE: errors.LicenseError("not accepted", hint="llama-hub license accept x"),
    ExitCode.ACCESS: errors.AccessError("expired"),
    ExitCode.INTEGRITY: errors.UnsafePickleError("os.system"),
    ExitCode.NOT_FOUND: errors.NotFoundError("no such model"),
    ExitCode.NOT_ENOUGH: OSError(errno.ENOSPC, "No space left on device", "/x"),
    ExitCode.PROVISIONING: errors.StalePlanError("changed"),
    ExitCode.CHANGES_PENDING: errors.ChangesPendingError("2 changes"),
    ExitCode.UNREACHABLE: ConnectionResetError("reset by peer"),
    ExitCode.INTERRUPTED: KeyboardInterrupt(),
}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command ``fail`` that raises what the test puts into the list."""
    raised: list[BaseException] = []
    app = typer.Typer()

    @app.command()
    def fail(json: bool = typer.Option(False, "--json")) -> None:
        output.output(as_json=json)
        raise raised[0]

    monkeypatch.setattr(sys.modules[__name__], "failing_app", app, raising=False)
    entry = main.Entry(f"{__name__}:failing_app", "Fail.")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setitem(main.COMMANDS, "fail", entry)
    return raised


def test_every_exit_code_has_its_number() -> None:
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130]
    assert set(FAILURES) == set(ExitCode) - {ExitCode.OK}


@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
def test_each_failure_exits_with_its_code(code: ExitCode, failing: list[BaseException]) -> None:
    failing.append(FAILURES[code])
    plain = run("fail")
    assert plain.code == code
    assert plain.stdout == ""
    assert plain.stderr.startswith("error: ")


@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
def test_json_error_is_the_one_document(code: ExitCode, failing: list[BaseException]) -> None:
    failing.append(FAILURES[code])
    answer = run("fail", "--json")
    assert answer.code == code
    assert set(answer.json["error"]) == {"code", "type", "message", "hint"}
    assert answer.json["error"]["code"] == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOENT, "No such file or directory", "/x"), ExitCode.NOT_FOUND),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x"), ExitCode.NOT_FOUND),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/x"), ExitCode.USAGE),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "/x"), ExitCode.USAGE),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/x"), ExitCode.USAGE),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), ExitCode.ACCESS),
        (RecursionError("… while decoding a JSON array from …"), ExitCode.INTEGRITY),
        (OSError(errno.EMFILE, "Too many open files"), ExitCode.NOT_ENOUGH),
        (MemoryError(), ExitCode.NOT_ENOUGH),
        (RuntimeError("Symlink loop from '/x'"), ExitCode.USAGE),  # Path.resolve, before 3.13
        (OSError(errno.ENETUNREACH, "Network is unreachable"), ExitCode.UNREACHABLE),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), ExitCode.UNREACHABLE),
        (TimeoutError("timed out"), ExitCode.UNREACHABLE),
        (httpx.ConnectError("refused"), ExitCode.UNREACHABLE),
        (httpx.ReadTimeout("silence"), ExitCode.UNREACHABLE),
        (errors.PlatformUnreachableError("AWS"), ExitCode.UNREACHABLE),
    ],
    ids=repr,
)
def test_errors_of_system_and_network_are_no_defects(error: Exception, code: ExitCode) -> None:
    shown = failures.as_error(error)
    assert shown.exit_code == code
    assert shown.hint or isinstance(error, LlamaHubError | RecursionError)


def test_a_service_that_is_not_there_is_exit_10() -> None:
    with socket.socket() as bound:  # to a port where nobody listens
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        done = run("chat", url, "--once", "hello", "--json")
    assert done.code == 10
    assert done.json["error"]["hint"]


def test_every_error_class_has_a_documented_exit_code() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    for found in classes:
        if issubclass(found, LlamaHubError):
            assert found.exit_code in ExitCode


def test_a_missing_package_names_its_extra() -> None:
    shown = failures.as_error(ModuleNotFoundError("No module named 'boto3'", name="boto3"))
    assert shown.exit_code == ExitCode.USAGE
    assert "llama2-hub[sagemaker]" in shown.hint


@pytest.mark.parametrize("arguments", [["--nonsense"], ["nonsense"], ["models", "--nonsense"]])
def test_usage_mistakes_exit_2_and_name_the_help(arguments: list[str]) -> None:
    answer = run(*arguments, "--json")
    assert answer.code == 2
    assert answer.json["error"]["type"] == "UsageError"
    assert "--help" in answer.json["error"]["hint"]


def test_the_help_lists_each_command_with_its_own_help_line() -> None:
    shown = run("--help")
    assert shown.code == 0
    for name, entry in main.COMMANDS.items():
        assert re.search(rf"\b{re.escape(name)}\b", shown.stdout), name
        own = (main.load(name).help or "").strip().splitlines()[0]
        assert own == entry.help, name


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["models"], ["license", "list"]])
def test_short_commands_import_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys, json; from llama_hub.cli.main import run; "
        "sys.argv[1:] = json.loads(sys.argv[1]); "
        "code = run(sys.argv[1:]); "
        "heavy = {'torch', 'numpy', 'boto3', 'botocore', 'azure', 'huggingface_hub', "
        "'httpx', 'safetensors', 'sentencepiece', 'fastapi'} & set(sys.modules); "
        "print(sorted(heavy), file=sys.stderr); sys.exit(code or len(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_runs_as_a_module() -> None:
    assert spawn(["--version"]).stdout.strip() == main.__version__


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m llama_hub models --json | true",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["depoly"], "llama-hub deploy"),
        (["license", "acept"], "llama-hub license accept"),
        (["xyzzy"], "llama-hub --help"),
    ],
)
def test_a_mistyped_command_is_suggested(words: list[str], hint: str) -> None:
    shown = run(*words)
    assert shown.code == 2
    assert shown.stderr.rstrip().endswith(f"hint: {hint}")


def test_a_model_in_the_backends_place_is_told() -> None:
    error = run("deploy", "llama-demo-chat", "--json").json["error"]
    assert error["hint"] == "llama-hub deploy local llama-demo-chat"


class TestSecret:
    def test_flag_wins_over_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("THE_SECRET", "from-environment")
        assert secret("from-flag", "THE_SECRET") == "from-flag"
        assert secret(None, "THE_SECRET") == "from-environment"

    def test_file_and_nothing(self, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
        path = f"{tmp_path}/secret"
        with open(path, "w") as file:  # noqa: PTH123 - the path is a plain string here
            file.write("from-file\n")
        assert secret(f"@{path}", "THE_SECRET") == "from-file"
        monkeypatch.delenv("THE_SECRET", raising=False)
        assert secret(None, "THE_SECRET") is None

    def test_unreadable_file_is_a_usage_error(self) -> None:
        with pytest.raises(errors.UsageError, match="cannot be read"):
            secret("@/nonexistent/secret", "THE_SECRET")

    def test_a_pipe_of_the_shell_is_read_and_a_device_is_not(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=lambda: pipe.write_text("through-a-pipe\n"))
        writer.start()
        with open(pipe) as held:  # noqa: PTH123 - as a shell holds the end that it names
            assert secret(f"@/dev/fd/{held.fileno()}", "THE_SECRET") == "through-a-pipe"
        writer.join()
        with pytest.raises(errors.UsageError, match="not a regular file"):
            secret("@/dev/zero", "THE_SECRET")
        with pytest.raises(errors.UsageError, match="not a regular file"):
            secret(f"@{pipe}", "THE_SECRET")  # which nobody may ever write to

    @pytest.mark.parametrize(
        "text", ["k\u00e9y", "a\nb", "a\x00b", "a\x1b[31mb", "a\ufeffb", "\U0001f511"]
    )
    def test_what_no_header_can_carry_is_a_usage_error(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text(text)
        with pytest.raises(errors.UsageError, match="characters that no key|NUL"):
            secret(f"@{tmp_path}/secret", "THE_SECRET")


class TestPlainProgress:
    def test_what_takes_long_is_told_at_each_interval_and_at_the_end(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
        with output.Output().progress() as progress:
            progress.start("weights", 4096)
            for now[0] in (2.0, 6.0, 8.0):
                progress.advance("weights", 1024)
            progress.finish("weights", "verified")
        assert capsys.readouterr().err.splitlines() == [
            "weights: 2.0 KiB of 4.0 KiB (50%), 341 B/s, 6 s left",
            "weights: verified",
        ]

    def test_what_is_over_at_once_needs_no_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        with output.Output().progress() as progress:
            progress.start("policy", 10)
            progress.advance("policy", 10)
            progress.finish("policy")
        assert capsys.readouterr().err == ""

    def test_quiet_says_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        with output.Output(quiet=True).progress() as progress:
            progress.start("weights", 2048)
            progress.say("hello")
        assert capsys.readouterr().err == ""


def test_no_question_without_a_terminal() -> None:
    with pytest.raises(errors.UsageError, match="an answer is needed") as raised:
        output.Output().ask("Your name", flag="--licensee NAME")
    assert "--licensee NAME" in raised.value.hint


def test_only_the_program_itself_offers_completion() -> None:
    for name in main.COMMANDS:
        options = {option for parameter in main.load(name).params for option in parameter.opts}
        assert "--install-completion" not in options, name


Tab = Callable[[str, str], list[str]]


@pytest.fixture
def tab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tab:
    """What the command answers to a shell's Tab at the end of a line."""

    def completed(line: str, shell: str) -> list[str]:
        variables = {
            "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)},
            "zsh": {"_TYPER_COMPLETE_ARGS": line},
            "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        }[shell]
        for name, value in {"_LLAMA_HUB_COMPLETE": f"complete_{shell}", **variables}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            main.run([])
        said = capsys.readouterr()
        assert said.err == ""
        return re.findall(r"[a-z0-9][a-z0-9.-]+", said.out.removeprefix("_arguments"))

    return completed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("llama-hub download llama-2-7", "llama-2-7b-chat"),
        ("llama-hub deploy sage", "sagemaker"),
        ("llama-hub download --source mi", "mirror"),
        ("llama-hub license show llama-2-c", "llama-2-community"),
        ("llama-hub status chat", "chatty"),
        ("llama-hub remove llama-d", "llama-demo"),
    ],
)
def test_values_are_completed(line: str, value: str, shell: str, home: Path, tab: Tab) -> None:
    folder = home / "deployments" / "memory" / "chatty"
    folder.mkdir(parents=True)
    (folder / journal.NAME).touch()
    (home / "models" / "llama-demo" / "meta").mkdir(parents=True)
    assert value in tab(line, shell)


def test_what_goes_wrong_completes_nothing(home: Path, tab: Tab) -> None:
    home.mkdir(exist_ok=True)
    (home / "deployments").write_text("no folder")
    assert tab("llama-hub status x", "bash") == []
