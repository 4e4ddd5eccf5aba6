"""Adaptive classification: each row is read as far as its own label needs.

A door of its own above `FunnelIndex`, for those who have scikit-learn (``pip install
funnel-index[classify]``): ``import funnel`` does not import it.
"""

from funnel.classify.estimator import AdaptiveClassifier
from funnel.classify.inputs import UnfittedError
from funnel.classify.report import CurvePoint, ExpectedDims, Report, StageReport

__all__ = [
    "AdaptiveClassifier",
    "CurvePoint",
    "ExpectedDims",
    "Report",
    "StageReport",
    "UnfittedError",
]
