"""The local backend with real processes: a stand-in service, the real supervisor and proxy."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import httpx
import pytest

from llama_hub.backends.local.processes import identity
from llama_hub.errors import NotFoundError, ProvisioningError, UsageError
from tests.support.local import Local, until
from tests.support.tiers import family


def test_deploy_serves_and_a_second_run_changes_nothing(local: Local) -> None:
    first = local.deploy()
    assert first.status == "ready"
    answered = local.get()
    assert answered["content"] == "one"
    again = local.deployer.plan(local.spec())
    assert again.changes == ()
    assert local.deploy().url == first.url
    assert local.get()["pid"] == answered["pid"]


def test_the_service_outlives_its_starter_and_has_a_session_of_its_own(local: Local) -> None:
    local.deploy()
    processes = [local.state.pid, local.get()["pid"]]
    assert os.getpid() not in processes
    assert all(os.getsid(pid) != os.getsid(0) for pid in processes)
    assert os.getsid(processes[0]) != os.getsid(processes[1])


@pytest.mark.parametrize("updates", family([5, 20], 1))
def test_updates_under_load_fail_no_request(updates: int, local: Local) -> None:
    url = local.deploy(content="0").url
    stop = threading.Event()
    seen: list[str] = []
    failures: list[str] = []

    def load(stream: bool) -> None:
        body = {"messages": [{"role": "user", "content": "?"}], "stream": stream}
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                try:
                    answer = client.post(f"{url}/v1/chat/completions", json=body)
                    assert answer.status_code == 200, answer.text
                    whole = "[DONE]" if stream else '"finish_reason"'
                    assert whole in answer.text
                    seen.append(answer.text)
                except Exception as error:
                    failures.append(repr(error))

    workers = [threading.Thread(target=load, args=(number % 2 == 0,)) for number in range(4)]
    for worker in workers:
        worker.start()
    try:
        for number in range(1, updates + 1):
            local.deploy(content=str(number))
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert failures == []
    assert len(seen) > 5 * updates
    assert local.get()["content"] == str(updates)


def test_rollback_returns_to_the_revision_before(local: Local) -> None:
    url = local.deploy(content="good").url
    local.deploy(content="bad")
    back = local.deployer.apply(local.deployer.plan_rollback("x"))
    assert (back.status, back.url) == ("ready", url)
    assert back.generation == local.folder.desired().active  # type: ignore[union-attr]


def test_rollback_serves_the_settings_of_before(local: Local) -> None:
    local.deploy(environment={"SHADE": "light"})
    local.deploy(environment={"SHADE": "dark"})
    assert local.get("/manifest")["environment"]["SHADE"] == "dark"
    local.deployer.apply(local.deployer.plan_rollback("x"))
    assert local.get("/manifest")["environment"]["SHADE"] == "light"
    assert local.deployer.plan(local.spec(environment={"SHADE": "light"})).changes == ()


def test_a_revision_that_does_not_start_leaves_the_old_one_serving(local: Local) -> None:
    local.deploy()
    before = local.get()["pid"]
    with pytest.raises(ProvisioningError, match="cannot load: out of memory") as caught:
        local.deploy(environment={"STANDIN_FAIL": "1"})
    assert "failure-" in caught.value.hint
    assert local.get()["pid"] == before
    assert local.deployer.plan(local.spec()).changes == ()


def test_a_first_deployment_that_does_not_start_is_removed(local: Local) -> None:
    with pytest.raises(ProvisioningError, match="exit code 3"):
        local.deploy(environment={"STANDIN_FAIL": "1"})
    assert list(local.backend.list()) == []
    assert not local.folder.path.exists()


def test_a_replica_that_crashes_is_started_again(local: Local) -> None:
    local.deploy()
    before = local.get()["pid"]
    with httpx.Client() as client, pytest.raises(httpx.HTTPError):
        client.get(local.backend.endpoint("x").url + "/crash", timeout=0.5)
    assert local.get()["pid"] != before
    assert until(lambda: local.state.children[0].restarts) >= 1
    assert any("exit code 7" in line for line in local.backend.logs("x"))


def test_a_request_that_kills_costs_two_replicas_and_not_more(local: Local) -> None:
    local.deploy(replicas_min=2, replicas_max=2)
    url = local.backend.endpoint("x").url
    codes = []
    for _ in range(6):
        answer = httpx.post(f"{url}/v1/chat/completions", json={"kill": True}, timeout=30)
        codes.append(answer.json()["error"]["code"])
        until(lambda: sum(one.state == "ready" for one in local.state.children) == 2)
    assert codes == ["replica_ended"] * 2 + ["quarantined"] * 4
    assert sum(one.restarts for one in local.state.children) == 2
    other = httpx.post(f"{url}/v1/chat/completions", json={"messages": []}, timeout=30)
    assert other.status_code == 200


def test_a_replica_that_stops_answering_health_is_started_again(local: Local) -> None:
    local.deploy()
    before = local.get()["pid"]
    local.get("/sick")
    until(lambda: local.get()["pid"] != before)


def test_a_killed_supervisor_takes_its_replicas_along_and_deploy_starts_both(
    local: Local,
) -> None:
    url = local.deploy().url
    child = local.get()["pid"]
    known = identity(child)
    os.kill(local.state.pid, signal.SIGKILL)
    until(lambda: identity(child) != known)
    assert local.backend.status("x").status == "stopped"
    plan = local.deployer.plan(local.spec())
    assert [step.action for step in plan.steps] == ["update", "update", "noop"]
    again = local.deployer.apply(plan)
    assert (again.status, again.url) == ("ready", url)


def test_a_boot_in_between_is_noticed_although_the_process_number_lives(local: Local) -> None:
    local.deploy()
    state = local.state
    os.kill(state.pid, signal.SIGKILL)
    until(lambda: not local.folder.is_supervised)
    for child in state.children:
        until(lambda child=child: identity(child.pid) != child.identity)
    # As after a reboot: the numbers are taken, by processes that are not ours.
    state.pid = os.getpid()
    for child in state.children:
        child.pid = os.getpid()
    local.folder.write_state(state)
    assert [one.status for one in local.backend.list()] == ["stopped"]
    assert local.deploy().status == "ready"  # and this process was not ended


def test_scaling_starts_and_stops_replicas_in_place(local: Local) -> None:
    local.deploy()
    first = local.get()["pid"]
    assert local.deploy(replicas_min=3, replicas_max=3).replicas == 3
    assert len({local.get()["pid"] for _ in range(9)}) == 3
    assert local.deploy(replicas_min=1, replicas_max=1).replicas == 1
    assert {local.get()["pid"] for _ in range(3)} == {first}


def test_a_key_is_needed_and_kept_where_others_can_connect(local: Local) -> None:
    local.deploy(options={"host": "0.0.0.0"})
    endpoint = local.backend.endpoint("x")
    assert httpx.get(endpoint.url).status_code == 401
    assert local.get()["content"] == "one"
    key = endpoint.headers["Authorization"].removeprefix("Bearer ")
    assert oct((local.folder.path / "key").stat().st_mode & 0o777) == "0o600"
    written = [path.read_text() for path in local.root.rglob("*.json*") if path.is_file()]
    assert key not in "".join(written)
    child = local.get()["pid"]
    assert key not in Path(f"/proc/{child}/cmdline").read_text()
    assert key not in repr(endpoint)


def test_logs_follow_what_is_printed(local: Local) -> None:
    local.deploy()
    lines = local.backend.logs("x", tail=0, follow=True)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(next(iter(lines))))
    reader.start()
    until(lambda: local.get("/said") and found)
    reader.join()
    assert "GET /" in found[0]


def test_a_log_that_is_moved_away_is_begun_again(local: Local) -> None:
    local.deploy()
    local.get("/before")
    log = local.folder.service_log
    log.rename(log.with_name("moved"))
    log.mkdir()
    local.get("/after")
    until(lambda: any("/after" in line for line in local.backend.logs("x")))
    assert log.is_file()


def test_a_port_in_use_is_named(local: Local) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ProvisioningError, match=str(port)):
            local.deploy(options={"port": port})


def test_what_this_machine_cannot_do_is_refused(local: Local) -> None:
    with pytest.raises(UsageError, match="fixed number"):
        local.deploy(replicas_max=3)
    with pytest.raises(UsageError, match="did you mean 'port'"):
        local.deploy(options={"prt": 1})


def test_delete_leaves_no_process_and_no_file(local: Local) -> None:
    local.deploy(replicas_min=2, replicas_max=2)
    state = local.state
    local.delete()
    for one in [state, *state.children]:
        assert identity(one.pid or 0) != one.identity
    assert not local.folder.path.exists()
    with pytest.raises(NotFoundError):
        local.backend.status("x")


def test_no_wait_returns_while_the_replica_starts(local: Local) -> None:
    from llama_hub.deploy.apply import ApplyOptions

    plan = local.deployer.plan(local.spec())
    deployed = local.deployer.apply(plan, ApplyOptions(wait=False))
    assert deployed.status in ("pending", "ready")
    until(lambda: local.backend.status("x").status == "ready")


SECRETS = {
    "HF_TOKEN": "hf_canary",
    "AWS_SECRET_ACCESS_KEY": "canary-aws",
    "AWS_SESSION_TOKEN": "canary-session",
    "AZURE_CLIENT_SECRET": "canary-azure",
    "OPENAI_API_KEY": "sk-canary",
    "LLAMA_HUB_META_URL": "https://canary.invalid/*?Signature=x",
    "HTTPS_PROXY": "http://user:canary@127.0.0.1:1",
    "SOMETHING_OF_MINE": "canary",
}


def test_no_secret_of_the_shell_lives_on_in_supervisor_or_replicas(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**SECRETS, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)
    local.deploy(environment={"WANTED": "yes"})
    child = local.get()["pid"]
    held = [Path(f"/proc/{pid}/environ").read_text() for pid in (local.state.pid, child)]
    assert not [name for name in SECRETS for text in held if f"{name}=" in text]
    assert "canary" not in "".join(held)
    assert all("OMP_NUM_THREADS=1" in text and "PATH=" in text for text in held)
    environment = local.get("/manifest")["environment"]
    assert (environment["WANTED"], environment["CUDA_VISIBLE_DEVICES"]) == ("yes", "")


def test_only_the_owner_may_read_anything_of_a_deployment(local: Local) -> None:
    local.deploy()
    local.get("/said")
    written = [local.root / "local", local.root / "journals"]
    written += [path for top in written for path in top.rglob("*")]
    assert any(path.name == "service.log" for path in written)
    models = local.folder.path / "models"  # names of the store's files, which it may show to all
    assert models.stat().st_mode & 0o077 == 0
    written = [path for path in written if models not in path.parents or path.is_dir()]
    assert [path for path in written if path.stat().st_mode & 0o077] == []


def test_the_state_names_no_secret_and_is_readable_by_its_owner_only(local: Local) -> None:
    local.deploy(environment={"TOKEN_FILE": "/dev/null"})
    for name in ("desired.json", "state.json"):
        path = local.folder.path / name
        assert path.stat().st_mode & 0o077 == 0
        assert "Authorization" not in json.dumps(json.loads(path.read_text()))
