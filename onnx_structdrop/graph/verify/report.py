"""What a numeric check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["DIFFERENT", "EQUAL", "NOT_COMPARABLE", "NOT_RUN", "OutputCheck", "VerifyReport"]

EQUAL = "equal"
DIFFERENT = "different"
NOT_COMPARABLE = "not comparable"
NOT_RUN = "not run"


@dataclass(frozen=True)
class OutputCheck:
    """One output of the models, over all samples."""

    name: str
    status: str
    """"equal", "different", or "not comparable"."""
    exact: bool
    """Whether all values are equal bit for bit; any NaN equals any other."""
    tolerance: float
    """Largest error that counts as equal; 0 for types that are compared exactly."""
    error: float
    """Largest absolute difference of a value over its scale; NaN where nothing was compared. The
    scale is the size of the value or of what is typical around it, whichever is larger."""
    reason: str = ""
    """Why it is different, or cannot be compared."""
    constant: bool = False
    """Whether all its values, on all samples, are one number: that they are equal says little."""
    suspicious: bool = False
    """Whether it is not comparable though it was compared, and found different: either the check
    is at fault, which cannot hold every generator right, or the rewritten model is."""


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found."""

    status: str
    """"equal": every output was compared, and all are equal. "different": at least one is not,
    or the signature is not. "not comparable": what was compared is equal, but not all outputs
    can be compared. "not run": nothing was compared."""
    reason: str
    """Why the status is not "equal"; names the node, output or input at fault."""
    reference: str
    """What was compared with: "original", or "original in inference form"."""
    checks: tuple[str, ...]
    """Every check that was made and passed, in words."""
    outputs: tuple[OutputCheck, ...]
    shapes: tuple[dict[str, tuple[int, ...]], ...]
    """Shape of every input, per sample."""
    held: dict[str, bool]
    """Inputs that were held at a value, since they switch dropout."""
    seed: int
    optimisation: str
    """Level of onnxruntime's graph optimisations: "off", or "basic" where there is float16."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Smallest and largest value of every input over all samples, as they were drawn; false is 0
    and true 1. Texts and inputs without elements are left out."""
    defaults: tuple[str, ...] = ()
    """Inputs that were left at their default: with other values the models may differ."""

    @property
    def exact(self) -> bool:
        """Whether every output was compared and is equal bit for bit."""
        return self.status == EQUAL and all(output.exact for output in self.outputs)

    @property
    def suspicious(self) -> bool:
        """Whether a difference was seen that may be a fault, see `OutputCheck.suspicious`."""
        return any(output.suspicious for output in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {**asdict(self), "exact": self.exact, "suspicious": self.suspicious}
