"""`python -m cdc_bridge` is the `cdc-bridge` command."""

from cdc_bridge.cli import main

main()
