"""Turns the token counts that servers report into Parley's counts."""

from parley.domain.events import Counted, Usage


def count(value: int | None) -> int | None:
    """Return `value` if it can be a number of tokens, else None.

    Stores take only signed 32-bit integers, and limits count with the number.
    """
    return value if value is not None and 0 <= value < 2**31 else None


def completion_counts(
    prompt: int | None, completion: int | None, reasoning: int | None, total: int | None, cached: int
) -> Counted:
    """Return the token counts of a chat completion. A zero counts as unknown.

    The total shows how many tokens are in neither the prompt nor the completion. Those that were `cached` for
    the prompt are input (Portkey's count of Anthropic's). The others are reasoning, and so output: xAI and
    Gemini count reasoning in the total only, OpenAI and most servers also in the completion. Without a total,
    OpenAI's way is assumed, unless the reasoning is more than the completion and so cannot be in it.
    """
    said = completion or 0
    if not total:
        if reasoning is not None and reasoning > said:
            return Counted(prompt or None, count(said + reasoning))
        return Counted(prompt or None, completion)
    if not prompt:
        return Counted(total - said if total > said else None, completion)
    beside = total - prompt - said
    if beside <= 0:
        return Counted(prompt, completion)
    # More cached tokens than `beside` cannot be beside the prompt, so they are in it.
    more_input = cached if cached <= beside else 0
    return Counted(count(prompt + more_input), said + beside - more_input)


def usage_of(counted: Counted | None) -> Usage | None:
    """Return the usage, or None if either count is unknown."""
    if counted is None or counted.input_tokens is None or counted.output_tokens is None:
        return None
    return Usage(counted.input_tokens, counted.output_tokens)
