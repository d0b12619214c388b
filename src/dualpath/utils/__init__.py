"""Helpers without any knowledge of images or text: files, messages, memory, progress, signals."""
