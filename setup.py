"""Packaging: `pip install .`, with flash-attn, Liger, torchcodec and the test tools as extras."""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
requirements = [
    line
    for line in (here / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]

setup(
    name="vista_train",
    version="0.1.0",
    description="Train video LMMs on long and high-resolution video composed on the fly",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["vista_train", "vista_train.*"]),
    package_data={"vista_train.evaluation": ["mappings/*.yaml"], "vista_train.preview": ["web/*"]},
    python_requires=">=3.11",
    install_requires=requirements,
    extras_require={
        "flash": ["flash-attn>=2.7"],
        "liger": ["liger-kernel>=0.6.2"],
        "torchcodec": ["torchcodec>=0.11.1"],
        # pytest-xdist 3.8 cannot keep the tests of a group together under pytest 9.2.
        "test": [
            "pytest>=8,<9.2",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            # Our data in its trainer is tested; it is needed for nothing else.
            "trl>=1.0",
            "ruff>=0.12",
            "mypy>=1.15",
            "types-PyYAML",
        ],
    },
    entry_points={"console_scripts": ["vista-train = vista_train.cli:main"]},
)
