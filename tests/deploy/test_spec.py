"""The spec: one language from YAML, flags and Python; mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llama_hub.backends import registry
from llama_hub.deploy import config, options, spec
from llama_hub.deploy.spec import DeploymentSpec, build
from llama_hub.errors import InvalidFileError, UsageError
from tests.support.command import run

WRITABLE = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
LEAST: dict[str, Any] = {"name": "x", "backend": "memory", "model": "llama-demo"}
WHOLE = """
name: support-chat
backend: local
model: llama-2-7b-chat
quantization: int8
context: 2048
concurrency: 4
replicas_min: 1
replicas_max: 2
scale_to_zero: true
scale_to_zero_minutes: 15
instance: gpu-1
access: authenticated
region: eu-west-1
environment: {LEVEL: 3, QUIET: true}
tags: {team: research}
ttl: 12h
options: {port: 8123}
moderation: {moderators: [{kind: words, words: [bomb]}]}
"""


def test_a_file_with_every_key_is_read(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(WHOLE)
    found = build(spec.from_file(path))
    assert (found.ttl, found.quantization, found.scale_to_zero_minutes) == (43200, "int8", 15)
    assert found.environment == {"LEVEL": "3", "QUIET": "true"}
    assert set(yaml.safe_load(WHOLE)) | {"format"} == set(spec.KEYS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contxt": 1}, "did you mean 'context'"),
        ({"context": "many"}, "context: input should be a valid integer"),
        ({"moderation": {"moderators": [{"kind": "word"}]}}, "did you mean 'words'"),
        ({"context": 0}, "greater than or equal to 1"),
        ({"access": "everybody"}, "private"),
        ({"name": "Support Chat"}, "lower case"),
        ({"name": "a" * 33}, "32 characters"),
        ({"name": "a--b"}, "single hyphens"),
        ({"replicas_min": 3}, "more than replicas_max"),
        ({"ttl": "soon"}, "not a duration"),
        ({"ttl": 5}, "60"),
        ({"environment": {"9x": "1"}}, "no variable name"),
        ({"tags": {"llama-hub:spec": "1"}}, "belongs to llama-hub"),
        ({"format": "gguf"}, "hf"),
        ({"quantization": "int2"}, "int8"),
        ({"model": ""}, "model is empty"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build({**LEAST, **change})


def test_the_same_mistakes_are_found_in_python() -> None:
    with pytest.raises(UsageError, match="context 0"):
        DeploymentSpec(**LEAST, context=0)
    with pytest.raises(UsageError, match="access 'all'"):
        DeploymentSpec(**LEAST, access="all")  # type: ignore[arg-type]


def test_missing_keys_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name: is missing"):
        build({"backend": "memory", "model": "m"})
    with pytest.raises(UsageError, match="cannot be read"):
        spec.from_file(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(UsageError, match="not a table"):
        spec.from_file(tmp_path / "list.yaml")
    (tmp_path / "code.yaml").write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(UsageError, match="not valid YAML"):
        spec.from_file(tmp_path / "code.yaml")


def test_what_contradicts_itself_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: Bad Name\nbackend: memory\nmodel: m\n")
    with pytest.raises(InvalidFileError, match="name 'Bad Name' must be lower case") as caught:
        build(spec.from_file(path), str(path))
    assert caught.value.file == str(path)


def test_assignments_reach_into_tables_and_have_types() -> None:
    found = spec.from_assignments(["options.a.b=2", "options.a.c=[x, y]", "scale_to_zero=true"])
    assert found == {"options": {"a": {"b": 2, "c": ["x", "y"]}}, "scale_to_zero": True}
    assert spec.from_assignments(["options.url=http://h:1/?a=b"])["options"]["url"].endswith("a=b")
    for wrong in ("novalue", "=1", "a..b=1"):
        with pytest.raises(UsageError, match="not of the form"):
            spec.from_assignments([wrong])
    with pytest.raises(UsageError, match="contradicts"):
        spec.from_assignments(["a=1", "a.b=2"])


def test_later_documents_win_key_by_key() -> None:
    merged = spec.merge({"a": 1, "options": {"x": 1, "y": 1}}, {"options": {"y": 2}}, {"a": 3})
    assert merged == {"a": 3, "options": {"x": 1, "y": 2}}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "context": st.integers(1, 1 << 20),
            "concurrency": st.integers(1, 512),
            "replicas_max": st.integers(1, 9),
            "access": st.sampled_from(["private", "authenticated", "public"]),
            "quantization": st.sampled_from([None, "int8", "int4"]),
            "ttl": st.one_of(st.none(), st.integers(60, 10**6)),
            "scale_to_zero": st.booleans(),
            "tags": st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), WRITABLE),
        },
    )
)
def test_yaml_json_and_python_describe_the_same_spec(changes: dict[str, Any]) -> None:
    made = DeploymentSpec(**LEAST, **changes)
    through_yaml = build(yaml.safe_load(yaml.safe_dump({**LEAST, **changes})))
    assert through_yaml == made
    assert DeploymentSpec(**json.loads(json.dumps(made.to_json()))) == made
    assert made.revision("sha256:1") == through_yaml.revision("sha256:1")


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({"context": 2048}, True),
        ({"quantization": "int8"}, True),
        ({"environment": {"A": "1"}}, True),
        ({"options": {"a": 1}}, True),
        ({"moderation": {"moderators": [{"kind": "words", "words": ["a"]}]}}, True),
        ({"instance": "one-gpu"}, True),
        ({"replicas_max": 3}, False),
        ({"tags": {"a": "b"}}, False),
        ({"ttl": 3600}, False),
        ({"scale_to_zero": True}, False),
    ],
)
def test_only_what_a_replica_depends_on_makes_a_revision(change: dict[str, Any], new: bool) -> None:
    before = DeploymentSpec(**LEAST).revision("sha256:1")
    assert (DeploymentSpec(**LEAST, **change).revision("sha256:1") != before) is new
    assert DeploymentSpec(**LEAST).revision("sha256:2") != before


def test_the_schema_accepts_what_we_accept_and_knows_the_options() -> None:
    schema = options.json_schema(registry.get("local"))
    jsonschema.Draft202012Validator.check_schema(schema)
    document = yaml.safe_load(WHOLE)
    document["environment"] = {"LEVEL": "3"}
    jsonschema.validate(document, schema)
    for wrong in ({"contxt": 1}, {"options": {"prt": 1}}, {"backend": "memory"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, **wrong}, schema)
    described = options.json_schema()["properties"]
    assert all(one.get("description") for one in described.values())


def test_defaults_come_from_the_file_and_the_environment_beats_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    (home / "config.toml").write_text(
        '[deploy]\ncontext = 8192\nregion = "eu-west-1"\n[backends.fly]\nregion = "ams"\n'
    )
    monkeypatch.setenv("LLAMA_HUB_DEPLOY_REGION", "us-east-1")
    monkeypatch.setenv("LLAMA_HUB_FLY_TEAM", "research")
    assert config.spec_defaults(spec.KEYS) == {"context": 8192, "region": "us-east-1"}
    assert config.backend_settings("fly", ["team"]) == {"region": "ams", "team": "research"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("deploy = 1", r"config\.toml: deploy: "),
        ("deploy = ", "not valid TOML"),
        ("[depoly]\ncontext = 1", "depoly: unknown key; did you mean 'deploy'"),
        ("[deploy]\ncontxt = 1", r"deploy\.contxt: unknown key; did you mean 'context'"),
        ("[backends]\nlocal = 1", r"backends\.local: "),
        ("[backends.local]\nroot = []", r"backends\.local\.root"),
        ("\0", "NUL"),
    ],
)
def test_a_broken_settings_file_is_a_usage_error(text: str, problem: str, home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text(text)
    with pytest.raises(InvalidFileError, match=problem):
        config.spec_defaults(spec.KEYS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[backends.locl]\nroot = "x"', "backends.locl: unknown key; did you mean 'local'"),
        ('[backends.local]\nrot = "x"', "backends.local.rot: unknown key; did you mean 'root'"),
        ("[backends.local]\nroot = 1", "backends.local.root: must be str"),
        ('[backends.sagemaker]\nsleep = "x"', "backends.sagemaker.sleep: unknown key"),
        ("[deploy", "not valid TOML"),
    ],
)
def test_settings_that_no_backend_takes_are_no_warning(text: str, problem: str, home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text(text)
    done = run("ps")
    assert done.code == 2
    assert problem in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    "change",
    [
        {"context": True},
        {"context": 4096.0},
        {"context": 2**63},
        {"context": -1},
        {"context": None},
        {"concurrency": []},
        {"replicas_max": 10**30},
        {"scale_to_zero": 1},
        {"ttl": "9" * 5000},
        {"ttl": {}},
        {"environment": []},
        {"environment": {"A": []}},
        {"tags": {"a": None}},
        {"options": None},
        {"name": 1},
        {"model": ["x"]},
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_wrong_type_or_extreme_is_named_by_its_key(change: dict[str, Any]) -> None:
    (key,) = change
    with pytest.raises(UsageError, match=key if key != "ttl" else "ttl|duration"):
        build({**LEAST, **change})


def test_variables_may_state_numbers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_HUB_DEPLOY_CONTEXT", "2048")
    monkeypatch.setenv("LLAMA_HUB_DEPLOY_SCALE_TO_ZERO", "true")
    found = build({**config.spec_defaults(spec.KEYS), **LEAST})
    assert (found.context, found.scale_to_zero) == (2048, True)
