"""`python -s -P worker.py`: compares answers by the library math-verify, a JSON line in for a JSON line out.

A process of its own, started by `trainers.tasks.math.judge`. The library's own limit is a signal that Python handles:
it needs the main thread, counts the time of a busy machine, knows no limit of memory, and waits for a call of C to
end; with gmpy2 installed, (10^7)! took 15 s of a limit of 1 s. Here the timer's signal has no handler, so it ends the
process wherever that is.

Only math-verify's reading of LaTeX is used. Its other reader, of plain expressions, hands texts to sympy's parse_expr
and so to eval().
"""

import json
import os
import resource
import signal
import sys
from typing import Any, cast

from math_verify import (  # pyright: ignore[reportMissingImports] an optional package, the extra `math`
    LatexExtractionConfig,
    parse,
    verify,
)

BOX = [LatexExtractionConfig(boxed_match_priority=0)]


def extract(text: str) -> list:
    """What math-verify reads of a LaTeX text; it falls back to the text itself."""
    # None is its way to set no limit, though it says int
    return parse(text, BOX, parsing_timeout=cast(Any, None), raise_on_error=True)


def is_equal(expected: str, text: str) -> bool:
    """Whether a text states what is expected, both LaTeX."""
    return verify(extract(expected), extract(text), timeout_seconds=None, raise_on_error=True)


def main(cpu_seconds: float, memory_bytes: int) -> None:
    """Answer every line of standard input, with limits of CPU seconds for each and of bytes for the process."""
    # what a library prints must not be taken for an answer
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    is_equal("\\boxed{1}", "\\boxed{1}")  # loads what is loaded late, before any time is counted
    print(json.dumps("ready"), file=answers)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # of CPU time: the load of the machine does not count
        try:
            outcome = is_equal(*json.loads(line))
        except Exception as error:
            outcome = type(error).__name__
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(outcome), file=answers)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
