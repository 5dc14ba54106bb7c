"""Runs a function's handler as Lambda does: `python -P invoke.py FOLDER` reads events, one a line.

A line of JSON answers each: `answer`; `seconds` that it took, with the handler's import for the first event;
`processor`, the processor time of the whole process by then, in seconds; `parley`, the file of the package.
"""

import importlib
import json
import sys
import time
from types import SimpleNamespace

_CONTEXT = SimpleNamespace(
    function_name="bench",
    function_version="1",
    invoked_function_arn="arn:aws:lambda:eu-west-1:000000000000:function:bench",
    memory_limit_in_mb=1024,
    aws_request_id="bench",
    log_group_name="",
    log_stream_name="",
    get_remaining_time_in_millis=lambda: 30_000,
)


def main() -> None:
    """Answer events until standard input ends."""
    # Metrics and log lines are printed; the answers have their pipe to themselves.
    answers, sys.stdout = sys.stdout, sys.stderr
    sys.path.insert(0, sys.argv[1])
    for line in sys.stdin:
        event = json.loads(line)
        begin = time.perf_counter()
        answer = importlib.import_module("app").handler(event, _CONTEXT)
        processor, seconds = time.process_time(), time.perf_counter() - begin
        parley = sys.modules["parley"].__file__
        said = {"answer": answer, "seconds": seconds, "processor": processor, "parley": parley}
        print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    main()
