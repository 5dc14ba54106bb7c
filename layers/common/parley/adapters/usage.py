"""Token counts as servers tell them, made into what Parley counts."""

from parley.events import Counted, Usage


def count(value: int | None) -> int | None:
    """Return a number of tokens that can be: no store takes others, and a limit is counted with them."""
    return value if value is not None and 0 <= value < 2**31 else None


def output_tokens(
    prompt: int | None, completion: int | None, reasoning: int | None, total: int | None
) -> int | None:
    """Return the output tokens of a chat completion, its reasoning among them.

    The total decides, where there is one that holds prompt and completion: output is total − prompt. xAI and
    Gemini count reasoning in the total alone; OpenAI and most others count it in the completion as well.
    Without a total OpenAI's way is assumed, unless the reasoning is more than the completion, which can't
    hold it then.
    """
    if total is not None and prompt is not None and total >= prompt + (completion or 0):
        return total - prompt
    if completion is not None and reasoning is not None and reasoning > completion:
        return completion + reasoning
    return completion


def usage_of(counted: Counted | None) -> Usage | None:
    """Return the whole count; None where a part of it is unknown."""
    if counted is None or counted.input_tokens is None or counted.output_tokens is None:
        return None
    return Usage(counted.input_tokens, counted.output_tokens)
