"""Signs a token that replaces the password of Postgres on RDS, with the function's own role."""

import functools
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from parley.settings import SettingsError

if TYPE_CHECKING:
    from botocore.session import Session

_VALID_SECONDS = 900  # RDS's limit; only the login has to be within it


def with_token(url: str) -> str:
    """Return `url`, which has a host, a port and a user, with a token as its password.

    The token is signed locally. Only the role's credentials may need a request to AWS. Raises
    `SettingsError` without a region or credentials.
    https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.Connecting.html
    """
    parts = urlsplit(url)
    token = _signed(f"{parts.hostname}:{parts.port}", parts.username or "")
    login = f"{parts.username}:{quote(token, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.hostname}:{parts.port}"))


def _signed(address: str, user: str) -> str:
    # boto3's own function needs an RDS client. To load that client's description takes longer than all this.
    from botocore.auth import SigV4QueryAuth  # noqa: PLC0415
    from botocore.awsrequest import AWSRequest  # noqa: PLC0415

    session = _session()
    region = session.get_config_variable("region")
    request = AWSRequest("GET", f"https://{address}/?Action=connect&DBUser={quote(user, safe='')}")
    credentials = session.get_credentials()
    if credentials is None or region is None:
        raise SettingsError("DATABASE_IAM needs AWS_DEFAULT_REGION and the credentials of a role.")
    SigV4QueryAuth(credentials, "rds-db", region, expires=_VALID_SECONDS).add_auth(request)
    return str(request.url).removeprefix("https://")


@functools.cache
def _session() -> "Session":
    import botocore.session  # noqa: PLC0415 - a laptop has no AWS, and this takes a while to load

    return botocore.session.get_session()
