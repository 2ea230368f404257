"""Two regions and two accounts: a deployment is where it was made, and asked for nowhere else."""

from __future__ import annotations

import pytest

from llama_hub.backends.sagemaker.backend import SageMakerBackend
from llama_hub.deploy.deployer import Deployer
from llama_hub.errors import AccessError, UsageError
from tests.support.command import run
from tests.support.sagemaker_bench import Bench, QuickAws
from tests.support.sagemaker_plane import ACCOUNT, Plane

OTHER_KEY, OTHER = "AKIAOTHER", "999999999999"


@pytest.fixture
def deployed(plane: Plane, bench: Bench) -> Bench:
    """One deployment, with its journal where the command looks for it."""
    deployer = Deployer(bench.backend(), artifacts=bench.artifact)
    deployer.apply(deployer.plan(bench.spec()), bench.options)
    plane.forget()
    return bench


class Ireland(QuickAws):
    """Credentials of the same account, in another region."""

    region = "eu-west-1"  # type: ignore[assignment]


def test_the_place_is_written_down(plane: Plane, deployed: Bench) -> None:
    (begun,) = Deployer(deployed.backend()).journal("x").history().good
    place = begun["location"]
    assert (place["region"], place["account"]) == ("us-east-1", ACCOUNT)


COMMANDS = [
    ("delete", "x", "--yes"),
    ("status", "x"),
    ("logs", "x"),
    ("attest", "x"),
    ("rollback", "x", "--yes"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=[one[0] for one in COMMANDS])
def test_another_region_is_refused_and_nothing_is_called_gone(
    plane: Plane, deployed: Bench, command: tuple[str, ...]
) -> None:
    done = run(*command, "--region", "eu-west-1", "--json")
    assert done.code == 2, done.stdout
    assert "us-east-1" in done.json["error"]["message"]
    assert plane.writes() == []
    assert "x" in plane.control.endpoints


def test_another_account_is_refused(
    plane: Plane, deployed: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", OTHER_KEY)
    plane.accounts = {OTHER_KEY: OTHER}
    done = run("delete", "x", "--yes", "--json")
    assert done.code == 4, done.stdout
    assert f"of account {OTHER}" in done.json["error"]["message"]
    assert plane.writes() == []
    assert "x" in plane.control.endpoints


def test_ps_of_another_region_shows_what_is_there(plane: Plane, deployed: Bench) -> None:
    backend = SageMakerBackend(aws=Ireland(sleep=plane.sleep))
    with pytest.raises(UsageError, match="was deployed to region us-east-1"):
        Deployer(backend).plan_delete("x")
    shown = run("ps", "--backend", "sagemaker", "--json")
    assert [one["name"] for one in shown.json["deployments"]] == ["x"]
    elsewhere = run("ps", "--backend", "sagemaker", "--region", "eu-west-1", "--json")
    assert elsewhere.json["deployments"] == []
    assert elsewhere.code == 0


def test_a_backend_for_one_account_asks_no_other(plane: Plane) -> None:
    backend = SageMakerBackend(account=OTHER)
    with pytest.raises(AccessError, match=f"of account {ACCOUNT}"):
        list(backend.list())


def test_gc_shows_what_it_found_and_what_it_could_not_ask(plane: Plane, deployed: Bench) -> None:
    deployed.aws.call("sagemaker", "delete_endpoint", EndpointName="x")
    deployed.aws.find("sagemaker", "describe_endpoint", EndpointName="x")
    plane.denied = {"iam:GetRole", "iam:ListRoles"}
    done = run("gc", "--backend", "sagemaker", "--json")
    assert done.code == 4
    shown = {one.partition("/")[0] for left in done.json["leftovers"] for one in left["resources"]}
    assert {"model", "config", "weights"} <= shown
    assert "of role not all could be asked" in done.json["errors"][0]["message"]
