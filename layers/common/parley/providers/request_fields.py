"""The fields of a chat completion's request that not every server takes, or takes by the same name."""

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

# Hosts that call the limit by its newer name; compatible servers mostly know the older one only.
_NEW_LIMIT_HOSTS = ("openai.com", "openai.azure.com", "x.ai")
_NEW_LIMIT, _OLD_LIMIT = "max_completion_tokens", "max_tokens"
_LIMITS = (_NEW_LIMIT, _OLD_LIMIT)
_STREAM_OPTIONS = "stream_options"
_CAMEL = {_STREAM_OPTIONS: "streamOptions", _NEW_LIMIT: "maxCompletionTokens", _OLD_LIMIT: "maxTokens"}
# An error that says more is about something else.
_LONGEST_ERROR = 16_384


def _refusal_of(name: str) -> re.Pattern[str]:
    """Return what finds that an error does not know a field, as against its value."""
    field = rf"(?<![A-Za-z_])(?:{name}|{_CAMEL[name]})(?![A-Za-z_])"
    before = (
        r"(?:un(?:supported|known|recognized|expected)|not support(?:ed)?"
        r"|invalid (?:parameter|argument|field))[^.;{}\d]{0,50}?"
    )
    # In between stands what pydantic tells of a field: where it is, and what kind of error it has.
    after = (
        r"[^.;{}\d]{0,60}?(?:(?:is|are|was) (?:not |un)(?:supported|permitted|allowed|known|expected)"
        r"|extra (?:fields|inputs)[a-z ]* not permitted|extra_forbidden|was unexpected)"
    )
    typed = r"extra_forbidden[^;{}\d]{0,80}?"
    return re.compile(rf"(?:{before}|{typed}){field}|{field}{after}", re.IGNORECASE)


_REFUSALS = {name: _refusal_of(name) for name in _CAMEL}


@dataclass(frozen=True, slots=True)
class _Choice:
    """What one model's server takes: the limit's name, and whether it takes `stream_options`."""

    limit: str
    stream_options: bool

    def fields(self, model: Model) -> dict[str, object]:
        """Return the fields for a question, but for those that the model's own parameters have."""
        found: dict[str, object] = {}
        if not any(name in model.parameters for name in _LIMITS):
            found[self.limit] = model.max_output_tokens
        if self.stream_options:
            found[_STREAM_OPTIONS] = {"include_usage": True}
        return found

    def after(self, error: Exception) -> "_Choice | None":
        """Return what to try after an error; None where it refuses none of this."""
        refused = error_status(error)
        if refused is None or refused.status not in (400, 422):
            return None
        return self.without_what_was_refused(refused.body)

    def without_what_was_refused(self, body: object) -> "_Choice | None":
        """Return what to try after a refusal; None where it is about something else."""
        said = json.dumps(body)[:_LONGEST_ERROR].replace("\\", "")
        if self.stream_options and _REFUSALS[_STREAM_OPTIONS].search(said):
            return replace(self, stream_options=False)
        if _REFUSALS[self.limit].search(said):
            return replace(self, limit=_OLD_LIMIT if self.limit == _NEW_LIMIT else _NEW_LIMIT)
        return None


class RequestFields:
    """What each model's server takes: as it was found out, else as the model's row says, else as its host
    does.
    """

    def __init__(self, base_url: str) -> None:
        host = host_of(base_url)
        new = any(host == known or host.endswith(f".{known}") for known in _NEW_LIMIT_HOSTS)
        self._default = _Choice(_NEW_LIMIT if new else _OLD_LIMIT, stream_options=True)
        self._found: dict[tuple[str, _Choice], _Choice] = {}

    def fields_for(self, model: Model) -> dict[str, object]:
        """Return the fields of a question to a model, as far as its server is known by now."""
        first = self._first(model)
        return self._found.get((model.name, first), first).fields(model)

    async def post(self, model: Model, post: Callable[[dict[str, object]], Awaitable[Opened]]) -> Opened:
        """Ask by `post`, and once more without each field that is refused; raises what `post` raises.

        What was taken then is remembered for the model, as long as its row says the same.
        """
        first = self._first(model)
        choice = self._found.get((model.name, first), first)
        tried = [choice]
        while True:
            try:
                opened = await post(choice.fields(model))
            except Exception as error:
                other = choice.after(error)
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
