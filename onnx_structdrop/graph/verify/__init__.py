"""Do two models compute the same? A numeric check on made-up inputs, with onnxruntime."""

from onnx_structdrop.graph.verify.checking import verify
from onnx_structdrop.graph.verify.report import OutputCheck, VerifyReport

__all__ = ["OutputCheck", "VerifyReport", "verify"]
