"""Measures a deployed file: accuracy, latency, throughput, memory. numpy, a runtime, Python 3.8 or newer."""
