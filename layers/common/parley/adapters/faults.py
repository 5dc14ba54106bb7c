"""What a provider's failures mean to Parley: one table of faults, and the ways that lead into it."""

import math
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from parley.errors import ProviderFault
from parley.logs import logger

_log = logger("providers")


class _Kind(NamedTuple):
    retryable: bool
    message: str


_KINDS = {
    "model_not_configured": _Kind(False, "This installation has no key for {}."),
    "provider_auth": _Kind(False, "{} refuses the key of this installation."),
    "provider_quota": _Kind(False, "This installation's account at {} is used up."),
    "provider_bad_request": _Kind(False, "{} refuses this question, or the model's settings."),
    "provider_protocol": _Kind(False, "{} sent an answer that makes no sense."),
    "provider_rate_limited": _Kind(True, "{} takes no more questions right now; try again in a moment."),
    "provider_overloaded": _Kind(True, "{} is overloaded right now; try again in a moment."),
    "provider_unavailable": _Kind(True, "{} is not available right now; try again in a moment."),
    "provider_interrupted": _Kind(True, "{} broke off its answer; try again."),
}

_STATUSES = {
    401: "provider_auth",
    402: "provider_quota",
    403: "provider_auth",
    408: "provider_unavailable",
    409: "provider_unavailable",
    429: "provider_rate_limited",
    503: "provider_overloaded",
    529: "provider_overloaded",
}

# With a status, the status says more than this word does: some answer it to a wrong key.
_EVENT_CODES = {"invalid_request_error": "provider_bad_request"}

_LONGEST_WAIT_MS = 24 * 60 * 60 * 1000


def fault(provider: str, code: str, retry_after_ms: int | None = None) -> ProviderFault:
    """Return the fault `code` of `provider`, which is the name that users know."""
    kind = _KINDS[code]
    return ProviderFault(
        code, kind.message.format(provider), retryable=kind.retryable, retry_after_ms=retry_after_ms
    )


def fault_of_status(
    provider: str, status: int, headers: Mapping[str, str], words: Iterable[str], codes: Mapping[str, str]
) -> ProviderFault:
    """Return what an HTTP status means; `words` are the error's own types, which `codes` may know better."""
    code = _code_of_words(words, codes) or _code_of_status(status)
    _log.info("a provider refused", extra={"provider": provider, "status": status, "fault": code})
    found = fault(provider, code, _retry_after_ms(headers))
    # Both providers' SDKs heed this header before they look at the status.
    should_retry = headers.get("x-should-retry")
    if should_retry in ("true", "false"):
        found.may_retry = should_retry == "true"
    return found


def fault_of_event(provider: str, words: Iterable[str], codes: Mapping[str, str]) -> ProviderFault:
    """Return what an error event inside a stream means."""
    words = list(words)
    statuses = [int(word) for word in words if word.isascii() and word.isdigit() and len(word) == 3]
    code = _code_of_words(words, codes) or _code_of_words(words, _EVENT_CODES)
    if code is None:
        code = _code_of_status(statuses[0]) if statuses else "provider_interrupted"
    _log.info("a provider reported an error", extra={"provider": provider, "fault": code})
    return fault(provider, code)


def fault_of_error(provider: str, error: BaseException, *, begun: bool) -> ProviderFault:
    """Return what an exception of the transport or an SDK means; `begun` says that a response had come."""
    names = [type(error).__name__]
    while error.__cause__ is not None:
        error = error.__cause__
        names.append(type(error).__name__)
    if isinstance(error, ValueError | RecursionError) or names[-1] == "DecodingError":
        code = "provider_protocol"
    else:
        code = "provider_interrupted" if begun else "provider_unavailable"
    _log.info("a provider failed", extra={"provider": provider, "errors": names, "fault": code})
    return fault(provider, code)


def _code_of_words(words: Iterable[str], codes: Mapping[str, str]) -> str | None:
    return next((codes[word] for word in words if word in codes), None)


def _code_of_status(status: int) -> str:
    if status in _STATUSES:
        return _STATUSES[status]
    if status >= 500:
        return "provider_unavailable"
    return "provider_bad_request" if status >= 400 else "provider_protocol"


def _retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """Read `retry-after-ms`, or `Retry-After` as seconds or as a date (RFC 9110, 10.2.3)."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is None:
        after = headers.get("retry-after")
        seconds = _number(after)
        if seconds is None and after:
            try:
                seconds = parsedate_to_datetime(after).timestamp() - time.time()
            except ValueError:
                return None
        milliseconds = None if seconds is None else seconds * 1000
    return None if milliseconds is None else round(min(max(milliseconds, 0), _LONGEST_WAIT_MS))


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
