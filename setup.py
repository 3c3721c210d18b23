"""Packaging of caad-ds."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    """`caad_ds.__version__`, read without importing torch."""
    return re.search(r'^__version__ = "(.+)"$', (ROOT / "caad_ds/__init__.py").read_text(), re.MULTILINE).group(1)


def description() -> str:
    """The README, where the checkout has it."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


AUDIO = ["av>=14"]  # its wheels bring FFmpeg along
ANNOTATE = ["librosa>=0.11", "pyloudnorm>=0.2"]
SERVE = ["fastapi>=0.115", "prometheus-client>=0.20", "uvicorn>=0.30"]

setup(
    name="caad-ds",
    version=version(),
    description="Distil speech language models by Contrastive Audio-Aware Distillation, on DeepSpeed",
    long_description=description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["caad_ds", "caad_ds.*", "data_prep", "data_prep.*", "ds_configs"]),
    package_data={
        "ds_configs": ["*.json"],
        "caad_ds": [
            "py.typed",
            "loss/c_kernel.c",
            "evaluation/benchmarks/dynamic_superb/dynamic_superb.tsv",
            "serving/server/page/*",
            "training/export/model_card.md.jinja",
            "evaluation/benchmarks/descriptions/*.yaml",
            "evaluation/html_report/assets/*",
        ],
        "data_prep": ["verify/*.html", "stage1/*.yaml"],
    },
    install_requires=[
        "argcomplete>=3.1",
        "deepspeed>=0.19.8",  # earlier: a gradient that is not finite is applied (a norm of NaN counts as 1)
        "huggingface_hub>=1",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "mlflow>=3",
        "numpy>=1.26",
        "peft>=0.17",
        "protobuf>=4.25",  # transformers reads SentencePiece models with it
        "psutil>=5.9",
        "pyarrow>=15",
        "pydantic>=2.7",
        "pyyaml>=6",
        "regex>=2024.4.16",
        "rich>=13",
        "safetensors>=0.4.3",
        "scipy>=1.11",
        "sentencepiece>=0.2",
        "soundfile>=0.12.1",
        "soxr>=0.5",
        "torch>=2.8",
        "transformers>=5.23",
        "typing_extensions>=4.9",  # pydantic asks for its TypedDict before Python 3.12
    ],
    extras_require={
        "demo": ["espeakng-loader>=0.2.4"],
        "annotate": ANNOTATE,
        "audio": AUDIO,
        "emotion": ["funasr>=1.1", "modelscope", "torchaudio"],
        "brouhaha": ["brouhaha @ git+https://github.com/marianne-m/brouhaha-vad", "pyannote.audio>=3.1"],
        # A CUDA build of PyTorch brings its own Triton; elsewhere its kernels are tested under the interpreter.
        "test": [
            *ANNOTATE,
            *AUDIO,
            *SERVE,
            "hypothesis>=6.100",
            "packaging>=24",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "selenium>=4.20",  # MLflow's pages and reports in a real browser
            "transformers[serving]",  # the real server that the OpenAI engine is tested against
            "triton>=3.4; platform_system == 'Linux'",
            "webdataset>=0.2.100",
        ],
        "peers": ["accelerate", "datasets", "liger-kernel", "trl"],
        "dev": ["import-linter>=2.5", "mypy>=1.11", "pre-commit>=4", "ruff>=0.6", "types-PyYAML"],
        "docs": ["mkdocstrings[python]>=1", "zensical>=0.0.73"],
        "gpu": ["nvidia-ml-py>=12"],  # GPUs among MLflow's system metrics
        "openai": ["openai>=1.98"],
        # What the processors of audio LLMs import, by the family's name (docs/models.md).
        "gemma4": ["torchvision"],
        "granite_speech": ["torchaudio"],
        "granite_speech_plus": ["torchaudio"],
        "qwen2_5_omni": ["torchvision"],
        "voxtral": ["mistral-common>=1.11.5"],
        "serve": SERVE,
        "stream": ["webdataset>=0.2.100"],
        "vllm": ["vllm==0.30.*"],  # newer ones want a transformers that is too old here (docs/corpora.md)
    },
    entry_points={"console_scripts": ["caad-ds = caad_ds.cli:main"]},
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
