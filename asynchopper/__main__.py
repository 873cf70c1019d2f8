"""`python -m asynchopper` is the command `asynchopper`."""

import sys

from asynchopper.cli import main

if __name__ == "__main__":
    sys.exit(main())
