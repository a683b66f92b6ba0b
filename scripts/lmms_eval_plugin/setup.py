"""Packaging of the plugin for lmms-eval's own environment: `pip install scripts/lmms_eval_plugin`."""

from setuptools import setup

setup(
    name="vista_train_lmms",
    version="0.1.0",
    description="lmms-eval's tasks on checkpoints of vista_train",
    license="MIT",
    py_modules=["vista_train_lmms"],
    python_requires=">=3.10",
    install_requires=["lmms_eval>=0.7.3"],
    entry_points={"lmms_eval.models": ["vista_train = vista_train_lmms:manifest"]},
)
