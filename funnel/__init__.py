"""Funnel retrieval over Matryoshka embeddings: a short walk, then a long rerank."""

from funnel.adapt.diagnose import diagnose
from funnel.adapt.diagnosis import Diagnosis
from funnel.adapt.evaluation import Evaluation
from funnel.adapt.explanation import Explanation, WhyNot
from funnel.adapt.stage_losses import StageLosses
from funnel.adapt.tuning import Tuning
from funnel.cascade import Cascade, Stage
from funnel.errors import FunnelError
from funnel.index import FunnelIndex
from funnel.results import Hits, Trace, TraceStage
from funnel.version import __version__

__all__ = [
    "Cascade",
    "Diagnosis",
    "Evaluation",
    "Explanation",
    "FunnelError",
    "FunnelIndex",
    "Hits",
    "Stage",
    "StageLosses",
    "Trace",
    "TraceStage",
    "Tuning",
    "WhyNot",
    "__version__",
    "diagnose",
]
