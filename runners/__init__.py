"""The commands that evaluate cells and make tables, the store, the records and what is made from them."""

import sys

from runners.exits import stop_in_one_line

if sys.argv[0] == "-m":  # `python -m runners.NAME` is about to import the command and all that it needs
    stop_in_one_line()
