"""Pictures: masks over feature maps, where in a model dropout goes, and what sampling it tells.

matplotlib is imported when a picture is made, onnxruntime when a model is run. Figures are plain
``matplotlib.figure.Figure`` objects that pyplot does not know: `save_figure` writes them.
"""

from __future__ import annotations

from onnx_structdrop.plot.capture import (
    Capture,
    capture,
    expected_rate,
    sample_inputs,
    sample_maps,
)
from onnx_structdrop.plot.curves import plot_curves
from onnx_structdrop.plot.diagram import plot_sites
from onnx_structdrop.plot.files import FIGURE_FORMATS, check_figure_path, save_figure
from onnx_structdrop.plot.masks import plot_masks
from onnx_structdrop.plot.timings import plot_ratios, plot_sweep
from onnx_structdrop.plot.uncertainty import (
    plot_reliability,
    plot_risk_coverage,
    plot_uncertainty_histogram,
)
from onnx_structdrop.plot.uncertainty_maps import plot_uncertainty_map

__all__ = [
    "FIGURE_FORMATS",
    "Capture",
    "capture",
    "check_figure_path",
    "expected_rate",
    "plot_curves",
    "plot_masks",
    "plot_ratios",
    "plot_reliability",
    "plot_risk_coverage",
    "plot_sites",
    "plot_sweep",
    "plot_uncertainty_histogram",
    "plot_uncertainty_map",
    "sample_inputs",
    "sample_maps",
    "save_figure",
]
