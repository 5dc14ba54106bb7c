"""Token counts as servers tell them, made into what Parley counts."""

from parley.domain.events import Counted, Usage


def count(value: int | None) -> int | None:
    """Return a number of tokens that can be: no store takes others, and a limit is counted with them."""
    return value if value is not None and 0 <= value < 2**31 else None


def completion_counts(
    prompt: int | None, completion: int | None, reasoning: int | None, total: int | None, cached: int
) -> Counted:
    """Return the counts of a chat completion; a zero tells nothing.

    The total decides what is beside the prompt and the completion. Tokens that were `cached` for the prompt
    and are not in it (Portkey's count of Anthropic's) are input; all else is reasoning, and output: xAI and
    Gemini count it in the total alone, OpenAI and most others in the completion as well. Without a total
    OpenAI's way is assumed, unless the reasoning is more than the completion, which can't hold it then.
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
    more_input = cached if cached <= beside else 0
    return Counted(count(prompt + more_input), said + beside - more_input)


def usage_of(counted: Counted | None) -> Usage | None:
    """Return the whole count; None where a part of it is unknown."""
    if counted is None or counted.input_tokens is None or counted.output_tokens is None:
        return None
    return Usage(counted.input_tokens, counted.output_tokens)
