"""An S3 prefix as a place, through boto3 and the environment's AWS credentials."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    MissingExtraError,
    NotFoundError,
    UsageError,
)
from llama_hub.hub.redaction import redact
from llama_hub.hub.transfer.bounded_aws import bounded, read_some
from llama_hub.hub.transfer.proxy import certificate_bundle
from llama_hub.hub.transfer.remote_file import Body, Changed, Request, Transient, stated_size
from llama_hub.hub.transfer.retry import Policy, TransferError

TIMEOUT = 30  # seconds
THREADS = 64  # connections that may be open at once


class S3Tree:
    """Everything below ``s3://bucket/prefix``."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self.policy = Policy()
        self.small: dict[str, bytes | None] = {}
        self.refusals: list[AccessError] | None = []
        self._client = client
        self._bucket = bucket
        self._prefix = prefix

    @property
    def where(self) -> str:
        """The prefix."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def request(self, path: str) -> Request:
        """The object below the prefix."""
        key = f"{self._prefix}/{path}".lstrip("/")
        return S3Request(self._client, self._bucket, key)

    def size(self, path: str) -> int | None:
        """Not known before the first answer."""
        return None

    def close(self) -> None:
        """Let idle connections go."""
        self._client.close()


class S3Request:
    """One object."""

    def __init__(self, client: Any, bucket: str, key: str) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key

    @property
    def where(self) -> str:
        """The object's address."""
        return f"s3://{self._bucket}/{self._key}"

    def open(self, start: int, stop: int | None, validator: str | None = None) -> Body:
        """Get a range of the object, as it was when ``validator`` was its ETag."""
        from botocore.exceptions import BotoCoreError, ClientError

        wanted = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        if validator is not None:
            wanted["IfMatch"] = validator
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key, **wanted)
        except ClientError as error:
            return self._refused(error.response, start)
        except BotoCoreError as error:
            raise self._trouble(error) from error
        return _S3Body(answer, start)

    def _refused(self, response: Any, start: int) -> Body:
        status = response["ResponseMetadata"]["HTTPStatusCode"]
        code = response.get("Error", {}).get("Code", "")
        if status == 416:
            total = response["Error"].get("ActualObjectSize")
            if total is not None and str(total) != str(start):
                raise Changed(self.where)
            return _S3Body({"Body": None}, start)
        if status == 412:
            raise Changed(self.where)
        if status == 404:
            raise NotFoundError(f"there is no {self.where}", hint="check --url")
        if status in (401, 403):
            raise AccessError(
                f"{self.where} refused: {code}",
                hint="the AWS credentials need s3:GetObject there; aws sts get-caller-identity "
                "shows whose they are",
            )
        raise Transient(f"{self.where} answered {status} {code}")

    def _trouble(self, error: Exception) -> Exception:
        name = type(error).__name__
        if "Credential" in name or "Token" in name or "Profile" in name:
            return AccessError(
                f"there are no usable AWS credentials: {redact(error)}",
                hint="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        return Transient(f"{self.where}: {redact(error)}", tries=3)


class _S3Body:
    def __init__(self, answer: Any, start: int) -> None:
        extent = answer.get("ContentRange", "")
        self._stream = answer["Body"]
        self.start = start if extent or self._stream is None else 0
        self.total: int | None = start if self._stream is None else _total(answer, extent)
        self.validator: str | None = answer.get("ETag")
        self.media = answer.get("ContentType", "") if self._stream is not None else ""

    def readinto(self, view: memoryview) -> int:
        if self._stream is None:
            return 0
        try:
            data = read_some(self._stream._raw_stream, len(view))
        except Exception as error:  # urllib3 and botocore raise a dozen kinds here
            raise Transient(f"the connection broke: {redact(error)}") from error
        view[: len(data)] = data
        return len(data)

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _total(answer: Any, extent: str) -> int:
    """Bytes of the whole object."""
    match = re.fullmatch(r"bytes \d{1,18}-\d{1,18}/(\d{1,18})", extent)
    total = answer.get("ContentLength") if not extent else match and int(match[1])
    if total is None:
        raise Transient("the answer does not say how long the object is", tries=2)
    return stated_size("the object", total)


def s3_place(base: str) -> S3Tree:
    """The place ``s3://bucket/prefix``; ``UsageError`` if it names no bucket."""
    parts = urlsplit(base)
    if not parts.netloc:
        raise UsageError(f"{base} names no bucket", hint="--url s3://BUCKET/PREFIX")
    return S3Tree(_client(), parts.netloc, parts.path.strip("/"))


def _client() -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError as error:
        raise MissingExtraError("boto3", "sagemaker") from error
    config = Config(
        connect_timeout=TIMEOUT,
        read_timeout=TIMEOUT,
        retries={"total_max_attempts": 1},  # the engine tries again, and knows what it has
        max_pool_connections=THREADS,
        response_checksum_validation="when_required",
    )
    try:
        verify = certificate_bundle("AWS_CA_BUNDLE")
        return bounded(boto3.session.Session().client("s3", config=config, verify=verify))
    except BotoCoreError as error:
        raise _not_configured(error) from error


def _not_configured(error: Exception) -> LlamaHubError:
    return TransferError(
        f"the AWS configuration cannot be used: {redact(error)}",
        hint="check AWS_PROFILE, AWS_REGION and ~/.aws/config",
    )
