"""The fields of a chat completion's request that not every server takes, or takes by the same name."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from parley.adapters.body import Opened
from parley.adapters.sdk import refusal
from parley.conversation import Model
from parley.encoding import to_json
from parley.logs import logger

_log = logger("providers")

# Hosts that call the limit by its newer name; compatible servers mostly know the older one only.
_NEW_LIMIT_HOSTS = ("openai.com", "openai.azure.com", "x.ai")
_NEW_LIMIT, _OLD_LIMIT = "max_completion_tokens", "max_tokens"
_LIMITS = (_NEW_LIMIT, _OLD_LIMIT)
_STREAM_OPTIONS = "stream_options"
_NAMES = {
    name: re.compile(rf"\b(?:{name}|{camel})\b")
    for name, camel in (
        (_STREAM_OPTIONS, "streamOptions"),
        (_NEW_LIMIT, "maxCompletionTokens"),
        (_OLD_LIMIT, "maxTokens"),
    )
}
# How an error says that it does not know a field, as against its value.
_UNKNOWN = re.compile(
    r"unsupported|not supported|unrecognized|unknown|unexpected|not permitted|not allowed|forbidden",
    re.IGNORECASE,
)


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

    def without_what_was_refused(self, body: object) -> "_Choice | None":
        """Return what to try after a refusal; None where it is about something else."""
        said = to_json(body).decode("utf-8", "replace")
        if not _UNKNOWN.search(said):
            return None
        if self.stream_options and _NAMES[_STREAM_OPTIONS].search(said):
            return replace(self, stream_options=False)
        if _NAMES[self.limit].search(said):
            return replace(self, limit=_OLD_LIMIT if self.limit == _NEW_LIMIT else _NEW_LIMIT)
        return None


class RequestFields:
    """What each model's server takes: as the model's row says, else as its host does, else as it was found
    out.
    """

    def __init__(self, base_url: str) -> None:
        host = urlsplit(base_url).hostname or ""
        new = any(host == known or host.endswith(f".{known}") for known in _NEW_LIMIT_HOSTS)
        self._default = _Choice(_NEW_LIMIT if new else _OLD_LIMIT, stream_options=True)
        self._found: dict[str, _Choice] = {}

    def of(self, model: Model) -> dict[str, object]:
        """Return the fields of a question to a model, as far as its server is known by now."""
        return self._choice(model).fields(model)

    async def post(self, model: Model, post: Callable[[dict[str, object]], Awaitable[Opened]]) -> Opened:
        """Ask by `post`, and once more without each field that is refused; raises what `post` raises.

        What was taken then is remembered for the model.
        """
        choice = first = self._choice(model)
        for attempts_left in (2, 1, 0):
            try:
                opened = await post(choice.fields(model))
            except Exception as error:
                refused = refusal(error)
                other = None
                if refused is not None and refused.status in (400, 422) and attempts_left:
                    other = choice.without_what_was_refused(refused.body)
                if other is None or other == first:
                    raise
                _log.info("request_field_refused", extra={"provider": model.provider, "model": model.id})
                choice = other
                continue
            if choice != first:
                self._found[model.name] = choice
            return opened
        raise AssertionError("the last attempt returns or raises")

    def _choice(self, model: Model) -> _Choice:
        choice = self._found.get(model.name, self._default)
        options = model.options
        if options.output_limit is not None:
            choice = replace(choice, limit=options.output_limit)
        if options.stream_usage is not None:
            choice = replace(choice, stream_options=options.stream_usage)
        return choice
