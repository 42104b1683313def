"""`python -m bluesky_edgestem` is `edgestem`."""

import sys

from .cli import main

sys.exit(main())
