"""The steps of bench/gpu.py: functions that take a `Place` and note figures in it."""
