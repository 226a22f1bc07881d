"""Steps on demand: a line of JSON with a name and arguments comes in, one with what the step returned goes out."""

import contextlib
import json
import sys


def serve(steps):
    """`steps` are functions by their names; whatever they print goes to stderr."""
    answers = sys.stdout
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            answer = steps[name](*arguments)
        print(json.dumps(answer), file=answers, flush=True)
