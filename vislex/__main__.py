"""``python -m vislex`` is ``vislex``; so is ``torchrun -m vislex``."""

from __future__ import annotations

import sys

from vislex.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
