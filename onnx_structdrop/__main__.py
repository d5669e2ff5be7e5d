"""``python -m onnx_structdrop``: the same as ``structdrop``."""

from __future__ import annotations

import sys

from onnx_structdrop.cli import main

if __name__ == "__main__":
    sys.exit(main())
