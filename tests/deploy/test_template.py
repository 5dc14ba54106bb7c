"""The template and the code agree, and the template grants no more than the code needs."""

import asyncio
import fnmatch
import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography import x509
from starlette.testclient import TestClient

from local.parameters import parameters
from local.site_config import site_config
from parley import bootstrap
from parley.settings import Settings
from tests.deploy import names
from tests.deploy.templates import ROOT, Node, load, of_type, walk

TEMPLATE = load()
RESOURCES = TEMPLATE["Resources"]
FUNCTIONS = of_type(TEMPLATE, "AWS::Serverless::Function")
GLOBALS = TEMPLATE["Globals"]["Function"]
SETTINGS = {item.metadata["name"]: item for item in fields(Settings)}
# What the platform reads, not Parley.
PLATFORM = re.compile(r"AWS_LWA_[A-Z_]+|AWS_LAMBDA_EXEC_WRAPPER|POWERTOOLS_METRICS_NAMESPACE")
HTTP = ("start", "history", "stream")
CERTIFICATES = sorted((ROOT / "layers/common/parley/aws/certificates").iterdir())


def folder(name: str) -> str:
    """Return the folder of a function, which names it."""
    return str(FUNCTIONS[name]["Properties"]["CodeUri"]).removeprefix("functions/")


NAMES = {folder(name): name for name in FUNCTIONS}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AUTH_MODE", "trusted")
    monkeypatch.setenv("ALLOW_TRUSTED", "true")
    bootstrap.settings.cache_clear()
    yield
    bootstrap.settings.cache_clear()


def environment(name: str) -> Node:
    own = FUNCTIONS[name]["Properties"].get("Environment", {}).get("Variables", {})
    return {**GLOBALS["Environment"]["Variables"], **own}


def keys_template() -> Node:
    generate = RESOURCES["KeysSecret"]["Properties"]["GenerateSecretString"]
    return {**json.loads(generate["SecretStringTemplate"]), generate["GenerateStringKey"]: ""}


def imported(module: str) -> ModuleType:
    """Import a module where an event loop runs: Mangum makes one where there is none, and leaves it."""

    async def load() -> ModuleType:
        return importlib.import_module(module)

    return asyncio.run(load())


# --- functions ---------------------------------------------------------------------------------------


def test_every_folder_is_deployed_and_nothing_else() -> None:
    folders = {path.parent.name for path in (ROOT / "functions").glob("*/app.py")}
    assert set(NAMES) == folders
    assert all((ROOT / "functions" / name).is_dir() for name in NAMES)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"stream"}))
def test_the_handler_can_be_imported(name: str) -> None:
    handler = FUNCTIONS[NAMES[name]]["Properties"].get("Handler", GLOBALS["Handler"])
    module, _, attribute = handler.rpartition(".")
    assert callable(getattr(imported(f"functions.{name}.{module}"), attribute))


def test_stream_is_started_by_the_adapter() -> None:
    stream = FUNCTIONS[NAMES["stream"]]["Properties"]
    script = ROOT / "functions/stream" / stream["Handler"]
    text = script.read_text("utf-8")
    variables = environment(NAMES["stream"])
    assert script.stat().st_mode & 0o111
    assert "\r" not in text
    assert "/opt/python" in text
    assert "uvicorn app:handler" in text
    assert "--no-access-log" in text
    assert variables["AWS_LAMBDA_EXEC_WRAPPER"] == "/opt/bootstrap"
    assert variables["AWS_LWA_INVOKE_MODE"] == "response_stream"
    # Without a `with`, so that nothing is started: the adapter asks before anything was needed.
    client = TestClient(imported("functions.stream.app").handler)
    assert client.get(variables["AWS_LWA_READINESS_CHECK_PATH"]).status_code < 300
    assert client.post(variables["AWS_LWA_PASS_THROUGH_PATH"], json={}).status_code == 404


def test_functions_and_layer_are_of_one_kind() -> None:
    (layer,) = of_type(TEMPLATE, "AWS::Serverless::LayerVersion").values()
    assert GLOBALS["Runtime"] == "python3.13"
    assert GLOBALS["Architectures"] == ["arm64"]
    assert layer["Properties"]["CompatibleRuntimes"] == ["python3.13"]
    assert layer["Properties"]["CompatibleArchitectures"] == ["arm64"]
    assert layer["Metadata"] == {"BuildMethod": "makefile", "BuildArchitecture": "arm64"}
    assert layer["Properties"]["ContentUri"] == "layers/common"
    recipe = (ROOT / "layers/common/Makefile").read_text("utf-8")
    assert f"build-{next(iter(of_type(TEMPLATE, 'AWS::Serverless::LayerVersion')))}:" in recipe
    assert "--require-hashes" in recipe
    assert "--only-binary :all:" in recipe
    assert "ARCHITECTURE ?= arm64" in recipe
    # The recipe puts the folder's content into python/; one more level and Lambda would import nothing.
    assert (ROOT / "layers/common/parley/__init__.py").is_file()
    assert not (ROOT / "layers/common/python").exists()
    for function in FUNCTIONS.values():
        assert not {"Runtime", "Architectures"} & function["Properties"].keys()


def test_new_code_never_meets_the_old_schema() -> None:
    layer = next(iter(of_type(TEMPLATE, "AWS::Serverless::LayerVersion")))
    assert RESOURCES["Schema"]["Properties"]["Code"] == {"Ref": layer}
    for name in set(FUNCTIONS) - {NAMES["migrate"]}:
        assert FUNCTIONS[name]["DependsOn"] == "Schema"


def test_a_stream_outlives_its_provider() -> None:
    timeout = TEMPLATE["Parameters"]["StreamTimeout"]["Default"]
    settings = Settings()
    assert timeout > settings.provider_total_seconds + settings.deadline_margin_seconds
    assert timeout <= 900


# --- environment -------------------------------------------------------------------------------------


def test_the_environment_is_what_the_settings_read() -> None:
    given = {name for function in FUNCTIONS for name in environment(function) if not PLATFORM.fullmatch(name)}
    untouched = TEMPLATE["Metadata"]["Parley"]["SettingsAtTheirDefaults"]
    secret = set(keys_template())
    assert len(untouched) == len(set(untouched))
    assert not given & set(untouched)
    assert not secret & set(untouched)
    assert given | secret | set(untouched) == set(SETTINGS)


def test_secrets_are_in_no_environment() -> None:
    for function in FUNCTIONS:
        variables = environment(function)
        for name, item in SETTINGS.items():
            if item.metadata["secret"] and name not in ("DATABASE_URL", "VALKEY_URL"):
                assert variables.get(name, "") == ""
        # These two name a host; the login comes from a secret.
        urls = json.dumps([variables["DATABASE_URL"], variables["VALKEY_URL"]])
        assert "@" not in urls.replace('"parley_app@"', "")
    assert all(SETTINGS[name].metadata["secret"] for name in keys_template())


def test_the_stack_s_database_shows_its_certificate() -> None:
    assert TEMPLATE["Parameters"]["DatabaseTls"]["Default"] == "verify-full"
    checks = {
        "Fn::If": [
            "ChecksCertificate",
            {
                "Fn::Sub": "sslmode=verify-full"
                "&sslrootcert=/opt/python/parley/aws/certificates/${AWS::Region}.pem"
            },
            "sslmode=require",
        ]
    }
    for function in FUNCTIONS:
        url, values = environment(function)["DATABASE_URL"]["Fn::If"][1]["Fn::Sub"]
        assert url.endswith(":5432/parley?${Tls}")
        assert values["Tls"] == checks


@pytest.mark.parametrize("file", CERTIFICATES, ids=lambda file: file.stem)
def test_a_region_s_file_has_the_authorities_of_its_databases_and_proxies(file: Path) -> None:
    found = x509.load_pem_x509_certificates(file.read_bytes())
    names = [one.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value for one in found]
    kinds = ("RSA2048", "RSA4096", "ECC384")
    assert names == [f"Amazon RDS {file.stem} Root CA {kind} G1" for kind in kinds] + [
        f"Amazon Root CA {number}" for number in range(1, 5)
    ]
    for one in found:
        one.verify_directly_issued_by(one)
        assert one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_most_regions_have_a_file() -> None:
    assert {"us-east-1", "eu-west-1", "eu-central-1", "ap-southeast-2"} <= {one.stem for one in CERTIFICATES}


def test_the_local_environment_names_only_declared_variables() -> None:
    local = json.loads((ROOT / "env.json").read_text("utf-8"))["Parameters"]
    assert set(local) <= set(GLOBALS["Environment"]["Variables"])
    assert Settings.from_env(local | {"AWS_LAMBDA_FUNCTION_NAME": "parley"}).demo_model


def test_the_default_deployment_verifies_tokens() -> None:
    parameters = TEMPLATE["Parameters"]
    assert parameters["AuthMode"]["Default"] == "jwt"
    assert parameters["AllowTrusted"]["Default"] == "false"
    variables = GLOBALS["Environment"]["Variables"]
    assert variables["AUTH_MODE"] == {"Ref": "AuthMode"}
    assert variables["ALLOW_TRUSTED"] == {"Ref": "AllowTrusted"}


def refusals(**given: str) -> list[str]:
    """Return what CloudFormation says to these parameters before it makes anything."""
    values = {name: str(item["Default"]) for name, item in TEMPLATE["Parameters"].items()} | given

    def value(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        [(function, argument)] = node.items()
        match function:
            case "Ref":
                return values[argument]
            case "Fn::Equals":
                return value(argument[0]) == value(argument[1])
            case "Fn::Not":
                return not value(argument[0])
            case "Fn::And":
                return all(map(value, argument))
            case "Fn::Join":
                return argument[0].join(map(value, argument[1]))
        raise ValueError(function)

    return [
        assertion["AssertDescription"]
        for rule in TEMPLATE["Rules"].values()
        if value(rule["RuleCondition"])
        for assertion in rule["Assertions"]
        if not value(assertion["Assert"])
    ]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"UserPool": "none"}, ["JwtIssuer", "JwtAudience or JwtClientId"]),
        ({"UserPool": "none", "JwtIssuer": "https://issuer.example"}, ["JwtAudience or JwtClientId"]),
        ({"AuthMode": "trusted"}, ["AllowTrusted", "UrlAccess"]),
        ({"AuthMode": "trusted", "AllowTrusted": "true"}, ["UrlAccess"]),
        ({"UrlAccess": "iam"}, ["Site no"]),
        ({"UrlAccess": "iam", "Site": "no", "StreamDoor": "api-gateway"}, ["StreamDoor"]),
        ({"Database": "external"}, ["DatabaseSecretArn"]),
        ({"DatabaseLogin": "iam", "DatabaseProxy": "yes"}, ["DatabaseLogin"]),
        ({"DomainName": "chat.example"}, ["CertificateArn"]),
        ({"MonthlyBudget": "5"}, ["AlarmEmail"]),
    ],
)
def test_a_deployment_that_makes_no_sense_is_refused(given: dict[str, str], named: list[str]) -> None:
    found = refusals(**given)
    assert len(found) == len(named)
    assert all(name in said for name, said in zip(named, found, strict=True))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"UserPool": "none", "JwtIssuer": "https://issuer.example", "JwtAudience": "parley"},
        {"AuthMode": "trusted", "AllowTrusted": "true", "UrlAccess": "iam", "Site": "no"},
        {"Database": "external", "DatabaseSecretArn": "arn", "Valkey": "none"},
        {"DatabaseLogin": "iam", "Database": "rds"},
    ],
)
def test_a_deployment_that_makes_sense_is_not(given: dict[str, str]) -> None:
    assert refusals(**given) == []


# --- front doors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode"), [("start", "BUFFERED"), ("history", "BUFFERED"), ("stream", "RESPONSE_STREAM")]
)
def test_each_http_function_has_a_public_url(name: str, mode: str) -> None:
    function = NAMES[name]
    prefix = function.removesuffix("Function")
    url = RESOURCES[f"{prefix}Url"]["Properties"]
    assert url["InvokeMode"] == mode
    items = [
        item
        for item in of_type(TEMPLATE, "AWS::Lambda::Permission").values()
        if item["Properties"]["FunctionName"] == url["TargetFunctionArn"]
        and item["Properties"]["Principal"] == "*"
    ]
    grants = [item["Properties"] for item in items]
    # With UrlAccess iam, the functions have no public permission and their URLs take signed requests only.
    assert url["AuthType"] == {"Fn::If": ["PublicUrls", "NONE", "AWS_IAM"]}
    assert TEMPLATE["Conditions"]["PublicUrls"] == {"Fn::Equals": [{"Ref": "UrlAccess"}, "public"]}
    assert all(item.get("Condition") == "PublicUrls" for item in items)
    # New URLs need both, and the second must not open the function to anybody's Invoke.
    assert {grant["Action"] for grant in grants} == {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}
    assert all(grant.get("FunctionUrlAuthType") or grant.get("InvokedViaFunctionUrl") for grant in grants)


def test_with_closed_urls_nobody_is_let_in_who_is_not_named() -> None:
    for name, item in of_type(TEMPLATE, "AWS::Lambda::Permission").items():
        if item["Properties"]["Principal"] == "*":
            assert item.get("Condition") == "PublicUrls", name


def test_only_http_functions_are_public() -> None:
    assert {name.removesuffix("Url") for name in of_type(TEMPLATE, "AWS::Lambda::Url")} == {
        NAMES[name].removesuffix("Function") for name in HTTP
    }


def test_cors_comes_from_the_application_alone() -> None:
    keys = {key for node in walk(RESOURCES) if isinstance(node, dict) for key in node}
    assert not keys & {"Cors", "CorsConfig", "CorsConfiguration"}
    assert "access-control-allow" not in json.dumps(RESOURCES).lower()
    assert GLOBALS["Environment"]["Variables"]["ALLOWED_ORIGINS"] == {"Ref": "AllowedOrigins"}


def origins_of(path: str) -> str:
    config = RESOURCES["Distribution"]["Properties"]["DistributionConfig"]
    for behaviour in config["CacheBehaviors"]:
        if fnmatch.fnmatchcase(path, behaviour["PathPattern"]):
            return str(behaviour["TargetOriginId"])
    return str(config["DefaultCacheBehavior"]["TargetOriginId"])


@pytest.mark.parametrize("name", HTTP)
def test_every_route_is_reached_through_the_site(name: str) -> None:
    chat = {
        path for path in imported(f"functions.{name}.app").app.openapi()["paths"] if path.startswith("/chat/")
    }
    assert chat
    assert {origins_of(f"/api{path}") for path in chat} == {name}


def test_the_site_neither_caches_nor_logs_what_is_private() -> None:
    config = RESOURCES["Distribution"]["Properties"]["DistributionConfig"]
    assert "Logging" not in config
    for behaviour in config["CacheBehaviors"]:
        assert behaviour["CachePolicyId"] == "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
        assert behaviour["ViewerProtocolPolicy"] == "https-only"
        assert behaviour["Compress"] is False
    # Error pages of the distribution would replace the functions' own answers, and a 404 of theirs.
    assert "CustomErrorResponses" not in config


def test_the_site_has_the_policy_of_the_page() -> None:
    config = RESOURCES["SiteHeaders"]["Properties"]["ResponseHeadersPolicyConfig"]["SecurityHeadersConfig"]
    text = config["ContentSecurityPolicy"]["ContentSecurityPolicy"]["Fn::Sub"][0]
    stated = {rule.split()[0]: rule.split()[1:] for rule in text.replace("${Login}", "").split(";")}
    assert stated == json.loads((ROOT / "web/csp.json").read_text("utf-8"))


def test_login_returns_to_a_page_of_the_site() -> None:
    (callback,) = RESOURCES["SiteClient"]["Properties"]["CallbackURLs"]
    page = callback["Fn::Sub"].removeprefix("${SiteUrl}/")
    assert (ROOT / "web/public" / page).is_file()
    outputs = {name: name for name in TEMPLATE["Outputs"]}
    auth = site_config(outputs)["auth"]
    assert auth == {
        "kind": "bearer",
        "signInUrl": f"/{page}",
        "loginUrl": "LoginUrl",
        "clientId": "UserPoolClientId",
    }


def test_the_api_before_the_fallback_streams_its_responses() -> None:
    paths = RESOURCES["StreamApi"]["Properties"]["DefinitionBody"]["paths"]
    integration = paths["/chat/stream"]["get"]["x-amazon-apigateway-integration"]
    assert integration["responseTransferMode"] == "STREAM"
    assert "2021-11-15" in json.dumps(integration["uri"])
    assert "response-streaming-invocations" in json.dumps(integration["uri"])
    assert integration["timeoutInMillis"] >= TEMPLATE["Parameters"]["StreamTimeout"]["Default"] * 1000


# --- rights ------------------------------------------------------------------------------------------


def statements() -> Iterator[tuple[str, Node]]:
    kinds = {**of_type(TEMPLATE, "AWS::IAM::Role"), **of_type(TEMPLATE, "AWS::IAM::ManagedPolicy")}
    for name, item in kinds.items():
        documents = [policy["PolicyDocument"] for policy in item["Properties"].get("Policies", [])]
        if "PolicyDocument" in item["Properties"]:
            documents.append(item["Properties"]["PolicyDocument"])
        for document in documents:
            for statement in document["Statement"]:
                yield name, statement["Fn::If"][1] if "Fn::If" in statement else statement


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_no_action_is_a_wildcard() -> None:
    for name, statement in statements():
        for action in listed(statement["Action"]):
            assert "*" not in action, name


def test_everything_that_has_a_resource_names_it() -> None:
    unbounded = {
        action
        for _, statement in statements()
        if statement["Effect"] == "Allow" and "*" in map(str, listed(statement["Resource"]))
        for action in listed(statement["Action"])
    }
    # None of these can be given a resource.
    assert {action.split(":")[0] for action in unbounded} == {"xray", "ec2"}
    denied = [statement for _, statement in statements() if statement["Effect"] == "Deny"]
    assert len(denied) == 1
    assert {a for a in unbounded if a.startswith("ec2:")} == set(denied[0]["Action"])


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_function_has_a_role_of_its_own(name: str) -> None:
    properties = FUNCTIONS[NAMES[name]]["Properties"]
    role = properties["Role"]["Fn::GetAtt"][0]
    prefix = NAMES[name].removesuffix("Function")
    assert role == f"{prefix}Role"
    assert "Policies" not in properties
    # Neither does the old code lose a right while the migration runs.
    assert RESOURCES[role].get("DependsOn") == (None if name == "migrate" else "Schema")
    login = {"Fn::If": ["IamLogin", {"Ref": "LoginPolicy"}, {"Ref": "AWS::NoValue"}]}
    shared = [{"Ref": "CommonPolicy"}] + ([login] if name != "migrate" else [])
    assert RESOURCES[role]["Properties"]["ManagedPolicyArns"] == shared
    own = [statement for owner, statement in statements() if owner == role]
    assert {s["Sid"] for s in own} == {"Secrets", "Logs"}
    for statement in own:
        if statement["Sid"] == "Logs":
            assert statement["Resource"] == {"Fn::GetAtt": [f"{prefix}Logs", "Arn"]}
    logs = RESOURCES[f"{prefix}Logs"]["Properties"]["LogGroupName"]["Fn::Sub"]
    assert logs == f"/aws/lambda/{properties['FunctionName']['Fn::Sub']}"


def test_migrate_cannot_read_the_keys() -> None:
    for role, statement in statements():
        reads = {"Ref": "KeysSecret"} in listed(statement["Resource"])
        assert not (reads and role == "MigrateRole")


OWNER = {
    "Fn::If": [
        "Aurora",
        {"Fn::GetAtt": ["AuroraCluster", "MasterUserSecret.SecretArn"]},
        {
            "Fn::If": [
                "Rds",
                {"Fn::GetAtt": ["RdsInstance", "MasterUserSecret.SecretArn"]},
                {"Ref": "DatabaseSecretArn"},
            ]
        },
    ]
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_only_migrate_logs_in_as_the_schema_s_owner(name: str) -> None:
    # By a role, or by the password of a user that migrate lets in. A database elsewhere has one login.
    login = {"Fn::If": ["PasswordLogin", {"Ref": "DatabaseUserSecret"}, {"Ref": "DatabaseSecretArn"}]}
    user: Node = {"Fn::If": ["IamLogin", "", login]}
    assert environment(NAMES[name])["DATABASE_SECRET_ARN"] == (OWNER if name == "migrate" else user)
    role = f"{NAMES[name].removesuffix('Function')}Role"
    [reads] = [s for owner, s in statements() if owner == role and s["Sid"] == "Secrets"]
    allowed = listed(reads["Resource"])
    assert (OWNER in allowed) == (name == "migrate")
    assert "MasterUserSecret" not in json.dumps(allowed) or name == "migrate"
    assert {"Fn::If": ["IamLogin", {"Ref": "AWS::NoValue"}, login]} in allowed or name == "migrate"


def test_the_database_s_user_has_a_password_of_its_own_or_none() -> None:
    schema = RESOURCES["Schema"]["Properties"]
    secret = RESOURCES["DatabaseUserSecret"]
    made = secret["Properties"]["GenerateSecretString"]
    assert schema["LetIn"] == {"Fn::If": ["OwnDatabase", "parley_app", ""]}
    assert schema["LetInSecret"] == {"Fn::If": ["PasswordLogin", {"Ref": "DatabaseUserSecret"}, ""]}
    assert secret["Condition"] == "PasswordLogin"
    assert json.loads(made["SecretStringTemplate"]) == {"username": "parley_app"}
    assert (made["GenerateStringKey"], made["ExcludePunctuation"]) == ("password", True)
    # Either of the two logins, for any database of the stack.
    conditions = TEMPLATE["Conditions"]
    by_role = {"Fn::Equals": [{"Ref": "DatabaseLogin"}, "iam"]}
    own = {"Condition": "OwnDatabase"}
    assert conditions["IamLogin"] == {"Fn::And": [own, by_role]}
    assert conditions["PasswordLogin"] == {"Fn::And": [own, {"Fn::Not": [by_role]}]}
    proxied = [auth["SecretArn"] for auth in RESOURCES["DatabaseProxyEndpoint"]["Properties"]["Auth"]]
    assert {"Ref": "DatabaseUserSecret"} in proxied
    [reads] = [s for owner, s in statements() if owner == "DatabaseProxyRole"]
    assert listed(reads["Resource"]) == [proxied[1], proxied[0]]


def test_the_cache_asks_for_a_password_that_only_its_secret_holds() -> None:
    assert RESOURCES["Cache"]["Properties"]["UserGroupId"] == {"Ref": "CacheUsers"}
    users = RESOURCES["CacheUsers"]["Properties"]
    user = RESOURCES["CacheUser"]["Properties"]
    assert users["UserIds"] == [{"Ref": "CacheUser"}]
    [password] = user["AuthenticationMode"]["Passwords"]
    assert password == {"Fn::Sub": "{{resolve:secretsmanager:${ValkeySecret}:SecretString:password}}"}
    made = RESOURCES["ValkeySecret"]["Properties"]["GenerateSecretString"]
    assert json.loads(made["SecretStringTemplate"]) == {"username": user["UserName"]}
    assert made["GenerateStringKey"] == "password"
    # What ElastiCache takes; the name is in a URL, and the ids are of an account, for any stack.
    assert 16 <= made["PasswordLength"] <= 128
    assert made["ExcludePunctuation"]
    for resource, name in ((user, "UserId"), (users, "UserGroupId")):
        text, parts = resource[name]["Fn::Sub"]
        assert "StackId" in json.dumps(parts)
        assert re.fullmatch(r"[a-z]([a-z0-9]|-(?!-|$)){0,39}", text.replace("${Tail}", "0123456789ab"))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_who_uses_the_cache_may_read_its_login_and_migrate_may_not(name: str) -> None:
    secret = {"Fn::If": ["OwnValkey", {"Ref": "ValkeySecret"}, {"Ref": "AWS::NoValue"}]}
    role = f"{NAMES[name].removesuffix('Function')}Role"
    [reads] = [s for owner, s in statements() if owner == role and s["Sid"] == "Secrets"]
    assert (secret in listed(reads["Resource"])) == (name != "migrate")
    assert environment(NAMES[name])["VALKEY_SECRET_ARN"] == {
        "Fn::If": ["OwnValkey", {"Ref": "ValkeySecret"}, ""]
    }


def test_nothing_is_open_to_the_world_but_the_urls() -> None:
    for kind in ("AWS::RDS::DBInstance",):
        for item in of_type(TEMPLATE, kind).values():
            assert item["Properties"]["PubliclyAccessible"] is False
    for item in of_type(TEMPLATE, "AWS::EC2::SecurityGroup").values():
        for rule in item["Properties"].get("SecurityGroupIngress", []):
            assert "CidrIp" not in rule
            assert "CidrIpv6" not in rule
    assert all(RESOURCES["SiteBucket"]["Properties"]["PublicAccessBlockConfiguration"].values())


# --- the file itself ---------------------------------------------------------------------------------


def test_data_outlives_the_stack() -> None:
    for name in ("AuroraCluster", "RdsInstance"):
        assert RESOURCES[name]["DeletionPolicy"] == "Snapshot"
        assert RESOURCES[name]["UpdateReplacePolicy"] == "Snapshot"
    assert RESOURCES["Users"]["DeletionPolicy"] == "Retain"


# `make deploy-check` asks the same of what SAM makes of the template (tests/deploy/translated.py).


def test_two_stacks_fit_into_one_account_and_region() -> None:
    assert names.fixed(TEMPLATE) == []


def test_a_stack_of_one_name_fits_into_two_regions() -> None:
    assert names.without_region(TEMPLATE) == []


def test_a_stack_with_the_longest_name_keeps_every_limit() -> None:
    assert names.too_long(TEMPLATE) == []
    assert f"at most {len(names.STACK)} characters" in (ROOT / "docs/deploy.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("kind", "properties", "found"),
    [
        ("AWS::SNS::Topic", {"TopicName": "alarms"}, ["fixed"]),
        ("AWS::SNS::Topic", {"TopicName": {"Fn::Sub": "${AWS::Region}-alarms"}}, ["fixed"]),
        ("AWS::SNS::Topic", {"TopicName": {"Ref": "AWS::StackName"}}, []),
        ("AWS::CloudFront::Function", {"Name": {"Ref": "AWS::StackName"}}, ["without_region"]),
        ("AWS::ElastiCache::ServerlessCache", {"ServerlessCacheName": {"Fn::Sub": "${AWS::StackName}-cache"}},
         ["too_long"]),
        ("AWS::Serverless::LayerVersion", {}, ["fixed"]),
        (
            "AWS::Serverless::Function",
            {"Events": {"Often": {"Type": "ScheduleV2", "Properties": {}}}},
            ["fixed"],
        ),
    ],
)  # fmt: skip
def test_a_name_that_collides_is_found(kind: str, properties: Node, found: list[str]) -> None:
    template = {"Resources": {"It": {"Type": kind, "Properties": properties}}}
    checks = {"fixed": names.fixed, "without_region": names.without_region, "too_long": names.too_long}
    assert [name for name in checks if name in found and checks[name](template)] == found
    assert found or not any(check(template) for check in checks.values())


def test_the_api_before_the_stream_has_the_stage_of_the_template_alone() -> None:
    assert TEMPLATE["Globals"]["Api"]["OpenApiVersion"] == "3.0.1"
    assert RESOURCES["StreamApi"]["Properties"]["StageName"] == "live"


@pytest.mark.parametrize("by_api", [True, False])
def test_the_alarm_of_the_stream_counts_the_failures_of_every_door(by_api: bool) -> None:
    def chosen(node: Any) -> Any:
        if isinstance(node, dict) and "Fn::If" in node:
            condition, yes, no = node["Fn::If"]
            assert condition == "StreamByApi"
            return yes if by_api else no
        return node

    metrics = [
        item for item in map(chosen, RESOURCES["StreamErrors"]["Properties"]["Metrics"]) if "Ref" not in item
    ]
    [total] = [item for item in metrics if item["ReturnData"]]
    counted = {item["Id"]: item["MetricStat"]["Metric"] for item in metrics if not item["ReturnData"]}
    assert set(re.findall(r"FILL\((\w+), 0\)", chosen(total["Expression"]))) == set(counted)
    assert "refusals" in counted
    if by_api:
        [dimension] = counted["door"]["Dimensions"]
        assert (counted["door"]["Namespace"], counted["door"]["MetricName"]) == ("AWS/ApiGateway", "5XXError")
        assert dimension == {"Name": "ApiName", "Value": RESOURCES["StreamApi"]["Properties"]["Name"]}
    else:
        assert "door" not in counted


def test_every_parameter_and_condition_is_used_and_listed() -> None:
    text = json.dumps({key: value for key, value in TEMPLATE.items() if key != "Parameters"})
    groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    shown = [name for group in groups for name in group["Parameters"]]
    assert sorted(shown) == sorted(TEMPLATE["Parameters"])
    for name in TEMPLATE["Parameters"]:
        assert f'"Ref": "{name}"' in text or f"${{{name}}}" in text, name
    rest = json.dumps(
        [TEMPLATE["Resources"], TEMPLATE["Globals"], TEMPLATE["Outputs"], TEMPLATE["Conditions"]]
    )
    for name in TEMPLATE["Conditions"]:
        assert re.search(rf'"(Condition|Fn::If)": \[?"{name}"', rest), name


def test_every_skipped_check_says_why() -> None:
    for name, item in RESOURCES.items():
        for skip in item.get("Metadata", {}).get("checkov", {}).get("skip", []):
            assert len(skip["comment"]) > 20, name


@pytest.mark.parametrize("stage", ["dev", "prod"])
def test_a_parameter_set_fits_the_template(stage: str) -> None:
    given = parameters((ROOT / "samconfig.toml").read_text("utf-8"), stage)
    assert given
    for item in given:
        name, _, value = item.partition("=")
        # The command line that they are put into splits at spaces.
        assert " " not in value
        allowed = TEMPLATE["Parameters"][name].get("AllowedValues")
        assert allowed is None or value in map(str, allowed), name
    assert refusals(**dict(item.split("=", 1) for item in given)) == []


def test_guided_answers_are_a_parameter_set_too() -> None:
    text = '[default.deploy.parameters]\nparameter_overrides = "Database=\\"rds\\" VpcCidr=\\"10.0.0.0/16\\""'
    assert parameters(text, "default") == ["Database=rds", "VpcCidr=10.0.0.0/16"]
    assert parameters(text, "other") == []
