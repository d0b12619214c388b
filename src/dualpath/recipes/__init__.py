"""Recipes: their schema, reading and writing them, and the recipes that ship with the package."""
