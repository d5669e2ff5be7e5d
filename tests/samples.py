"""Where the sample models are."""

from __future__ import annotations

import pathlib

MODELS = pathlib.Path(__file__).parents[1] / "models"
