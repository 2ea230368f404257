"""Several models behind one address: chosen by name, loaded and unloaded, each by itself.

The processes are stand-ins without weights; that real ones do it shows ``tests/cli/test_serve.py``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from llama_hub.backends.local import model_pool, replica
from llama_hub.backends.local.model_memory import MemoryNeed, arrange
from llama_hub.backends.local.model_metrics import merged
from llama_hub.errors import LlamaHubError, NotEnoughError
from llama_hub.inference.service.settings import Moderation, ServiceSettings
from tests.support.fronting import SECRET, Fronted, fronting, said
from tests.support.local import until

NONE: dict[str, str] = {}


@pytest.fixture(autouse=True)
def _quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "FIRST_PAUSE", 0.01)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronted]:
    """Two that stay loaded; for tests that change nothing."""
    with fronting(tmp_path_factory.mktemp("both"), {"seven": NONE, "thirteen": NONE}) as front:
        yield front


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as found:
        yield found


def error(answer: httpx.Response, status: int) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_request_goes_to_the_model_that_it_names(both: Fronted) -> None:
    assert said(both.ask("seven")) == "I am seven."
    assert said(both.ask("thirteen")) == "I am thirteen."
    assert said(both.ask(None)) == "I am seven.", "without a name the first is meant"
    assert said(both.ask("thirteen:latest", "/api/chat")) == "I am thirteen."


def test_an_unknown_model_is_a_404_in_the_route_s_own_words(both: Fronted) -> None:
    problem = error(both.ask("nope"), 404)
    assert (problem["code"], problem["param"]) == ("model_not_found", "model")
    assert "seven, thirteen" in problem["message"]
    assert "does not exist" in error(both.ask("nope", "/api/chat"), 404)
    assert "does not exist" in error(both.get("/v1/models/nope"), 404)["message"]
    assert error(both.ask("seven:latest"), 404)["code"] == "model_not_found"


@pytest.mark.parametrize("content", [b'{"model": 7}', b'{"model": ["seven"]}', b"[]", b"{"])
def test_bad_bodies_reach_no_model(both: Fronted, content: bytes) -> None:
    before = len(both.lines)
    answer = httpx.post(both.url + "/v1/completions", content=content, trust_env=False)
    assert answer.status_code == 400
    assert len(both.lines) == before


def test_each_is_listed_under_its_name(both: Fronted) -> None:
    listed = both.get("/v1/models").json()["data"]
    assert [(each["id"], each["max_model_len"]) for each in listed] == [
        ("seven", 128),
        ("thirteen", 128),
    ]
    assert both.get("/v1/models/thirteen").json() == listed[1]
    assert [each["name"] for each in both.get("/api/tags").json()["models"]] == [
        "seven",
        "thirteen",
    ]
    shown = both.ask("thirteen", "/api/show").json()
    assert shown["model_info"]["llama.context_length"] == 128


def test_what_is_no_model_s_is_answered_without_one(both: Fronted) -> None:
    before = len(both.lines)
    for path in ("/", "/docs", "/openapi.json", "/version", "/page.json", "/health/live", "/ping"):
        assert both.get(path).status_code == 200, path
    assert len(both.lines) == before


def test_each_model_s_state_is_told(both: Fronted) -> None:
    health = both.get("/health").json()
    assert health["status"] == "ready"
    assert {name: each["state"] for name, each in health["models"].items()} == {
        "seven": "ready",
        "thirteen": "ready",
    }
    models = both.get("/manifest").json()["models"]
    assert [(each["model"], each["state"]) for each in models] == [
        ("seven", "ready"),
        ("thirteen", "ready"),
    ]
    text = both.get("/metrics").text
    assert 'llama_hub_model_loaded{model_name="seven"} 1' in text
    assert 'llama_hub_model_loads_total{model_name="thirteen"} 1' in text
    assert "llama_hub_http_requests_total{" in text


def test_the_front_guards_the_processes(tmp_path: Path) -> None:
    """Clients know the front's key, the processes have another, and nothing else gets in."""
    with fronting(tmp_path, {"seven": NONE}, settings=ServiceSettings(api_key="ours")) as front:
        assert front.ask("seven").status_code == 401
        assert front.get("/v1/models").status_code == 401
        assert front.get("/health").json() == {"status": "ready"}
        body: dict[str, Any] = {"model": "seven"}
        for headers in ({"Authorization": "Bearer ours"}, {"api-key": "ours"}):
            answer = httpx.post(
                front.url + "/v1/chat/completions", json=body, headers=headers, trust_env=False
            )
            assert said(answer) == "I am seven."
        upstream = front.slot("seven").upstream
        assert upstream is not None
        inside = f"http://127.0.0.1:{upstream.port}/v1/chat/completions"
        for headers in ({"Authorization": "Bearer ours"}, {}):
            refused = httpx.post(inside, json=body, headers=headers, trust_env=False)
            assert refused.status_code == 401
        headers = {"Authorization": f"Bearer {SECRET}"}
        assert httpx.post(inside, json=body, headers=headers, trust_env=False).status_code == 200


def test_one_is_loaded_when_asked_for_and_unloaded_when_idle(tmp_path: Path) -> None:
    with fronting(tmp_path, {"seven": NONE, "thirteen": NONE}, memory=2, idle=600) as front:
        assert (front.slot("seven").word, front.slot("thirteen").word) == ("ready", "unloaded")
        assert said(front.ask("thirteen")) == "I am thirteen."
        # The load and the end of the answer are noted, before the clock is turned.
        until(lambda: front.slot("thirteen").seconds is not None)
        until(lambda: front.slot("thirteen").in_flight == 0)
        front.clock.now += 599
        assert said(front.ask("seven")) == "I am seven."
        pid = front.pid("thirteen")
        front.clock.now += 2
        until(lambda: front.slot("thirteen").word == "unloaded")
        assert not alive(pid)
        assert front.slot("seven").word == "ready", "it was asked a moment ago"
        assert front.get("/health").status_code == 200
        assert (
            'llama_hub_model_unloads_total{model_name="thirteen"} 1' in front.get("/metrics").text
        )
        assert said(front.ask("thirteen")) == "I am thirteen."
        assert front.slot("thirteen").loads == 2


def test_what_is_unloaded_states_what_would_be_served(tmp_path: Path) -> None:
    def judge(passage: object) -> str | None:
        return None

    settings = ServiceSettings(moderators=(judge,), moderation=Moderation("before", "sha256:1"))
    with fronting(tmp_path, {"seven": NONE}, idle=5, settings=settings) as front:
        until(lambda: front.slot("seven").seconds is not None)
        front.clock.now += 6
        until(lambda: front.slot("seven").word == "unloaded")
        stated = front.get("/manifest").json()
        assert (stated["model"], stated["engine"], stated["state"]) == ("seven", None, "unloaded")
        assert stated["moderation"]["policy"] == "sha256:1"
        assert stated["license"]["id"] == "llama-hub-demo"


def test_where_one_fits_at_a_time_both_are_offered(tmp_path: Path) -> None:
    with fronting(tmp_path, {"seven": NONE, "thirteen": NONE}, memory=1, idle=600) as front:
        for name in ("thirteen", "seven", "thirteen"):
            pids = [front.pid(each) for each in ("seven", "thirteen") if front.slot(each).replica]
            assert said(front.ask(name)) == f"I am {name}."
            assert not any(alive(pid) for pid in pids), "the other had to end first"


def test_a_request_in_flight_is_not_cut_by_an_unload(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """And who comes meanwhile waits for a turn, behind who has waited longer."""
    gate = tmp_path / "gate"
    models = {"seven": {"STANDIN_GATE": str(gate)}, "thirteen": NONE}
    with fronting(tmp_path, models, memory=1, idle=5) as front:
        slow = pool.submit(front.ask, "seven", stream=True)
        until(lambda: front.slot("seven").in_flight)
        front.clock.now += 100
        other = pool.submit(front.ask, "thirteen")
        until(lambda: front.slot("seven").leaving)
        front.clock.now += 1
        late = pool.submit(front.ask, "seven")
        until(lambda: front.slot("seven").waiting)
        assert front.slot("thirteen").replica is None
        assert not slow.done()
        gate.touch()
        assert slow.result().text.endswith("data: [DONE]\n\n")
        assert said(other.result()) == "I am thirteen."
        assert said(late.result()) == "I am seven."
        assert front.slot("seven").loads == 2


def test_requests_wait_for_a_load_but_not_too_many_nor_too_long(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_pool, "WAITING", 2)
    gate = tmp_path / "gate"
    models = {"seven": NONE, "thirteen": {"STANDIN_LOAD": str(gate)}}
    with fronting(tmp_path, models, idle=600, patience=30) as front:
        waiting = [pool.submit(front.ask, "thirteen") for _ in range(2)]
        until(lambda: front.slot("thirteen").waiting == 2)
        refused = front.ask("thirteen")
        assert "wait for it already" in error(refused, 503)["message"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert front.get("/health").json()["models"]["thirteen"]["state"] == "loading"
        front.clock.now += 31
        late = [each.result() for each in waiting]
        assert {error(each, 503)["message"] for each in late} == {"thirteen is still being loaded"}
        assert all("Retry-After" in each.headers for each in late)
        assert said(front.ask("seven")) == "I am seven."
        again = pool.submit(front.ask, "thirteen")
        gate.touch()
        assert said(again.result()) == "I am thirteen.", "the load went on"
        assert front.slot("thirteen").loads == 1


def test_a_client_that_leaves_waits_no_more(tmp_path: Path) -> None:
    models = {"seven": NONE, "thirteen": {"STANDIN_LOAD": str(tmp_path / "gate")}}
    with fronting(tmp_path, models, idle=600) as front:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                front.url + "/v1/completions",
                json={"model": "thirteen"},
                trust_env=False,
                timeout=0.2,
            )
        until(lambda: front.slot("thirteen").waiting == 0)
        assert until(lambda: front.front.admission.sequences == 0)


def test_who_was_to_make_room_for_somebody_that_left_stays(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    gate = tmp_path / "gate"
    models = {"seven": {"STANDIN_GATE": str(gate)}, "thirteen": NONE}
    with fronting(tmp_path, models, memory=1, idle=600) as front:
        slow = pool.submit(front.ask, "seven", stream=True)
        until(lambda: front.slot("seven").in_flight)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                front.url + "/v1/completions",
                json={"model": "thirteen"},
                trust_env=False,
                timeout=0.3,
            )
        until(lambda: not front.slot("thirteen").waiting and not front.slot("seven").leaving)
        other = pool.submit(front.ask, "seven")
        until(lambda: front.slot("seven").in_flight == 2)
        gate.touch()
        assert said(other.result()) == "I am seven."
        assert slow.result().text.endswith("data: [DONE]\n\n")
        assert front.slot("seven").loads == 1


def test_one_that_cannot_be_loaded_does_not_touch_the_other(tmp_path: Path) -> None:
    models = {"seven": NONE, "thirteen": {"STANDIN_FAIL": "1"}}
    with fronting(tmp_path, models, idle=600) as front:
        pid = front.pid("seven")
        message = error(front.ask("thirteen"), 503)["message"]
        assert "could not be loaded" in message
        assert "out of memory, as the test wants" in message
        loads = front.slot("thirteen").loads
        error(front.ask("thirteen"), 503)
        assert front.slot("thirteen").loads == loads, "not tried again at once"
        front.clock.now += model_pool.RETRY + 1
        error(front.ask("thirteen"), 503)
        assert front.slot("thirteen").loads == loads + 1
        assert front.get("/health").status_code == 200
        assert front.get("/health").json()["models"]["thirteen"]["state"] == "failed"
        assert said(front.ask("seven")) == "I am seven."
        assert front.pid("seven") == pid


def test_a_start_that_fails_is_told(tmp_path: Path) -> None:
    with fronting(tmp_path, {"seven": NONE, "thirteen": {"STANDIN_FAIL": "1"}}) as front:
        assert isinstance(front.front.failure, LlamaHubError)
        assert "thirteen" in front.front.failure.message
        assert front.get("/health").status_code == 503


def test_a_dead_process_is_started_again_and_the_other_is_not_touched(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    gate = tmp_path / "gate"
    models = {"seven": {"STANDIN_GATE": str(gate)}, "thirteen": NONE}
    with fronting(tmp_path, models) as front:
        other, dead = front.pid("thirteen"), front.pid("seven")
        whole = pool.submit(front.ask, "seven")
        stream = pool.submit(front.ask, "seven", stream=True)
        upstream = front.slot("seven").upstream
        assert upstream is not None
        until(lambda: len(upstream.workload.suspects()) == 2)  # it has been given both
        os.kill(dead, signal.SIGKILL)
        assert error(whole.result(), 502)["code"] == "replica_ended"
        assert '"replica_ended"' in stream.result().text, "a cut stream is marked"
        assert "[DONE]" not in stream.result().text
        assert said(front.ask("thirteen")) == "I am thirteen."
        gate.touch()
        assert said(front.ask("seven")) == "I am seven."
        assert front.pid("seven") != dead
        assert front.pid("thirteen") == other


def test_a_request_that_kills_is_not_sent_a_third_time(tmp_path: Path) -> None:
    with fronting(tmp_path, {"seven": NONE, "thirteen": NONE}) as front:
        for _ in range(2):
            assert error(front.ask("seven", kill=True), 502)["code"] == "replica_ended"
        assert error(front.ask("seven", kill=True), 503)["code"] == "quarantined"
        assert said(front.ask("seven")) == "I am seven."


def test_the_end_lets_nothing_new_in_and_leaves_no_process(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    gate = tmp_path / "gate"
    models = {"seven": {"STANDIN_GATE": str(gate)}, "thirteen": NONE}
    with fronting(tmp_path, models) as front:
        pids = [front.pid("seven"), front.pid("thirteen")]
        slow = pool.submit(front.ask, "seven", stream=True)
        until(lambda: front.slot("seven").in_flight)
        front.front.admission.drain()
        assert "shutting down" in error(front.ask("thirteen"), 503)["message"]
        assert front.front.admission.sequences == 1, "a stream counts until its end"
        gate.touch()
        assert slow.result().text.endswith("data: [DONE]\n\n")
        until(lambda: front.front.admission.sequences == 0)
    assert not any(alive(pid) for pid in pids)


def test_memory_is_shared_by_what_each_needs() -> None:
    seven, thirteen = MemoryNeed("7b", 6, 1, 8, 12), MemoryNeed("13b", 12, 1, 14, 24)
    assert arrange([seven, thirteen], 40, unloads=False).needs == (12, 24)
    assert arrange([seven, thirteen], None, unloads=False).together
    tight = arrange([seven, thirteen], 29, unloads=False)
    assert tight.together
    assert tight.needs == (10, 19)
    one = arrange([seven, thirteen], 20, unloads=True)
    assert not one.together
    assert one.needs == (12, 20)
    assert one.share(0) == pytest.approx(0.6)
    assert one.share(1) == 1.0


def test_what_does_not_fit_is_said_with_what_would_help() -> None:
    seven = MemoryNeed("7b", 6 << 30, 0, 8 << 30, 12 << 30)
    with pytest.raises(NotEnoughError, match=r"7b 8.00 GiB, 7b 8.00 GiB, together 16.00") as failed:
        arrange([seven, seven], 10 << 30, unloads=False)
    assert "--idle-unload" in (failed.value.hint or "")
    with pytest.raises(NotEnoughError, match=r"free: 4.00 GiB") as failed:
        arrange([seven, seven], 4 << 30, unloads=True)
    assert "--idle-unload" not in (failed.value.hint or "")


def test_metrics_of_several_pages_are_one_page() -> None:
    page = (
        '# HELP a A.\n# TYPE a counter\na{{model_name="{0}"}} 1\n'
        "# HELP llama_hub_http_requests_total H.\n# TYPE llama_hub_http_requests_total counter\n"
        "llama_hub_http_requests_total{{}} 3\n"
        '# HELP b B.\n# TYPE b histogram\nb_bucket{{le="1"}} 1\nb_sum 2\n'
    )
    assert merged([("x", page.format("x")), ("y", page.format("y"))]) == [
        "# HELP a A.", "# TYPE a counter", 'a{model_name="x"} 1', 'a{model_name="y"} 1',
        "# HELP b B.", "# TYPE b histogram",
        'b_bucket{model_name="x",le="1"} 1', 'b_sum{model_name="x"} 2',
        'b_bucket{model_name="y",le="1"} 1', 'b_sum{model_name="y"} 2',
    ]  # fmt: skip
