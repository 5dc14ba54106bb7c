"""Prints the site's config.json for the stack outputs on standard input, for `make site`."""

import json
import sys


def site_config(outputs: dict[str, str]) -> dict[str, object]:
    """Return the page's configuration. `outputs` has the stack's outputs by name."""
    auth: dict[str, str] = {"kind": "bearer"}
    if "LoginUrl" in outputs:
        auth |= {
            "signInUrl": "/sign-in.html",
            "loginUrl": outputs["LoginUrl"],
            "clientId": outputs["UserPoolClientId"],
        }
    return {"base": "/api", "auth": auth}


if __name__ == "__main__":
    print(json.dumps(site_config({item["OutputKey"]: item["OutputValue"] for item in json.load(sys.stdin)})))
