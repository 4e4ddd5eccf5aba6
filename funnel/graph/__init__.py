"""Graphs: built by hnswlib or faiss, handed on as plain arrays."""
