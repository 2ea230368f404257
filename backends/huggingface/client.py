"""The only importer of ``huggingface_hub``: every call with a token, a time limit, our errors.

The library's own client waits for ever, drops the token from endpoint objects,
reads one page of a list and calls home on first use; none of that is reachable
from here. ``LLAMA_HUB_HF_ENDPOINTS_URL`` replaces the control plane's address
(the library has no setting for it).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from llama_hub.backends.huggingface.errors import LOGIN, explain
from llama_hub.deploy.cloud_error import ErrorResponse
from llama_hub.deploy.waiting import persist
from llama_hub.errors import AccessError, MissingExtraError, PlatformUnreachableError
from llama_hub.hub.transfer.bounded_httpx import bounded

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

RETRIES = 3  # of a call that Hugging Face was too busy for
CONNECT = 10.0  # seconds
ANSWER = 120.0  # seconds without a byte
PAGE = 100  # endpoints asked for at a time
PLANE = "https://api.endpoints.huggingface.cloud/v2"


def library() -> Any:
    """``huggingface_hub``, made to send no telemetry and to give up in time.

    ``MissingExtraError`` if it is not installed.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when it is imported
    try:
        import huggingface_hub
        from huggingface_hub.utils import _http
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "huggingface_hub", "serve") from error

    def factory() -> Any:
        client = _http.default_client_factory()
        client.timeout = _timeout(client)
        return bounded(client)

    if not getattr(library, "prepared", False):
        huggingface_hub.set_client_factory(factory)
        disable_progress_bars()
        library.prepared = True  # type: ignore[attr-defined]
    return huggingface_hub


def _timeout(client: Any) -> Any:
    """The time limits, in the type of whatever HTTP library the client comes from."""
    return type(client.timeout)(ANSWER, connect=CONNECT)


class Client:
    """Hub and control plane for one token."""

    def __init__(
        self,
        token: str | None = None,
        plane: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._given = token
        self._sleep = sleep
        self.plane = (plane or os.environ.get("LLAMA_HUB_HF_ENDPOINTS_URL") or PLANE).rstrip("/")

    @cached_property
    def token(self) -> str:
        """From the constructor, ``HF_TOKEN``, or the login of ``hf``.

        ``AccessError`` if there is none.
        """
        found = self._given or library().get_token()
        if not found:
            raise AccessError("not logged in to Hugging Face", hint=LOGIN)
        return str(found)

    @cached_property
    def api(self) -> HfApi:
        """The Hub; its methods take the token from here."""
        api: HfApi = library().HfApi(token=self.token)
        return api

    def hub(self, what: str, call: Callable[[HfApi], T]) -> T:
        """``call`` on the Hub, again while it is busy, its errors in our words.

        Every call must be harmless when it is done twice; ``what`` is for the message.
        """
        return self._persisting(lambda: self._guarded(what, lambda: call(self.api)))

    def whoami(self) -> Mapping[str, Any]:
        """The token's user, organisations and scopes; asked once: few such calls are allowed."""
        return self._login

    @cached_property
    def _login(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.hub("the login", lambda api: api.whoami(token=self.token))
        return found

    def file(self, repository: str, path: str) -> bytes:
        """A small file at the head of ``main``; never from a cache."""
        url = f"{self.api.endpoint}/{repository}/resolve/main/{path}"
        headers = {"Authorization": f"Bearer {self.token}"}

        def call() -> bytes:
            answer = library().get_session().get(url, headers=headers, follow_redirects=True)
            library().utils.hf_raise_for_status(answer)
            return bytes(answer.content)

        return self._persisting(lambda: self._guarded(f"{repository}/{path}", call))

    # --- endpoints -----------------------------------------------------------------------

    def endpoints(self, namespace: str) -> Iterator[dict[str, Any]]:
        """Every endpoint of ``namespace``, all pages."""
        cursor: str | None = None
        while True:
            asked = {"limit": str(PAGE)} | ({"cursor": cursor} if cursor else {})
            page = self.request("GET", f"/endpoint/{namespace}", params=asked).json()
            yield from page["items"]
            following = page.get("cursor") or page.get("nextCursor")
            if not following or following == cursor:
                return
            cursor = following

    def endpoint(self, namespace: str, name: str) -> dict[str, Any]:
        """One endpoint as it is now."""
        found: dict[str, Any] = self.request("GET", f"/endpoint/{namespace}/{name}").json()
        return found

    def create(self, namespace: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for a new endpoint."""
        made: dict[str, Any] = self.request("POST", f"/endpoint/{namespace}", body).json()
        return made

    def update(self, namespace: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Change an endpoint; what ``body`` does not name stays."""
        made: dict[str, Any] = self.request("PUT", f"/endpoint/{namespace}/{name}", body).json()
        return made

    def delete(self, namespace: str, name: str) -> None:
        """Remove an endpoint."""
        self.request("DELETE", f"/endpoint/{namespace}/{name}")

    def act(self, namespace: str, name: str, verb: str) -> None:
        """``pause``, ``resume`` or ``scale-to-zero``."""
        self.request("POST", f"/endpoint/{namespace}/{name}/{verb}")

    def logs(self, namespace: str, name: str, tail: int) -> list[str]:
        """Log lines, oldest first; the library has no call for them."""
        path = f"/endpoint/{namespace}/{name}/logs"
        text: str = self.request("GET", path, params={"tail": str(tail)}).text
        return text.splitlines()

    def hardware(self, namespace: str) -> dict[str, Any]:
        """Machines with prices and quota, as of now."""
        found: dict[str, Any] = self.request("GET", f"/provider/{namespace}").json()
        return found

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """One call of the control plane, through the library's HTTP session."""
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"{self.plane}{path}"

        def call() -> Any:
            answer = (
                library()
                .get_session()
                .request(method, url, headers=headers, json=body, params=params)
            )
            library().utils.hf_raise_for_status(answer)
            return answer

        # A POST that took effect and whose answer was lost is looked for before it is sent again.
        if method == "POST":
            return self._guarded(f"{method} {path}", call)
        return self._persisting(lambda: self._guarded(f"{method} {path}", call))

    def _persisting(self, call: Callable[[], T]) -> T:
        return persist(call, retries=RETRIES, sleep=self._sleep)

    def _guarded(self, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except library().errors.HfHubHTTPError as error:
            raise explain(_response(error), what) from error
        except Exception as error:
            if type(error).__module__.split(".")[0] in {"httpx", "httpx2", "httpcore", "httpcore2"}:
                raise PlatformUnreachableError(
                    f"{what}: {type(error).__name__}: {error}",
                    hint="check the connection, the proxy variables and HF_HUB_OFFLINE",
                ) from error
            raise


def _response(error: Any) -> ErrorResponse:
    """One of the library's errors as plain data, its text in one line."""
    answer = error.response
    words = " ".join(str(error).split())[:400]
    return ErrorResponse(answer.status_code, "", words, dict(answer.headers))
