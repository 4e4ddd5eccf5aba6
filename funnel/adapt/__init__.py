"""Fitting the funnel to data: today the adapter that makes any embedding Matryoshka."""

from funnel.adapt.adapter import MatryoshkaAdapter

__all__ = ["MatryoshkaAdapter"]
