"""A trained policy as a plain folder of transformers, out of the checkpoint of any run."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from at2po_agents.errors import CheckpointError
from at2po_agents.learner import checkpoint
from at2po_agents.learner.checkpoint import Checkpoint
from at2po_agents.policy.adapters import Adapter
from at2po_agents.policy.loading import load_model
from at2po_agents.policy.lora import ADAPTER_FOLDER


def export_model(source: Path, out: Path) -> Checkpoint:
    """Write a checkpoint's model and tokenizer as `from_pretrained` reads them.

    Every byte of the checkpoint is checked before. Weights come in the number format that the run
    computed in, whatever the master weights have, and with an adapter merged into them.

    Args:
        source: Folder of a checkpoint, or of a run, whose newest whole checkpoint is taken.
        out: Folder to write; it must not exist.

    Returns:
        The checkpoint that was taken.

    Raises:
        CheckpointError: If there is no whole checkpoint, or `out` exists.
    """
    if out.exists():
        raise CheckpointError(f"{out}: expected a new folder, found it in use; choose another")
    found = _find(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that it appears whole or not at all.
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        draft = Path(scratch) / out.name
        _model(found).save_pretrained(draft)
        AutoTokenizer.from_pretrained(found.path, local_files_only=True).save_pretrained(draft)
        draft.rename(out)
    return found


def _find(source: Path) -> Checkpoint:
    root = source / checkpoint.FOLDER
    if not root.is_dir() and (source / "config.json").is_file():
        return checkpoint.load(source, None)
    found = checkpoint.latest(root, None)
    if found is None:
        raise CheckpointError(
            f"{source}: expected the folder of a checkpoint, or of a run that has one in "
            f"{checkpoint.FOLDER}/, found neither; look for folders called step_…"
        )
    return found


def _model(found: Checkpoint) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(found.path, local_files_only=True)
    if found.shards is None:
        return load_model(str(found.path), config.dtype)[0]
    from at2po_agents.learner.fsdp import read_shards

    weights = read_shards(found.shards, "model")
    if (written := found.path / ADAPTER_FOLDER / "adapter_config.json").is_file():
        settings = json.loads(written.read_text(encoding="utf-8"))
        rank = settings["r"]
        weights = dict(Adapter(rank, settings["lora_alpha"] / rank, settings).merged(weights))
    with torch.device("meta"):  # all of its weights are about to be replaced
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    plain = {name: tensor.to(config.dtype) for name, tensor in weights.items()}
    model.load_state_dict(plain, assign=True)
    model.tie_weights()
    return model
