"""Marks this folder as the package `cdc_bridge.sql`, so that an editable install finds it too.

The code reads the files with `importlib.resources.files("cdc_bridge.sql")`.
"""
