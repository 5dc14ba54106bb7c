"""Chooses the request fields that not every chat completions server accepts, and learns from refusals."""

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from parley.domain.conversation import Model
from parley.providers.response_body import Opened
from parley.providers.sdk_client import error_status
from parley.providers.server import host_of
from parley.support.logs import logger

_logger = logger("providers")

# Hosts that use the newer name. Compatible servers often know only the older one.
_NEW_LIMIT_HOSTS = ("openai.com", "openai.azure.com", "x.ai")
_NEW_LIMIT, _OLD_LIMIT = "max_completion_tokens", "max_tokens"
_LIMITS = (_NEW_LIMIT, _OLD_LIMIT)
_STREAM_OPTIONS = "stream_options"
_CAMEL = {_STREAM_OPTIONS: "streamOptions", _NEW_LIMIT: "maxCompletionTokens", _OLD_LIMIT: "maxTokens"}
# Characters of an error that are searched. A longer error is about something else.
_LONGEST_ERROR = 16_384


def _refusal_of(name: str) -> re.Pattern[str]:
    """Return a pattern for errors that do not know the field `name`, and not for errors about its value."""
    field = rf"(?<![A-Za-z_])(?:{name}|{_CAMEL[name]})(?![A-Za-z_])"
    before = (
        r"(?:un(?:supported|known|recognized|expected)|not support(?:ed)?"
        r"|invalid (?:parameter|argument|field))[^.;{}\d]{0,50}?"
    )
    # pydantic puts the field's location and the kind of error between the two.
    after = (
        r"[^.;{}\d]{0,60}?(?:(?:is|are|was) (?:not |un)(?:supported|permitted|allowed|known|expected)"
        r"|extra (?:fields|inputs)[a-z ]* not permitted|extra_forbidden|was unexpected)"
    )
    typed = r"extra_forbidden[^;{}\d]{0,80}?"
    return re.compile(rf"(?:{before}|{typed}){field}|{field}{after}", re.IGNORECASE)


_REFUSALS = {name: _refusal_of(name) for name in _CAMEL}


@dataclass(frozen=True, slots=True)
class _Choice:
    """One model's server: its name for the output limit, and whether it accepts `stream_options`."""

    limit: str
    stream_options: bool

    def fields(self, model: Model) -> dict[str, object]:
        """Return the fields for a request, without a limit where the model's own parameters have one."""
        found: dict[str, object] = {}
        if not any(name in model.parameters for name in _LIMITS):
            found[self.limit] = model.max_output_tokens
        if self.stream_options:
            found[_STREAM_OPTIONS] = {"include_usage": True}
        return found

    def after(self, error: Exception) -> "_Choice | None":
        """Return the choice to try after `error`, or None if the error is not about these fields."""
        refused = error_status(error)
        if refused is None or refused.status not in (400, 422):
            return None
        return self.without_what_was_refused(refused.body)

    def without_what_was_refused(self, body: object) -> "_Choice | None":
        """Return the choice without the field that `body` refuses, or None if it refuses neither."""
        said = json.dumps(body)[:_LONGEST_ERROR].replace("\\", "")
        if self.stream_options and _REFUSALS[_STREAM_OPTIONS].search(said):
            return replace(self, stream_options=False)
        if _REFUSALS[self.limit].search(said):
            return replace(self, limit=_OLD_LIMIT if self.limit == _NEW_LIMIT else _NEW_LIMIT)
        return None


class RequestFields:
    """The fields that each model's server accepts.

    The first of these decides: a refusal seen before, the model's options, the host's default.
    """

    def __init__(self, base_url: str) -> None:
        host = host_of(base_url)
        new = any(host == known or host.endswith(f".{known}") for known in _NEW_LIMIT_HOSTS)
        self._default = _Choice(_NEW_LIMIT if new else _OLD_LIMIT, stream_options=True)
        self._found: dict[tuple[str, _Choice], _Choice] = {}

    def fields_for(self, model: Model) -> dict[str, object]:
        """Return the fields for a request to `model`, as far as its server is known."""
        first = self._first(model)
        return self._found.get((model.name, first), first).fields(model)

    async def post(self, model: Model, post: Callable[[dict[str, object]], Awaitable[Opened]]) -> Opened:
        """Send a request by `post`, and again without each field that is refused. Raises as `post` does.

        The accepted choice is kept for the model, as long as its options stay the same.
        """
        first = self._first(model)
        choice = self._found.get((model.name, first), first)
        tried = [choice]
        while True:
            try:
                opened = await post(choice.fields(model))
            except Exception as error:
                other = choice.after(error)
                # A server that refuses both names of the limit must not be asked for ever.
                if other is None or other in tried or other.fields(model) == choice.fields(model):
                    raise
                _logger.info("request_field_refused", extra={"provider": model.provider, "model": model.id})
                tried.append(other)
                choice = other
            else:
                if len(tried) > 1:
                    self._found[model.name, first] = choice
                return opened

    def _first(self, model: Model) -> _Choice:
        choice, options = self._default, model.options
        if options.output_limit in _LIMITS:
            choice = replace(choice, limit=options.output_limit)
        if options.stream_usage is not None:
            choice = replace(choice, stream_options=options.stream_usage)
        return choice
