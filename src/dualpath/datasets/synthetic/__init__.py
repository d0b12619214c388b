"""Drawn data sets for demos and tests: shapes and pedestrians."""
