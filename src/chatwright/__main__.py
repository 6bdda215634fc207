"""`python -m chatwright` is the same as `chatwright`."""

from chatwright.cli import main

main()
