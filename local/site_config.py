"""Prints the site's config.json for a deployed stack: `make site` pipes the stack's outputs through this."""

import json
import sys


def site_config(outputs: dict[str, str]) -> dict[str, object]:
    """Return what the page needs to know, from the outputs of the stack by name."""
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
