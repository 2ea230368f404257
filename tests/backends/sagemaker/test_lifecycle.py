"""A deployment's life on the plane: the unmodified boto3, real requests, real state."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from llama_hub.deploy.backend import TAG_DEPLOYMENT, TAG_MANIFEST
from llama_hub.deploy.plan import Plan
from llama_hub.errors import AccessError, NotFoundError, ProvisioningError, QuotaError, UsageError
from tests.support import sagemaker_s3 as s3
from tests.support.sagemaker_bench import Bench
from tests.support.sagemaker_host import Stub
from tests.support.sagemaker_plane import Fault, Plane

CHAT = {"messages": [{"role": "user", "content": "one two"}]}
Kinds = Callable[[Plan], list[str]]


def ask(bench: Bench, name: str = "x") -> str:
    """What it says."""
    answer = json.loads(b"".join(bench.backend().invoke(name, CHAT, stream=False)))
    return str(answer["choices"][0]["message"]["content"])


def serving(plane: Plane, name: str = "x") -> Stub:
    """The container behind an endpoint."""
    found = plane.control.endpoints[name].variants["AllTraffic"].container
    assert isinstance(found, Stub)
    return found


def test_create_answer_noop_delete(plane: Plane, bench: Bench, kinds: Kinds) -> None:
    plan = bench.plan()
    assert kinds(plan) == [
        "create role",
        "create weights",
        "create model",
        "create config",
        "create alarm",
        "create alarm",
        "create endpoint",
    ]
    found = bench.deployer().apply(plan, bench.options)
    assert (found.status, found.instance, found.replicas) == ("ready", "ml.m5.large", 1)
    assert found.cost_per_hour == pytest.approx(0.115)
    assert ask(bench) == "one two"

    plane.forget()
    assert kinds(bench.plan()) == []
    bench.deploy()
    assert plane.writes() == []

    bench.delete()
    assert plane.inventory() == []
    with pytest.raises(NotFoundError):
        bench.backend().status("x")


def test_what_is_sent_is_what_was_planned(plane: Plane, bench: Bench) -> None:
    steps = {step.kind: step for step in bench.plan().steps}
    bench.deploy()
    for operation, kind in (
        ("CreateModel", "model"),
        ("CreateEndpointConfig", "config"),
        ("CreateEndpoint", "endpoint"),
    ):
        sent = plane.body_of(operation)
        tags = {one["Key"]: one["Value"] for one in sent.pop("Tags")}
        assert sent == steps[kind].body["request"]
        assert tags == steps[kind].body["tags"]


def test_the_container_gets_weights_limits_and_no_network(plane: Plane, bench: Bench) -> None:
    bench.deploy(context=128, concurrency=3, environment={"LEVEL": "2"})
    model = plane.body_of("CreateModel")
    assert model["EnableNetworkIsolation"] is True
    source = model["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]
    assert (source["S3DataType"], source["CompressionType"]) == ("S3Prefix", "None")
    assert not any(
        "tar" in key for key in plane.s3.buckets["sagemaker-us-east-1-123456789012"].objects
    )
    container = serving(plane)
    assert container.variables == {
        "LLAMA_HUB_PLATFORM": "sagemaker",
        "LLAMA_HUB_CONTEXT": "128",
        "LLAMA_HUB_MAX_BATCH": "3",
        "LLAMA_HUB_REQUEST_TIMEOUT": "58",
        "LLAMA_HUB_SERVED_NAME": "llama-demo",
        "LEVEL": "2",
    }
    names = {path.name for path in container.folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "llama-hub.json"}


def test_everything_carries_the_tags(plane: Plane, bench: Bench) -> None:
    bench.deploy(replicas_max=2, tags={"team": "search"})
    found = bench.backend().observe("x").resources
    assert {one.kind for one in found} == {
        "weights", "model", "config", "endpoint", "scaling", "alarm", "role",
    }  # fmt: skip
    for one in found:
        assert one.tags[TAG_DEPLOYMENT] == "x", one.id
        assert one.tags[TAG_MANIFEST] == bench.artifact().manifest.digest, one.id
        assert one.tags["team"] == "search", one.id


def test_timeouts_follow_the_size(bench: Bench) -> None:
    from llama_hub.backends.sagemaker.bodies import DOWNLOAD_RATE, LOAD_RATE, seconds_for

    small, large = 13_500_000_000, 138_000_000_000  # 7B and 70B in 16 bits
    assert seconds_for(small, DOWNLOAD_RATE) == 570
    assert seconds_for(large, DOWNLOAD_RATE) == 3060
    assert seconds_for(large, LOAD_RATE) == 1680
    assert seconds_for(10**13, LOAD_RATE) == 3600


def test_routing_ami_and_disk(plane: Plane, bench: Bench) -> None:
    bench.deploy("cpu")
    variant = plane.body_of("CreateEndpointConfig")["ProductionVariants"][0]
    assert variant["RoutingConfig"] == {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"}
    assert variant["VolumeSizeInGB"] == 31
    assert "InferenceAmiVersion" not in variant
    bench.deploy("gpu", instance="ml.g5.2xlarge")
    variant = plane.body_of("CreateEndpointConfig")["ProductionVariants"][0]
    assert variant["InferenceAmiVersion"] == "al2023-ami-sagemaker-inference-gpu-4-1"
    assert "VolumeSizeInGB" not in variant


def test_update_is_blue_green_with_alarms(plane: Plane, bench: Bench, kinds: Kinds) -> None:
    bench.deploy()
    old = serving(plane)
    bench.new_model("two")
    plan = bench.plan()
    assert kinds(plan) == [
        "update role", "create weights", "create model", "create config", "update alarm",
        "update alarm", "update endpoint", "delete config", "delete model",
    ]  # fmt: skip
    note = next(step.note for step in plan.changes if step.kind == "endpoint")
    assert "side by side" in note
    bench.deployer().apply(plan, bench.options)
    update = plane.body_of("UpdateEndpoint")
    assert update["RetainAllVariantProperties"] is True
    alarms = update["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert [one["AlarmName"] for one in alarms] == ["llama-hub/x/errors", "llama-hub/x/latency"]
    policy = update["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    assert policy["TerminationWaitInSeconds"] >= 120  # an alarm rolls back only until then
    assert serving(plane) is not old
    manifest = b"".join(bench.backend().invoke("x", {"manifest": True}, stream=False))
    assert json.loads(manifest) == {"manifest": bench.artifact().manifest.digest}
    assert len(plane.control.models) == len(plane.control.configs) == 1


def test_going_back_uploads_nothing(plane: Plane, bench: Bench) -> None:
    bench.deploy()
    bench.new_model("two")
    bench.deploy()
    bench.new_model("one")
    plane.forget()
    bench.deploy()
    objects = [call for call in plane.writes() if call == "s3:PutObject"]
    assert objects == []
    bench.new_model("three")
    bench.deploy()
    assert len(bench.backend().observe("x").all("weights")) == 2  # and what was before is gone
    bench.delete()
    assert plane.inventory() == []


def test_an_alarm_rolls_back_and_is_explained(
    plane: Plane, bench: Bench, aws_alarm: Callable[[str], None]
) -> None:
    bench.deploy()
    before = plane.control.endpoints["x"].config
    aws_alarm("llama-hub/x/errors")
    bench.new_model("two")
    with pytest.raises(ProvisioningError, match="an alarm went off") as caught:
        bench.deploy()
    assert "the revision before is back" in caught.value.message
    assert plane.control.endpoints["x"].config == before
    assert ask(bench) == "one two"


@pytest.fixture
def aws_alarm(bench: Bench) -> Callable[[str], None]:
    """Puts an alarm off."""

    def ring(name: str) -> None:
        bench.aws.call(
            "cloudwatch", "set_alarm_state", AlarmName=name, StateValue="ALARM", StateReason="x"
        )

    return ring


@pytest.mark.parametrize(
    ("update", "policy"),
    [
        ("canary", {"Type": "CANARY", "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 10}}),
        ("linear", {"Type": "LINEAR", "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 10}}),
        ("rolling", None),
    ],
)
def test_gradual_updates(plane: Plane, bench: Bench, update: str, policy: Any) -> None:
    spec = {"replicas_min": 2, "replicas_max": 2, "options": {"update": update, "soak": 60}}
    bench.deploy(**spec)
    bench.deploy(**spec, context=128)
    sent = plane.body_of("UpdateEndpoint")["DeploymentConfig"]
    if policy is None:
        assert sent["RollingUpdatePolicy"]["MaximumBatchSize"]["Value"] == 10
    else:
        found = sent["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
        assert found == policy | {"WaitIntervalInSeconds": 60}


def test_autoscaled_counts_survive_an_update(plane: Plane, bench: Bench, kinds: Kinds) -> None:
    bench.deploy(replicas_max=3)
    policy = plane.body_of("PutScalingPolicy")
    assert policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 5.6
    plane.control.endpoints["x"].variants["AllTraffic"].count = 3  # autoscaling was at work
    assert kinds(bench.plan(replicas_max=3)) == []
    bench.deploy(replicas_max=3, context=128)
    assert plane.control.endpoints["x"].variants["AllTraffic"].count == 3


def test_another_machine_type_takes_the_target_away_first(plane: Plane, bench: Bench) -> None:
    bench.deploy(replicas_max=3)
    plane.forget()
    found = bench.deploy(replicas_max=3, instance="ml.m5.xlarge")
    order = [one.split(":")[1] for one in plane.writes() if "cal" in one or "UpdateEnd" in one]
    assert order.index("DeregisterScalableTarget") < order.index("UpdateEndpoint")
    assert order.index("UpdateEndpoint") < order.index("RegisterScalableTarget")
    assert found.instance == "ml.m5.xlarge"
    bench.deploy(instance="ml.m5.xlarge")  # a fixed count again
    assert plane.others.targets == {}
    bench.delete()
    assert plane.inventory() == []


def test_scaling_is_in_place(plane: Plane, bench: Bench, kinds: Kinds) -> None:
    first = bench.deploy()
    plan = bench.plan(replicas_min=3, replicas_max=3)
    assert kinds(plan) == ["update capacity"]
    found = bench.deployer().apply(plan, bench.options)
    assert (found.replicas, found.generation) == (3, first.generation)


def test_tags_change_in_place(plane: Plane, bench: Bench) -> None:
    bench.deploy(replicas_max=2, tags={"team": "a", "old": "1"})
    plane.forget()
    bench.deploy(replicas_max=2, tags={"team": "b"})
    assert not {"sagemaker:CreateModel", "sagemaker:UpdateEndpoint"} & set(plane.writes())
    for one in bench.backend().observe("x").resources:
        assert (one.tags["team"], "old" in one.tags) == ("b", False), one.id


def test_somebody_elses_endpoint_is_not_touched(plane: Plane, bench: Bench) -> None:
    bench.deploy("other")
    config = plane.control.endpoints["other"].config
    bench.aws.call("sagemaker", "create_endpoint", EndpointName="x", EndpointConfigName=config)
    plane.sleep(1)
    with pytest.raises(ProvisioningError, match="not made by llama-hub"):
        bench.deploy("x")
    assert "x" in plane.control.endpoints
    assert not bench.backend().observe("x").find("endpoint")


def test_neighbours_share_the_weights(plane: Plane, bench: Bench) -> None:
    bench.deploy("x")
    plane.forget()
    bench.deploy("x-two")
    assert plane.writes().count("s3:PutObject") == 2  # the marker and the manifest
    bench.delete("x")
    assert ask(bench, "x-two") == "one two"
    proofs = bench.backend().prove("x-two", bench.artifact().manifest)
    assert all(proof.ok for proof in proofs)
    bench.delete("x-two")
    assert plane.inventory() == []


def test_ps_reads_all_pages(plane: Plane, bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.deploy(name)
    assert plane.page == 2
    assert [one.name for one in bench.backend().list()] == ["a", "b", "c"]


def test_pools_fall_back_to_the_next_type(plane: Plane, bench: Bench) -> None:
    plane.no_capacity = {"ml.m5.large"}
    bench.deploy(options={"fallback": ["ml.m5.xlarge"]})
    variant = plane.body_of("CreateEndpointConfig")["ProductionVariants"][0]
    assert [pool["InstanceType"] for pool in variant["InstancePools"]] == [
        "ml.m5.large",
        "ml.m5.xlarge",
    ]
    assert variant["VariantInstanceProvisionTimeoutInSeconds"] == 1800
    assert ask(bench) == "one two"


def test_vpc_keys_and_capture(plane: Plane, bench: Bench) -> None:
    options = {
        "subnets": ["subnet-1", "subnet-2"],
        "security_groups": ["sg-1"],
        "kms_key": "alias/weights",
        "data_capture": 20,
    }
    bench.deploy(options=options)
    config = plane.body_of("CreateEndpointConfig")
    assert config["KmsKeyId"] == "alias/weights"
    assert config["DataCaptureConfig"]["InitialSamplingPercentage"] == 20
    vpc = plane.body_of("CreateModel")["VpcConfig"]
    assert vpc == {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1", "subnet-2"]}
    policy = json.dumps(bench.backend().observe("x").all("role")[0].body["policy"])
    assert all(action in policy for action in ("kms:Decrypt", "ec2:CreateNetworkInterface"))


def test_asynchronous_answers_come_through_s3(plane: Plane, bench: Bench) -> None:
    bench.deploy(options={"asynchronous": True}, scale_to_zero=True, replicas_min=0, replicas_max=2)
    assert ask(bench) == "one two"
    assert not [key for key in plane.inventory() if "/async/" in key]
    ((resource, _),) = plane.others.targets
    assert resource == "endpoint/x/variant/AllTraffic"
    assert (
        bench.plan(
            options={"asynchronous": True}, scale_to_zero=True, replicas_min=0, replicas_max=2
        ).changes
        == ()
    )
    bench.delete()
    assert plane.inventory() == []


def test_scale_to_zero_with_a_component(plane: Plane, bench: Bench, kinds: Kinds) -> None:
    idle = {"scale_to_zero": True, "replicas_min": 0, "replicas_max": 2}
    found = bench.deploy(**idle)
    assert found.status == "ready"
    assert ask(bench) == "one two"
    target = plane.body_of("RegisterScalableTarget")
    assert (target["MinCapacity"], target["MaxCapacity"]) == (0, 2)
    (component,) = plane.control.components
    assert target["ResourceId"] == f"inference-component/{component}"
    assert plane.alarm_state("llama-hub/x/wake") is not None
    assert kinds(bench.plan(**idle)) == []

    plane.control.scale_component(component, 0)
    assert "asleep" in bench.backend().status("x").detail
    with pytest.raises(ProvisioningError, match="no capacity"):
        ask(bench)
    plane.control.scale_component(component, 1)

    bench.new_model("two")
    bench.deploy(**idle)
    (second,) = plane.control.components
    assert second != component
    assert ask(bench) == "one two"
    bench.delete()
    assert plane.inventory() == []


@pytest.mark.parametrize(("most", "first"), [(1, True), (2, False)])
def test_an_update_of_what_sleeps_finds_a_free_machine(
    plane: Plane, bench: Bench, most: int, first: bool
) -> None:
    """With one machine at most, the old component holds the accelerators that the new one needs."""
    idle = {"scale_to_zero": True, "replicas_min": 0, "replicas_max": most}
    spec = idle | {"instance": "ml.g5.2xlarge"}
    bench.deploy(**spec)
    bench.new_model("two")
    plan = bench.plan(**spec)
    told = [(step.action, step.note) for step in plan.steps if step.kind == "component"]
    assert [action for action, _ in told] == (
        ["delete", "create"] if first else ["create", "delete"]
    )
    assert ("nothing answers" in told[0][1]) == first
    assert bench.deploy(**spec).status == "ready"
    assert ask(bench) == "one two"
    assert bench.plan(**spec).changes == ()
    bench.delete()
    assert plane.inventory() == []


def test_costs_of_what_starts_and_of_both_revisions(plane: Plane, bench: Bench) -> None:
    bench.deploy(replicas_min=2, replicas_max=2)
    endpoint = plane.control.endpoints["x"]
    price = plane.prices["ml.m5.large"]
    assert bench.backend().status("x").cost_per_hour == pytest.approx(2 * price)
    endpoint.created -= 10 * 3600
    assert bench.backend().status("x").cost_so_far == pytest.approx(20 * price, rel=0.01)

    endpoint.status, endpoint.pending = "Updating", (endpoint.config, 3, plane.now() - 3600)
    found = bench.backend().status("x")
    assert found.cost_per_hour == pytest.approx(5 * price)
    assert found.cost_so_far == pytest.approx(23 * price, rel=0.01)

    endpoint.pending, endpoint.variants, kept = None, {}, endpoint.variants
    endpoint.status = "Creating"  # no variant is shown yet, and machines start
    assert bench.backend().status("x").cost_per_hour == pytest.approx(2 * price)
    endpoint.status = "Failed"  # nobody knows which of them are left
    assert bench.backend().status("x").cost_per_hour is None
    endpoint.status, endpoint.variants = "InService", kept


def test_new_things_are_listed_late(plane: Plane, bench: Bench) -> None:
    plane.listing_lag = 2
    bench.deploy(replicas_max=2)
    assert bench.plan(replicas_max=2).changes == ()


def test_the_image_is_built_in_the_cloud_once(plane: Plane, bench: Bench) -> None:
    bench.deploy(options={"image": None})
    image = plane.body_of("CreateModel")["PrimaryContainer"]["Image"]
    assert image.startswith("123456789012.dkr.ecr.us-east-1.amazonaws.com/llama-hub/x:")
    assert plane.others.projects == {}  # project, its role and the context are gone again
    assert not [one for one in plane.inventory() if "build" in one]
    plane.forget()
    bench.deploy(options={"image": None}, context=128)
    assert not [one for one in plane.writes() if one.startswith("codebuild")]
    bench.delete()
    assert plane.inventory() == []


def test_a_build_that_fails_is_told(plane: Plane, bench: Bench) -> None:
    plane.others.build_outcome = "FAILED"
    with pytest.raises(ProvisioningError, match="image could not be built"):
        bench.deploy(options={"image": None})
    assert "project" not in " ".join(plane.inventory())


def test_a_build_that_a_cut_off_run_has_left_is_joined(plane: Plane, bench: Bench) -> None:
    plane.others.build_looks = 1000

    def interrupt(seconds: float) -> None:
        if plane.others.builds:
            raise KeyboardInterrupt
        plane.sleep(seconds)

    bench.aws.sleep = interrupt
    with pytest.raises(KeyboardInterrupt):
        bench.deploy(options={"image": None})
    bench.aws.sleep = plane.sleep
    (build,) = plane.others.builds
    plane.others.builds[build]["buildStatus"] = "IN_PROGRESS"
    plane.tick(lambda: plane.others._built(build, plane.others.projects["llama-hub-x"]))
    assert bench.deploy(options={"image": None}).status == "ready"
    assert len(plane.others.builds) == 1
    assert plane.others.projects == {}
    bench.delete()
    assert plane.inventory() == []


def test_new_instances_and_late_streams_are_followed(plane: Plane, bench: Bench) -> None:
    bench.deploy()
    group = "/aws/sagemaker/Endpoints/x"
    lines = bench.backend().logs("x", tail=1, follow=True)
    assert next(lines) == "ready, 0 answers so far"

    def later(seconds: float) -> None:
        plane.write_log(group, "AllTraffic/i-new", ["a new instance", "is ready"])
        bench.aws.sleep = plane.sleep

    bench.aws.sleep = later
    assert [next(lines), next(lines)] == ["a new instance", "is ready"]


def test_logs_that_may_not_be_read_are_not_taken_for_none(plane: Plane, bench: Bench) -> None:
    bench.deploy()
    plane.denied = {"logs:*"}
    with pytest.raises(AccessError, match="logs:DescribeLogStreams"):
        list(bench.backend().logs("x"))
    plane.denied = set()
    plane.others.groups.clear()
    assert list(bench.backend().logs("x")) == []


def test_a_bucket_of_a_stranger_never_gets_the_weights(plane: Plane, bench: Bench) -> None:
    """Its name can be guessed, and its owner may have opened it to everybody."""
    theirs = s3.Bucket("us-east-1", owner="999999999999", is_public=True)
    plane.s3.buckets["sagemaker-us-east-1-123456789012"] = theirs
    with pytest.raises(AccessError) as caught:
        bench.deploy()
    assert "options.bucket" in caught.value.hint
    assert theirs.objects == {}
    assert plane.writes() == []


def test_a_stream_that_breaks_is_an_error(plane: Plane, bench: Bench) -> None:
    bench.deploy()
    plane.runtime.break_stream = True
    with pytest.raises(ProvisioningError, match="ModelStreamError"):
        list(bench.backend().invoke("x", CHAT | {"stream": True}, stream=True))


def test_streamed_lines_are_whole(plane: Plane, bench: Bench) -> None:
    bench.deploy()
    pieces = list(bench.backend().invoke("x", CHAT | {"stream": True}, stream=True))
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert len(pieces) > 1


def test_the_containers_own_refusal_is_shown(plane: Plane, bench: Bench) -> None:
    bench.deploy()
    serving(plane).status = 500
    with pytest.raises(ProvisioningError, match="500.*it broke"):
        ask(bench)
    serving(plane).status = 400
    with pytest.raises(UsageError, match="it broke"):
        ask(bench)
    big = {"messages": [{"role": "user", "content": "x" * 6_300_000}]}
    with pytest.raises(UsageError, match="6291456"):
        list(bench.backend().invoke("x", big, stream=False))


def test_orphans_are_found_and_removed(plane: Plane, bench: Bench) -> None:
    bench.deploy("x", replicas_max=2)
    bench.deploy("y")
    bench.aws.call(
        "application-autoscaling",
        "deregister_scalable_target",
        ServiceNamespace="sagemaker",
        ResourceId="endpoint/x/variant/AllTraffic",
        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
    )
    bench.aws.call("sagemaker", "delete_endpoint", EndpointName="x")
    plane.sleep(1)
    assert bench.aws.find("sagemaker", "describe_endpoint", EndpointName="x")
    found = list(bench.backend().orphans())
    assert {one.kind for one in found} == {"weights", "model", "config", "alarm", "role"}
    assert {one.tags[TAG_DEPLOYMENT] for one in found} == {"x"}


def test_lost_uploads_are_orphans(plane: Plane, bench: Bench) -> None:
    bench.deploy()
    bucket = bench.backend().inventory.bucket
    bench.aws.call(
        "s3", "create_multipart_upload", Bucket=bucket.name, Key="llama-hub/models/aa/big"
    )
    (lost,) = bench.backend().orphans()
    assert lost.id == "weights/-/aa"
    (step,) = bench.backend().plan_delete("-", type(bench.backend().observe("x"))((lost,)))
    from llama_hub.deploy.backend import Context

    bench.backend().execute(step, Context(None))
    assert list(bench.backend().orphans()) == []
    assert ask(bench) == "one two"


def test_a_foreign_bucket_keeps_its_rules(plane: Plane, bench: Bench) -> None:
    bench.aws.call("s3", "create_bucket", Bucket="ours-already")
    rule = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "z/"}} | {
        "Expiration": {"Days": 3}
    }
    bench.aws.call(
        "s3",
        "put_bucket_lifecycle_configuration",
        Bucket="ours-already",
        LifecycleConfiguration={"Rules": [rule]},
        ChecksumAlgorithm="SHA256",
    )
    from llama_hub.backends.sagemaker.backend import SageMakerBackend

    bench.backend = lambda: SageMakerBackend(aws=bench.aws, bucket="ours-already")  # type: ignore[method-assign]

    def rules() -> list[str]:
        found = bench.aws.call("s3", "get_bucket_lifecycle_configuration", Bucket="ours-already")
        return [one["ID"] for one in found["Rules"]]

    bench.deploy(options={"bucket": "ours-already"})
    assert rules() == ["theirs", "llama-hub-unfinished-uploads"]
    bench.delete()
    assert rules() == ["theirs"]
    assert plane.inventory() == ["bucket/ours-already"]


def test_quota_is_known_before_anything_is_sent(plane: Plane, bench: Bench) -> None:
    plane.quotas["ml.g5.2xlarge"] = 0
    with pytest.raises(QuotaError, match="the quota leaves 0"):
        bench.plan(instance="ml.g5.2xlarge")
    assert plane.writes() == []


def test_a_throttled_call_is_repeated(plane: Plane, bench: Bench) -> None:
    plane.faults = [
        Fault("sagemaker:Create*", times=3),
        Fault("s3:PutObject", times=2),
        Fault("sagemaker:CreateEndpoint", after=True),  # done, but the answer got lost
    ]
    assert bench.deploy().status == "ready"
