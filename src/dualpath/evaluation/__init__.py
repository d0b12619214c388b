"""Measuring a trained model: metrics, protocols and reports."""
