"""`python -m cl`: the command line. What each command does is in `cl/cli/`."""

import sys

from cl.cli.parser import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
