"""``python -m flowprune``."""

from __future__ import annotations

import sys

from flowprune.cli import main

sys.exit(main())
