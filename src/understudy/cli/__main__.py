"""``python -m understudy.cli``: the command line where no ``understudy`` script is installed."""

from understudy.cli import main

main(prog_name="understudy")
