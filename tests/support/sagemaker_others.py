"""The smaller services around SageMaker: autoscaling, logs, quotas, prices, images and builds.

They keep what they are told, and refuse what does not exist; scaling never happens by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tests.support.sagemaker_refusals import ApiError, refusal

if TYPE_CHECKING:
    from tests.support.sagemaker_plane import Plane

Body = dict[str, Any]


class Others:
    """State of the smaller services; one method per operation, named after it."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.targets: dict[tuple[str, str], Body] = {}  # resource id, dimension
        self.policies: dict[tuple[str, str], Body] = {}  # resource id, policy name
        self.groups: dict[str, dict[str, list[str]]] = {}  # log group → stream → lines
        self.repositories: dict[str, dict[str, str]] = {}  # name → tag → digest
        self.repository_tags: dict[str, dict[str, str]] = {}
        self.projects: dict[str, Body] = {}
        self.builds: dict[str, Body] = {}
        self.build_outcome = "SUCCEEDED"
        self.build_looks = 0  # further looks at a build until it ends

    def inventory(self) -> list[str]:
        """Everything that exists."""
        return [
            *(f"scalable-target/{key[0]}" for key in self.targets),
            *(f"scaling-policy/{key[1]}" for key in self.policies),
            *(f"log-group/{key}" for key in self.groups),
            *(f"repository/{key}" for key in self.repositories),
            *(f"build-project/{key}" for key in self.projects),
        ]

    def targets_of(self, start: str) -> list[str]:
        """Resource ids of scalable targets that begin so."""
        return [key[0] for key in self.targets if key[0].startswith(start)]

    # --- application-autoscaling ----------------------------------------------------------

    def RegisterScalableTarget(self, body: Body) -> Body:
        kind, _, rest = body["ResourceId"].partition("/")
        name = rest.split("/")[0]
        control = self.plane.control
        known = control.endpoints if kind == "endpoint" else control.components
        if name not in known:
            raise ApiError("ValidationException", f"there is no {kind} {name}")
        least = body.get("MinCapacity", 1)
        asynchronous = kind == "endpoint" and "AsyncInferenceConfig" in control.configs.get(
            control.endpoints[name].config, {}
        )
        if kind == "endpoint" and least < 1 and not asynchronous:
            raise ApiError("ValidationException", "MinCapacity of a variant must be at least 1")
        key = (body["ResourceId"], body["ScalableDimension"])
        self.targets[key] = self.targets.get(key, {}) | body
        self._fit(kind, rest, body)
        return {"ScalableTargetARN": self._target_arn(key)}

    def _fit(self, kind: str, rest: str, body: Body) -> None:
        """Autoscaling brings the count into its range at once."""
        if kind == "endpoint":
            name, _, variant = rest.split("/")
            found = self.plane.control.endpoints[name].variants.get(variant)
            if found is not None:
                found.count = max(body["MinCapacity"], min(body["MaxCapacity"], found.count))

    def _target_arn(self, key: tuple[str, str]) -> str:
        place = f"{self.plane.region}:{self.plane.account}"
        return f"arn:aws:application-autoscaling:{place}:scalable-target/{abs(hash(key)):016x}"

    def DescribeScalableTargets(self, body: Body) -> Body:
        wanted = body.get("ResourceIds")
        found = [
            {key: value for key, value in one.items() if key != "Tags"}
            | {
                "ScalableTargetARN": self._target_arn(key),
                "RoleARN": "arn:aws:iam::123456789012:role/aws-service-role",
                "SuspendedState": {
                    "DynamicScalingInSuspended": False,
                    "DynamicScalingOutSuspended": False,
                    "ScheduledScalingSuspended": False,
                },
                "CreationTime": 0.0,
            }
            for key, one in self.targets.items()
            if not wanted or key[0] in wanted
        ]
        return {"ScalableTargets": found}

    def DeregisterScalableTarget(self, body: Body) -> None:
        key = (body["ResourceId"], body["ScalableDimension"])
        if key not in self.targets:
            raise ApiError("ObjectNotFoundException", f"No scalable target found for {key}")
        del self.targets[key]
        for policy in [one for one in self.policies if one[0] == key[0]]:
            del self.policies[policy]

    def PutScalingPolicy(self, body: Body) -> Body:
        if (body["ResourceId"], body["ScalableDimension"]) not in self.targets:
            raise ApiError("ObjectNotFoundException", "there is no such scalable target")
        self.policies[body["ResourceId"], body["PolicyName"]] = body
        return {"PolicyARN": self._policy_arn(body), "Alarms": []}

    def _policy_arn(self, body: Body) -> str:
        place = f"{self.plane.region}:{self.plane.account}"
        return (
            f"arn:aws:autoscaling:{place}:scalingPolicy:0:resource/sagemaker/"
            f"{body['ResourceId']}:policyName/{body['PolicyName']}"
        )

    def DescribeScalingPolicies(self, body: Body) -> Body:
        found = [
            _completed(one)
            | {"PolicyARN": self._policy_arn(one), "CreationTime": 0.0, "Alarms": []}
            for one in self.policies.values()
            if body.get("ResourceId") in (None, one["ResourceId"])
        ]
        return {"ScalingPolicies": found}

    def ListTagsForResource(self, body: Body) -> Body:
        if "resourceArn" in body:
            return self._repository_tags(body)
        for key, one in self.targets.items():
            if self._target_arn(key) == body["ResourceARN"]:
                return {"Tags": one.get("Tags", {})}
        raise ApiError("ResourceNotFoundException", "there is no such scalable target")

    def TagResource(self, body: Body) -> None:
        for key, one in self.targets.items():
            if self._target_arn(key) == body["ResourceARN"]:
                one["Tags"] = one.get("Tags", {}) | body["Tags"]

    def UntagResource(self, body: Body) -> None:
        for key, one in self.targets.items():
            if self._target_arn(key) == body["ResourceARN"]:
                for name in body["TagKeys"]:
                    one["Tags"].pop(name, None)

    # --- logs -----------------------------------------------------------------------------

    def DescribeLogStreams(self, body: Body) -> Body:
        streams = self._group(body["logGroupName"])
        return {
            "logStreams": [{"logStreamName": name, "lastEventTimestamp": 1} for name in streams]
        }

    def GetLogEvents(self, body: Body) -> Body:
        lines = self._group(body["logGroupName"])[body["logStreamName"]]
        start = int(body["nextToken"].split("/")[1]) if "nextToken" in body else 0
        if "nextToken" not in body:
            start = max(0, len(lines) - body.get("limit", 10000))
        events = [{"timestamp": n, "message": line} for n, line in enumerate(lines)][start:]
        return {"events": events, "nextForwardToken": f"f/{len(lines)}"}

    def DeleteLogGroup(self, body: Body) -> None:
        self._group(body["logGroupName"])
        del self.groups[body["logGroupName"]]

    def _group(self, name: str) -> dict[str, list[str]]:
        if name not in self.groups:
            raise ApiError("ResourceNotFoundException", "The specified log group does not exist.")
        return self.groups[name]

    # --- quotas and prices ----------------------------------------------------------------

    def ListServiceQuotas(self, body: Body) -> Body:
        return self._quota_page(body, self.plane.quotas)

    def ListAWSDefaultServiceQuotas(self, body: Body) -> Body:
        return self._quota_page(body, self.plane.default_quotas)

    def _quota_page(self, body: Body, known: Mapping[str, int]) -> Body:
        quotas = [
            {
                "QuotaName": f"{name} for endpoint usage" if name.startswith("ml.") else name,
                "QuotaCode": f"L-{n:08X}",
                "Value": float(v),
            }
            for n, (name, v) in enumerate(known.items())
        ]
        start = int(body.get("NextToken", "0"))
        page = quotas[start : start + 10]
        more = {"NextToken": str(start + 10)} if start + 10 < len(quotas) else {}
        return {"Quotas": page} | more

    def GetProducts(self, body: Body) -> Body:
        region = next(
            one["Value"] for one in body.get("Filters", []) if one["Field"] == "regionCode"
        )
        return {
            "FormatVersion": "aws_v1",
            "PriceList": [
                *(
                    json.dumps(_product(name, price, region))
                    for name, price in self.plane.prices.items()
                ),
                *(json.dumps(one) for one in self.plane.odd_products),
            ],
        }

    # --- keys -----------------------------------------------------------------------------

    def DescribeKey(self, body: Body) -> Body:
        id_ = body["KeyId"]
        if id_ not in self.plane.keys:
            raise ApiError("NotFoundException", f"Alias or key {id_} is not found.")
        state = self.plane.keys[id_]
        return {"KeyMetadata": {"KeyId": "k", "KeyState": state, "KeySpec": "SYMMETRIC_DEFAULT"}}

    # --- images ---------------------------------------------------------------------------

    def DescribeRepositories(self, body: Body) -> Body:
        wanted = body.get("repositoryNames") or list(self.repositories)
        missing = [name for name in wanted if name not in self.repositories]
        if missing:
            raise ApiError("RepositoryNotFoundException", f"The repository {missing} is not there")
        return {
            "repositories": [
                {"repositoryName": n, "repositoryArn": self._repository_arn(n)} for n in wanted
            ]
        }

    def _repository_arn(self, name: str) -> str:
        return f"arn:aws:ecr:{self.plane.region}:{self.plane.account}:repository/{name}"

    def CreateRepository(self, body: Body) -> Body:
        name = body["repositoryName"]
        if name in self.repositories:
            raise ApiError("RepositoryAlreadyExistsException", name)
        self.repositories[name] = {}
        self.repository_tags[name] = {one["Key"]: one["Value"] for one in body.get("tags", [])}
        return {"repository": {"repositoryName": name}}

    def _repository_tags(self, body: Body) -> Body:
        name = body["resourceArn"].split("repository/")[1]
        return {"tags": [{"Key": k, "Value": v} for k, v in self.repository_tags[name].items()]}

    def DescribeImages(self, body: Body) -> Body:
        if body.get("registryId", self.plane.account) != self.plane.account:
            arn = f"arn:aws:ecr:{self.plane.region}:{body['registryId']}:repository/x"
            known = {"who": "arn:aws:iam::123456789012:user/you", "resource": arn}
            raise refusal("denied", action="ecr:DescribeImages", **known)
        found = self.repositories.get(body["repositoryName"])
        if found is None:
            raise ApiError("RepositoryNotFoundException", body["repositoryName"])
        wanted = [one["imageTag"] for one in body.get("imageIds", [])] or list(found)
        if any(tag not in found for tag in wanted):
            raise ApiError("ImageNotFoundException", str(wanted))
        return {"imageDetails": [{"imageDigest": found[t], "imageTags": [t]} for t in wanted]}

    def DeleteRepository(self, body: Body) -> None:
        if body["repositoryName"] not in self.repositories:
            raise ApiError("RepositoryNotFoundException", body["repositoryName"])
        del self.repositories[body["repositoryName"]]

    # --- builds ---------------------------------------------------------------------------

    def CreateProject(self, body: Body) -> Body:
        if body["name"] in self.projects:
            raise ApiError("ResourceAlreadyExistsException", body["name"])
        self.plane.roles.check_build(body["serviceRole"])
        self.projects[body["name"]] = body
        return {"project": {"name": body["name"]}}

    def BatchGetProjects(self, body: Body) -> Body:
        found = [{"name": name} for name in body["names"] if name in self.projects]
        return {"projects": found}

    def ListProjects(self, body: Body) -> Body:
        return {"projects": list(self.projects)} if self.projects else {}

    def StartBuild(self, body: Body) -> Body:
        project = self.projects[body["projectName"]]
        id_ = f"{body['projectName']}:{len(self.builds)}"
        self.builds[id_] = {"id": id_, "buildStatus": "IN_PROGRESS", "logs": {}} | {
            "currentPhase": "BUILD",
            "projectName": body["projectName"],
        }
        self._work(id_, project, self.build_looks)
        return {"build": self.builds[id_]}

    def _work(self, id_: str, project: Mapping[str, Any], looks: int) -> None:
        more = looks - 1
        if looks:
            self.plane.tick(lambda: self._work(id_, project, more))
        else:
            self.plane.tick(lambda: self._built(id_, project))

    def ListBuildsForProject(self, body: Body) -> Body:
        if body["projectName"] not in self.projects:
            raise ApiError("ResourceNotFoundException", f"Project {body['projectName']} not found")
        mine = [id_ for id_ in self.builds if id_.startswith(f"{body['projectName']}:")]
        return {"ids": mine[::-1]}

    def _built(self, id_: str, project: Mapping[str, Any]) -> None:
        bucket, _, key = project["source"]["location"].partition("/")
        assert key in self.plane.s3.buckets[bucket].objects, "the context must be there"
        self.builds[id_] |= {"buildStatus": self.build_outcome, "currentPhase": "COMPLETED"}
        variables = {
            one["name"]: one["value"] for one in project["environment"]["environmentVariables"]
        }
        if self.build_outcome == "SUCCEEDED":
            name, _, tag = variables["IMAGE"].partition("/")[2].rpartition(":")
            if tag in self.repositories[name]:  # tags of our repositories cannot be overwritten
                self.builds[id_]["buildStatus"] = "FAILED"
            self.repositories[name][tag] = "sha256:" + "0" * 64

    def BatchGetBuilds(self, body: Body) -> Body:
        return {"builds": [self.builds[id_] for id_ in body["ids"] if id_ in self.builds]}

    def DeleteProject(self, body: Body) -> None:
        for id_ in (
            self.ListBuildsForProject({"projectName": body["name"]})["ids"]
            if (body["name"] in self.projects)
            else ()
        ):
            if self.builds[id_]["buildStatus"] == "IN_PROGRESS":
                self.plane.problems.append(f"{body['name']} was deleted while it built")
        self.projects.pop(body["name"], None)


def _completed(policy: Body) -> Body:
    """As the service shows it: with what nobody has set."""
    name = "TargetTrackingScalingPolicyConfiguration"
    if name not in policy:
        return dict(policy)
    return policy | {name: policy[name] | {"DisableScaleIn": False}}


def _product(name: str, price: float, region: str) -> Body:
    dimensions = {"x.y": {"unit": "Hrs", "pricePerUnit": {"USD": f"{price:.10f}"}}}
    return {
        "product": {
            "attributes": {
                "instanceName": name,
                "regionCode": region,
                "component": "Hosting",
                "usagetype": f"Host:{name}",
            }
        },
        "terms": {"OnDemand": {"x": {"priceDimensions": dimensions}}},
    }
