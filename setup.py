# SPDX-License-Identifier: Apache-2.0
"""Folder `x/` of this repository is installed as the subpackage `penstock.x` of the namespace package `penstock`."""

from setuptools import find_namespace_packages, setup

CODE = ("ipc", "runtime", "workers", "clients")
DATA = ("model_repository", "conf")

packages = {f"penstock.{top}": top for top in CODE + DATA}
for top in CODE + DATA:
    for inner in find_namespace_packages(top, exclude=["__pycache__", "*.__pycache__"]):
        packages[f"penstock.{top}.{inner}"] = f"{top}/{inner.replace('.', '/')}"

setup(
    packages=sorted(packages),
    package_dir=packages,
    package_data={
        **{name: ["py.typed"] for name in packages if name.split(".")[1] in CODE},
        "penstock.clients.people_detection": ["py.typed", "repositories/**/*"],
        "penstock.model_repository": ["**/*"],
        "penstock.conf": ["*.toml"],
        "penstock.clients.report": ["py.typed", "templates/*"],
    },
)
