"""Funnel retrieval over Matryoshka embeddings: a short walk, then a long rerank."""

from funnel.adapt.diagnose import diagnose
from funnel.cascade import Cascade, Stage
from funnel.errors import FunnelError
from funnel.index import FunnelIndex
from funnel.results import Hits, Trace, TraceStage
from funnel.version import __version__

__all__ = [
    "Cascade",
    "FunnelError",
    "FunnelIndex",
    "Hits",
    "Stage",
    "Trace",
    "TraceStage",
    "__version__",
    "diagnose",
]
