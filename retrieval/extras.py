"""Optional packages: which extra of at2po brings one, and what to say where it is missing."""

from __future__ import annotations

import importlib.util

EXTRAS = {
    "faiss": "faiss",
    "gguf": "gguf",
    "httpx2": "serve",
    "jinja2": "report",
    "matplotlib": "report",
    "peft": "lora",
    "prometheus_client": "serve",
    "pydantic": "serve",
    "pyserini": "lucene",
    "ray": "ray",
    "safetensors": "train",
    "starlette": "serve",
    "tensorboard": "train",
    "tokenizers": "train",
    "torch": "train",
    "transformers": "train",
    "uvicorn": "serve",
    "vllm": "vllm",
}
"""Extra of at2po that brings a package, by the package's module."""


def require(package: str, purpose: str, error: type[Exception]) -> None:
    """Raise unless a package is installed, without importing it.

    Args:
        package: Key of `EXTRAS`.
        purpose: What needs it, for the message.
        error: Class of the error.

    Raises:
        Exception: Of the class given, if the package is missing; it names the extra.
    """
    if importlib.util.find_spec(package) is None:
        raise error(f"{purpose}: {_missing(package)}")


def install_advice(error: ModuleNotFoundError) -> str:
    """Return a message that names the extra whose package was not found; "" if it is of none."""
    package = (error.name or "").partition(".")[0]
    return _missing(package) if package in EXTRAS else ""


def _missing(package: str) -> str:
    return (
        f"expected the package {package}, found none; run: pip install 'at2po[{EXTRAS[package]}]'"
    )
