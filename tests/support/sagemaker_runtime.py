"""SageMaker's data plane: plain, streamed and asynchronous invocations of a container."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support import sagemaker_host as host
from tests.support import sagemaker_s3 as s3
from tests.support import sagemaker_stream as stream
from tests.support.sagemaker_control import Variant
from tests.support.sagemaker_refusals import ApiError, refusal

if TYPE_CHECKING:
    from tests.support.sagemaker_plane import Plane

MOST_BYTES = 6_291_456
CUT = 7  # bytes of a part: a line is cut in many places
LET_THROUGH = {
    "content-type": "Content-Type",
    "accept": "Accept",
    "x-amzn-sagemaker-accept": "Accept",
    "x-amzn-sagemaker-custom-attributes": "X-Amzn-SageMaker-Custom-Attributes",
}


class Runtime:
    """What stands between a caller and a container."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.break_stream = False

    def handle(self, request: s3.Request) -> s3.Reply:
        """``/endpoints/NAME/invocations``, its stream, or its asynchronous form."""
        _, _, name, kind = request.path.split("/")
        body = s3.body_of(request)
        if len(body) > MOST_BYTES:
            raise ApiError("ValidationError", "the body is larger than 6 MB")
        container = self._container(
            name, request.headers.get("X-Amzn-SageMaker-Inference-Component")
        )
        headers = {
            LET_THROUGH[key.lower()]: value
            for key, value in request.headers.items()
            if key.lower() in LET_THROUGH
        }
        if kind == "async-invocations":
            return self._async(name, container, request, headers)
        answer = host.invoke(container, body, headers)
        content = answer.body.read()
        answer.body.close()
        if answer.status != 200:
            raise _model_error(answer.status, content)
        if kind == "invocations":
            return s3.Reply(body=content, headers={"Content-Type": answer.content_type})
        return self._stream(content, answer.content_type)

    def _container(self, name: str, component: str | None) -> host.Container:
        control = self.plane.control
        endpoint = control.endpoints.get(name)
        if endpoint is None or endpoint.status not in ("InService", "Updating", "RollingBack"):
            raise refusal("not there", name=name, account=self.plane.account)
        chosen: Variant
        if component is None:
            chosen = next(iter(endpoint.variants.values()))
            if "ModelName" not in chosen.config:
                raise ApiError("ValidationError", "Inference Component Name header is required")
        else:
            chosen = control.components[component].variant
        if chosen.container is None:
            raise ApiError("ValidationError", "Inference Component has no capacity to process")
        return chosen.container

    def _stream(self, content: bytes, content_type: str) -> s3.Reply:
        cut = [content[at : at + CUT] for at in range(0, len(content), CUT)]
        if self.break_stream:
            broken = stream.exception("ModelStreamError", "the container went away")
            frames = stream.part(cut[0]) + broken
        else:
            frames = b"".join(stream.part(piece) for piece in cut)
        headers = {
            "Content-Type": "application/vnd.amazon.eventstream",
            "X-Amzn-SageMaker-Content-Type": content_type,
        }
        return s3.Reply(body=frames, headers=headers)

    def _async(
        self, name: str, container: host.Container, request: s3.Request, headers: dict[str, str]
    ) -> s3.Reply:
        location = request.headers["X-Amzn-SageMaker-InputLocation"]
        bucket, _, key = location.removeprefix("s3://").partition("/")
        control = self.plane.control
        config = control.configs[control.endpoints[name].config]["AsyncInferenceConfig"]
        output = (
            f"{config['OutputConfig']['S3OutputPath'].rstrip('/')}/{key.rpartition('/')[2]}.out"
        )
        asked = self.plane.s3.buckets[bucket].objects[key].path.read_bytes()
        headers["Content-Type"] = "application/json"

        def work() -> None:
            answer = host.invoke(container, asked, headers)
            content = answer.body.read()
            answer.body.close()
            path = self.plane.s3.root / f"async-{key.replace('/', '_')}"
            path.write_bytes(content)
            stored = s3.Stored(path, len(content), "0" * 32, {})
            place, _, at = output.removeprefix("s3://").partition("/")
            self.plane.s3.buckets[place].objects[at] = stored

        self.plane.tick(work)
        said = {"X-Amzn-SageMaker-OutputLocation": output}
        return s3.Reply(202, json.dumps({"InferenceId": "1"}).encode(), said)


def _model_error(status: int, content: bytes) -> ApiError:
    document = {
        "Message": f"Received server error ({status}) from primary",
        "OriginalStatusCode": status,
        "OriginalMessage": content.decode(errors="replace"),
        "LogStreamArn": "arn:aws:logs:us-east-1:123456789012:log-group:x",
    }
    return ApiError("ModelError", json.dumps(document), 424)
