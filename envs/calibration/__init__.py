"""Measuring a worker under a designed set of loads, so that a profile can be fitted to it.

What drives a live worker needs only the standard library, numpy and httptools, so that it runs beside a server on a
machine that has nothing else of headway's.
"""
