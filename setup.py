"""Names the packages; everything else about the distribution stands in pyproject.toml.

`cdc_bridge.sql` is the top-level folder `sql/` (see `package-dir` there). Setuptools' declarative `find`
cannot name it, and an explicit list of every subpackage would be forgotten one day.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["cdc_bridge", "cdc_bridge.*"]), "cdc_bridge.sql"])
