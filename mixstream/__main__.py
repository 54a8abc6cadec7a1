"""`python -m mixstream` is the command `mixstream`."""

from mixstream.cli import main

raise SystemExit(main())
