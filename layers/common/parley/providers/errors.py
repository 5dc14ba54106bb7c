"""Maps providers' failures to faults: one table of faults, and one function for each kind of failure."""

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from parley.domain.errors import ProviderFault
from parley.providers.context_errors import context_too_long
from parley.support.logs import logger

_logger = logger("providers")


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
    "provider_loading": _Kind(True, "{} is still loading the model; try again in a moment."),
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

# Codes and types of errors, in lower case, that say more than the status. One table serves both APIs:
# gateways and model servers send OpenAI's words on Anthropic's API, and Anthropic's on OpenAI's.
_WORDS = {
    "insufficient_quota": "provider_quota",
    "billing_not_active": "provider_quota",
    "billing_hard_limit_reached": "provider_quota",
    "billing_error": "provider_quota",
    "rate_limit_exceeded": "provider_rate_limited",
    "rate_limit_error": "provider_rate_limited",
    "requests": "provider_rate_limited",
    "tokens": "provider_rate_limited",
    "resource_exhausted": "provider_rate_limited",  # Gemini's `status`
    "invalid_api_key": "provider_auth",
    "authentication_error": "provider_auth",
    "permission_error": "provider_auth",
    "overloaded": "provider_overloaded",  # also TGI's `error_type`
    "overloaded_error": "provider_overloaded",
    "insufficient_system_resource": "provider_overloaded",  # DeepSeek's finish reason
    "not_found_error": "provider_bad_request",
    "request_too_large": "provider_bad_request",
    "unavailable_error": "provider_loading",  # llama.cpp, while it reads its weights
    "model_loading": "provider_loading",  # LocalAI
}

# Used only without a status, which says more than these words: some servers send them for a wrong key.
_WORDS_WITHOUT_STATUS = {
    "invalid_request_error": "provider_bad_request",
    "badrequesterror": "provider_bad_request",  # vLLM, SGLang
    "unavailable": "provider_unavailable",  # Gemini's `status`
}

# Hugging Face's inference servers, and others with the same words.
_LOADING = re.compile(
    r"\bloading model\b|\b(?:currently|still|is) loading\b|\bmodel is not ready\b", re.IGNORECASE
)
# xAI sends this with status 400.
_WRONG_KEY = re.compile(r"\b(?:incorrect|invalid) api key\b", re.IGNORECASE)
# A gateway's timeout. The server has the request and still works on it, so a retry would cost twice.
_SLOW_STATUSES = (504, 524)
# Statuses of an error about the context's length. A 429 is about a rate in tokens.
_TOO_LONG_STATUSES = (400, 413, 422, 500, 503)
_LONGEST_WAIT_MS = 24 * 60 * 60 * 1000
# Characters of an error's message that are searched.
_LONGEST_MESSAGE = 1024


class ErrorReport(NamedTuple):
    """An error as the provider reports it: its codes and types in lower case, and its message.

    The message is only searched. It is never shown or logged: it may quote keys and prompts.
    """

    words: tuple[str, ...]
    message: str


def report_of(body: object) -> ErrorReport:
    """Read an error's JSON, with or without a field `error` around it. Every field may be missing."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]  # Gemini's endpoint for OpenAI's API
    if not isinstance(body, dict):
        return ErrorReport((), body[:_LONGEST_MESSAGE] if isinstance(body, str) else "")
    inner = body.get("error")
    sources: list[dict[Any, Any]] = [inner, body] if isinstance(inner, dict) else [body]
    named = [
        source.get(name)
        for source in sources
        for name in ("code", "type", "status", "error_type", "statusCode")
    ]
    words = tuple(str(word).lower() for word in named if type(word) in (str, int))
    texts = [inner, *(source.get("message") or source.get("detail") for source in sources)]
    message = next((text for text in texts if isinstance(text, str)), "")
    metadata = sources[0].get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    if isinstance(raw, str):  # the error that OpenRouter got from the provider behind it
        message = f"{message[: _LONGEST_MESSAGE // 2]} {raw}"
    return ErrorReport(words, message[:_LONGEST_MESSAGE])


def says_something(error: object) -> bool:
    """Return whether the value of a field `error` is an error. Servers also send `{}`, `""` and `false`."""
    if isinstance(error, dict):
        return any(says_something(value) for value in error.values())
    return bool(error.strip() if isinstance(error, str) else error)


def is_bare_error(detail: object, message: object, code: object) -> bool:
    """Return whether JSON without a field `error` is one: FastAPI's `detail`, or a message with a code."""
    return says_something(detail) or (
        says_something(message) and bool(code) and str(code) not in ("0", "200")
    )


def fault(provider: str, code: str, retry_after_ms: int | None = None) -> ProviderFault:
    """Return the fault `code`. `provider` is the provider's name for users."""
    kind = _KINDS[code]
    message = kind.message.format(provider)
    return ProviderFault(
        code, message[:1].upper() + message[1:], retryable=kind.retryable, retry_after_ms=retry_after_ms
    )


def fault_of_status(provider: str, status: int, headers: Mapping[str, str], body: object) -> ProviderFault:
    """Return the fault of a non-2xx response. `body` is its JSON or its text."""
    report = report_of(body)
    too_long = context_too_long(report.words, report.message, body) if status in _TOO_LONG_STATUSES else None
    if too_long is not None:
        return _logged(provider, too_long, status)
    code = _code_of_words(report.words, _WORDS) or _code_of_message(report.message, status)
    found = heed_headers(fault(provider, code or _code_of_status(status)), headers)
    found.may_repeat = status not in _SLOW_STATUSES
    return _logged(provider, found, status)


def fault_of_event(provider: str, body: object) -> ProviderFault:
    """Return the fault of an error inside a reply. `body` is the event's JSON."""
    report = report_of(body)
    statuses = [int(word) for word in report.words if word.isascii() and word.isdigit() and len(word) == 3]
    too_long = context_too_long(report.words, report.message, body)
    if too_long is not None and (not statuses or statuses[0] in _TOO_LONG_STATUSES):
        return _logged(provider, too_long)
    # An event has no HTTP status of its own. With 503, the words for a model that is still loading count.
    code = _code_of_words(report.words, _WORDS) or _code_of_message(report.message, 503)
    if code is None and statuses:
        code = _code_of_status(statuses[0])
    code = code or _code_of_words(report.words, _WORDS_WITHOUT_STATUS) or "provider_interrupted"
    return _logged(provider, fault(provider, code))


def fault_of_error(provider: str, error: BaseException, *, begun: bool) -> ProviderFault:
    """Return the fault of an exception of the transport or of an SDK.

    `begun` tells whether the response's headers had come.
    """
    names = [type(error).__name__]
    while error.__cause__ is not None:
        error = error.__cause__
        names.append(type(error).__name__)
    if isinstance(error, ValueError | RecursionError) or names[-1] == "DecodingError":
        code = "provider_protocol"
    else:
        code = "provider_interrupted" if begun else "provider_unavailable"
    _logger.info("provider_failed", extra={"provider": provider, "errors": names, "fault": code})
    return fault(provider, code)


def heed_headers(found: ProviderFault, headers: Mapping[str, str]) -> ProviderFault:
    """Return the fault with the response's headers about retries."""
    found.retry_after_ms = _retry_after_ms(headers)
    # Both SDKs look at this header before they look at the status.
    should_retry = headers.get("x-should-retry")
    if should_retry in ("true", "false"):
        found.may_retry = should_retry == "true"
    return found


def _logged(provider: str, found: ProviderFault, status: int | None = None) -> ProviderFault:
    fields = {"provider": provider, "fault": found.fault}
    if status is None:
        _logger.info("provider_error_event", extra=fields)
    else:
        _logger.info("provider_refused", extra=fields | {"status": status})
    return found


def _code_of_words(words: tuple[str, ...], codes: Mapping[str, str]) -> str | None:
    return next((codes[word] for word in words if word in codes), None)


def _code_of_message(message: str, status: int) -> str | None:
    if (status >= 500 or status == 429) and _LOADING.search(message):
        return "provider_loading"
    return "provider_auth" if status == 400 and _WRONG_KEY.search(message) else None


def _code_of_status(status: int) -> str:
    if status in _STATUSES:
        return _STATUSES[status]
    if status >= 500:
        return "provider_unavailable"
    return "provider_bad_request" if status >= 400 else "provider_protocol"


def _retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """Return `retry-after-ms`, or `Retry-After` as seconds or a date (RFC 9110, 10.2.3), in milliseconds."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is None:
        after = headers.get("retry-after")
        seconds = _number(after)
        if seconds is None and after:
            try:
                seconds = parsedate_to_datetime(after).timestamp() - time.time()
            except (ValueError, OverflowError):
                return None
        milliseconds = None if seconds is None else seconds * 1000
    return None if milliseconds is None else round(min(max(milliseconds, 0), _LONGEST_WAIT_MS))


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
