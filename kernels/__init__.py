"""Triton kernels. Importing this imports neither torch nor triton.

``elementwise``: the forward kernel of a graph without moments, from its primitives' Triton expressions.
"""
