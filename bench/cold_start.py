"""A cold start of a buffered function as Lambda makes it: import the handler, answer one event.

`python -m bench.cold_start FOLDER` reads the event from standard input, and prints the processor time that
the process has taken by the time the answer is there, in seconds, and the answer.
"""

import importlib
import json
import sys
import time
from types import SimpleNamespace


def main() -> None:
    """Answer the event."""
    event = json.load(sys.stdin)
    sys.path.insert(0, sys.argv[1])
    handler = importlib.import_module("app").handler

    context = SimpleNamespace(
        function_name="bench",
        function_version="1",
        invoked_function_arn="arn:aws:lambda:eu-west-1:000000000000:function:bench",
        memory_limit_in_mb=1024,
        aws_request_id="bench",
        log_group_name="",
        log_stream_name="",
        get_remaining_time_in_millis=lambda: 30_000,
    )
    answer = handler(event, context)
    print(time.process_time())
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
