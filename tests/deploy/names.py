"""Finds the physical names of a template that two stacks, or two regions, would fight over."""

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.deploy.templates import Node

# The longest stack's name that docs/deploy.md allows, and the longest region's.
STACK = "s" * 36
REGION = "ap-northeast-1"
TAIL = "0123456789ab"
_NAMING = re.compile(r"(Name|Identifier|Id|Domain)$")
# Names inside something that is named itself, or that names nothing the stack makes, by type and property.
_INSIDE = {
    "AWS::CloudFront::Distribution": r"Origins|TargetOriginId|\w+PolicyId",
    "AWS::CloudWatch::Alarm": r"Metrics|MetricName|Dimensions",
    "AWS::Cognito::UserPool": r"AccountRecoverySetting",
    "AWS::Cognito::UserPoolClient": r"ClientName",
    "AWS::EC2::EIP": r"Domain",
    "AWS::EC2::LaunchTemplate": r"ImageId|DeviceName",
    "AWS::EC2::VPCEndpoint": r"ServiceName",
    # Several users of ElastiCache may have one name; their ids may not be equal.
    "AWS::ElastiCache::User": r"UserName",
    "AWS::IAM::Role": r"Policies",
    "AWS::Lambda::Alias": r"Name",
    "AWS::Logs::MetricFilter": r"MetricTransformations",
    "AWS::RDS::DBCluster": r"DatabaseName",
    "AWS::RDS::DBInstance": r"DBName",
    "AWS::RDS::DBProxyTargetGroup": r"TargetGroupName",
    "AWS::ApiGateway::Stage": r"StageName",
    "AWS::Serverless::Api": r"StageName",
}
# Services without regions: a name there is the account's.
GLOBAL = (
    "AWS::Budgets::Budget",
    "AWS::CloudFront::CachePolicy",
    "AWS::CloudFront::Function",
    "AWS::CloudFront::KeyGroup",
    "AWS::CloudFront::OriginAccessControl",
    "AWS::CloudFront::OriginRequestPolicy",
    "AWS::CloudFront::PublicKey",
    "AWS::CloudFront::ResponseHeadersPolicy",
    "AWS::CloudWatch::Dashboard",
    "AWS::IAM::Group",
    "AWS::IAM::InstanceProfile",
    "AWS::IAM::ManagedPolicy",
    "AWS::IAM::Role",
    "AWS::IAM::User",
    # Of all accounts.
    "AWS::S3::Bucket",
)
# Characters a name may have, from each service's API reference.
LONGEST = {
    "AWS::ApiGateway::RestApi": 255,
    "AWS::Budgets::Budget": 100,
    "AWS::CloudFront::Function": 64,
    "AWS::CloudFront::OriginAccessControl": 64,
    "AWS::CloudFront::ResponseHeadersPolicy": 128,
    "AWS::CloudWatch::Dashboard": 255,
    "AWS::Cognito::UserPool": 128,
    "AWS::Cognito::UserPoolDomain": 63,
    "AWS::ElastiCache::ServerlessCache": 40,
    "AWS::ElastiCache::User": 40,
    "AWS::ElastiCache::UserGroup": 40,
    "AWS::Lambda::Function": 64,
    "AWS::Lambda::LayerVersion": 140,
    "AWS::Logs::LogGroup": 512,
    "AWS::RDS::DBProxy": 63,
    "AWS::SNS::Topic": 256,
    "AWS::Scheduler::Schedule": 64,
    "AWS::Serverless::Api": 255,
    "AWS::Serverless::Function": 64,
    "AWS::Serverless::LayerVersion": 140,
}
# Types that get their resource's own name, one for all stacks, where none is given.
_BY_SAM = {"AWS::Serverless::LayerVersion": "LayerName", "AWS::Serverless::Api": "Name"}


def fixed(template: Node) -> list[str]:
    """Return the names that would be the same in another stack."""
    found = [
        place for place, kind, value in _named(template)
        if isinstance(value, str) or not _depends(value, ("AWS::StackName", "AWS::StackId"))
    ]  # fmt: skip
    for name, item in template["Resources"].items():
        if (missing := _BY_SAM.get(item["Type"])) and missing not in item["Properties"]:
            found.append(f"{name}.{missing}")
        for event, given in item.get("Properties", {}).get("Events", {}).items():
            if given["Type"] == "ScheduleV2" and "Name" not in given["Properties"]:
                found.append(f"{name}.Events.{event}.Name")
    return found


def without_region(template: Node) -> list[str]:
    """Return the names of services without regions that would be the same in another region."""
    return [
        place for place, kind, value in _named(template)
        if kind in GLOBAL and not _depends(value, ("AWS::Region", "AWS::StackId"))
    ]  # fmt: skip


def too_long(template: Node) -> list[str]:
    """Return the names that the longest stack's name makes too long, and those whose limit is not known."""
    return [
        f"{place}: {text}"
        for place, kind, value in _named(template)
        if isinstance(value, dict)
        for text in [_text(value)]
        if len(text) > LONGEST.get(kind, 0)
    ]


def _named(template: Node) -> Iterator[tuple[str, str, Any]]:
    for name, item in template["Resources"].items():
        kind = item["Type"]
        for path, value in _naming(item.get("Properties", {}), ()):
            if re.search(rf"(^|\.)({_INSIDE.get(kind, '$^')})(\.|$)", ".".join(path)) is None and not _other(
                value
            ):
                yield f"{name}.{'.'.join(path)}", kind, value


def _naming(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            # The events of a function are resources that SAM makes; their names count as its own.
            if _NAMING.search(key) and (isinstance(value, str) or _is_function(value)):
                yield (*path, key), value
            else:
                yield from _naming(value, (*path, key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _naming(value, (*path, str(number)))


def _is_function(value: Any) -> bool:
    return (
        isinstance(value, dict) and len(value) == 1 and re.match(r"Ref$|Fn::", next(iter(value))) is not None
    )


def _other(value: Any) -> bool:
    """Return whether a value only leads to something that the stack or its reader names elsewhere."""
    if isinstance(value, str):
        return False
    text = json.dumps(value)
    return (
        "Fn::GetAtt" in text
        or ("Ref" in value and not str(value["Ref"]).startswith("AWS::"))
        or "Fn::If" in value
    )


def _depends(value: Any, names: tuple[str, ...]) -> bool:
    return any(name in json.dumps(value) for name in names)


def _text(value: Any) -> str:
    """Return a name as CloudFormation makes it for the longest stack's name in the longest region's."""
    if "Ref" in value:
        text = f"${{{value['Ref']}}}"
    else:
        given = value["Fn::Sub"]
        text = given if isinstance(given, str) else given[0]
    for name, stands in (("AWS::StackName", STACK), ("AWS::Region", REGION), ("Tail", TAIL)):
        text = text.replace(f"${{{name}}}", stands)
    assert "${" not in text, text
    return text
