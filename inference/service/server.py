"""The server: a listening process around an application, which ends in good order.

It listens before the engine has loaded: platforms look for the port at once and
for readiness later. SIGTERM and Ctrl-C let nothing new in, wait for the answers
under way until the drain deadline, cut off what is left, and then close; a
second signal closes at once.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from llama_hub.errors import LlamaHubError, MissingExtraError, UsageError
from llama_hub.inference.service.host import Host
from llama_hub.inference.service.state import Service

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

BACKLOG = 2048  # connections that may wait to be accepted
ACCEPTED = 32  # that are accepted in one go, before others are answered
SWITCH_INTERVAL = 0.0001  # seconds
AFTER_CUT = 2.0  # seconds for cut-off answers to reach their clients
REPORT_INTERVAL = 10.0  # seconds between two lines about throughput
_log = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to ``host`` and ``port`` (0: any free one); ``UsageError`` if taken."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot resolve the address {host!r}: {error}", hint="--host 127.0.0.1"
        ) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise _bind_error(host, port, error) from error
    return bound


def _bind_error(host: str, port: int, error: OSError) -> LlamaHubError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(
            f"port {port} on {host} is in use by another program",
            hint="choose another with --port, or --port 0 for any free one",
        )
    return UsageError(
        f"cannot listen on {host}:{port}: {error.strerror}",
        hint="--host 127.0.0.1 --port 0 always works",
    )


def url_of(bound: socket.socket) -> str:
    """Where a client on this machine reaches ``bound``."""
    host, port = bound.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def make_server(app: Starlette) -> uvicorn.Server:
    """uvicorn around ``app``, with the limits of its settings on every connection.

    ``MissingExtraError`` without uvicorn.
    """
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise MissingExtraError("uvicorn", "serve") from error
    from llama_hub.inference.service.connections import Connections

    protocols: Any = Connections(app.state.service.settings)
    config = uvicorn.Config(
        app,
        http=protocols,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # ``proxies`` reads them
        timeout_graceful_shutdown=5,
        backlog=ACCEPTED,
        ws="none",
        lifespan="on",
    )

    class Server(uvicorn.Server):
        """Takes few connections in one go and lets many wait: asyncio has one number for both."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            for bound in sockets or []:
                bound.listen(BACKLOG)

    return Server(config)


def run(
    app: Starlette,
    bound: socket.socket,
    *,
    on_ready: Callable[[], None],
    on_report: Callable[[str], None] | None = None,
) -> None:
    """Serve until a signal says stop; an engine that does not start is raised as its error.

    ``on_ready`` is called when requests will be answered; ``on_report`` now and then with a line
    about throughput, while there is any.
    """
    host: Host = app.state.service
    # The engine's thread lets go of Python's lock in each operation and has to get it back from
    # the event loop, which may keep it for so long. With Python's own 5 ms, a step of sixty
    # operations beside a busy loop takes a third of a second.
    sys.setswitchinterval(SWITCH_INTERVAL)
    asyncio.run(_serve(make_server(app), host, bound, on_ready, on_report))
    if host.failure is not None:
        raise host.failure


async def _serve(
    server: Any,
    host: Host,
    bound: socket.socket,
    on_ready: Callable[[], None],
    on_report: Callable[[str], None] | None,
) -> None:
    # uvicorn's own handlers close at once; ours let the answers under way finish first.
    server.capture_signals = _no_signals
    drains: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if drains:
            server.force_exit = True
        drains.append(asyncio.create_task(_drain(server, host)))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    watchers = [asyncio.create_task(_announce(server, host, on_ready))]
    if on_report is not None and isinstance(host, Service):
        watchers.append(asyncio.create_task(_report(host, on_report)))
    try:
        await server.serve(sockets=[bound])
    finally:
        for task in (*watchers, *drains):
            task.cancel()
        await asyncio.gather(*watchers, *drains, return_exceptions=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextmanager
def _no_signals() -> Any:
    yield


async def _announce(server: Any, host: Host, on_ready: Callable[[], None]) -> None:
    await host.started.wait()
    # What is there now stays: no later collection of garbage walks through all of torch, which
    # would hold everybody up for a third of a second.
    gc.freeze()
    if host.failure is not None:
        server.should_exit = True
    elif not host.admission.draining:
        on_ready()


async def _drain(server: Any, host: Host) -> None:
    """Let nothing new in, wait for the rest, cut off what is late, then close."""
    host.admission.drain()
    deadline = host.settings.drain_timeout
    _log.info("stopping; %d sequences are under way", host.admission.sequences)
    with suppress(TimeoutError):
        async with asyncio.timeout(deadline):
            await host.admission.emptied()
    if host.admission.sequences:
        _log.warning("%d sequences are cut off after %g s", host.admission.sequences, deadline)
        await host.cut_off()
        with suppress(TimeoutError):
            async with asyncio.timeout(AFTER_CUT):
                await host.admission.emptied()
    server.should_exit = True


async def _report(service: Service, on_report: Callable[[str], None]) -> None:
    """Tell throughput and memory every few seconds in which tokens were made."""
    await service.started.wait()
    before = service.engine.stats()
    while True:
        await asyncio.sleep(REPORT_INTERVAL)
        now = service.engine.stats()
        read = (now.prompt_tokens - before.prompt_tokens) / REPORT_INTERVAL
        made = (now.generated_tokens - before.generated_tokens) / REPORT_INTERVAL
        before = now
        if read or made:
            on_report(
                f"{made:.1f} tokens/s made, {read:.1f} read; {now.running} running, "
                f"{now.waiting} waiting; KV cache {now.kv_usage:.0%}, "
                f"memory {now.memory_bytes / 2**30:.2f} GiB"
            )
