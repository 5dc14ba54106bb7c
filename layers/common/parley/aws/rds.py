"""Logging in to Postgres on RDS with the function's own role, in place of a password."""

import functools
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from parley.settings import SettingsError

if TYPE_CHECKING:
    from botocore.session import Session

_VALID_SECONDS = 900  # what RDS allows a token at most; only the login has to be within


def with_token(url: str) -> str:
    """Return `url`, which names host, port and user, with a token as its password.

    The token is signed here and now; AWS is asked nothing, unless for the role's credentials.
    https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.Connecting.html
    """
    parts = urlsplit(url)
    token = _signed(f"{parts.hostname}:{parts.port}", parts.username or "")
    login = f"{parts.username}:{quote(token, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.hostname}:{parts.port}"))


def _signed(address: str, user: str) -> str:
    # boto3's own function needs a client of RDS, whose description alone takes longer to load than all this.
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
