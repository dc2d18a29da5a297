"""Package metadata. `.[gpu]` is the GPU stack; the CPU stack is requirements/cpu.txt (see Makefile)."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="rpg_openrlhf",
    version="0.1.0",
    description="RPG: KL-regularized policy gradients for LLM reasoning, as an extension of OpenRLHF",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["rpg_openrlhf", "rpg_openrlhf.*", "evaluation", "evaluation.*"]),
    package_data={
        "evaluation.problems": ["*.yaml"],
        "evaluation.pages": ["templates/*"],
        "rpg_openrlhf.rewards": ["*.yaml"],
    },
    entry_points={
        "console_scripts": [
            "rpg-train = rpg_openrlhf.commands.train_rpg:main",
            "rpg-prepare-data = rpg_openrlhf.commands.prepare_data:main",
            "rpg-evaluate = evaluation.run:main",
            "rpg-check = rpg_openrlhf.commands.check:main",
        ]
    },
    install_requires=["mpmath>=1.3", "pyyaml>=6"],
    extras_require={
        # For the evaluation, with an engine (requirements/cpu.txt or gpu.txt), or without one through --server.
        "evaluation": [
            "datasets>=3",
            "huggingface_hub>=0.30",
            "jinja2>=3.1",
            "matplotlib>=3.9",
            "openai>=1.60",
            "safetensors>=0.5",
            "scipy>=1.13",
            "tqdm>=4.66",
            "transformers>=4.51",
        ],
        # For prepare_data: the hub, parquet files, and procedural families.
        "data": ["datasets>=3", "huggingface_hub>=0.30", "pyarrow>=15", "reasoning-gym>=0.1.25"],
        "quickstart": ["matplotlib>=3.9", "scipy>=1.13"],
        "test": ["hypothesis>=6", "basedpyright>=1.31", "pytest>=8", "pytest-xdist>=3", "ruff>=0.12", "uv>=0.9"],
    },
)
