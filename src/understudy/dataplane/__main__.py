"""``python -m understudy.dataplane``: one router process, as the supervisor spawns it."""

import sys

from understudy.dataplane.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
