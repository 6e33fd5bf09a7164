"""`python -m lamina.cli`: the command line where no console script is installed, as in a submitted
job."""

from lamina.cli import main

main(prog_name="lamina")
