"""The AWS CLI, loaded once: each line on standard input is one call, made in a process of its own.

A line is a JSON list of arguments, its answer a JSON list of exit code, standard output and standard error.
"""

import json
import os
import sys
import tempfile

import awscli.clidriver

# Loads what every call would: plug-ins, and what a client needs.  A call makes its own driver and session.
awscli.clidriver.create_clidriver().session.create_client("sagemaker")


def call(arguments: list[str], output: int, error: int) -> int:
    """Run ``aws`` as its script does, in this process."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(error, 2)
    sys.argv = ["aws", *arguments]
    try:
        code = awscli.clidriver.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code or 0)


for line in sys.stdin:
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as error:
        child = os.fork()
        if child == 0:
            code = 255
            try:
                code = call(json.loads(line), output.fileno(), error.fileno())
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (output, error):
            file.seek(0)
            texts.append(file.read().decode())
        print(json.dumps([code, *texts]), flush=True)
