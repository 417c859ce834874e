"""TRL's side of `against_trl.py`, in an environment of its own: `python trl_step.py JOB.json` prints a JSON line."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def main(job: dict) -> None:
    torch.set_num_threads(job["threads"])
    experiments, ends, lengths = [], [], []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
        """One experiment per completion; a random bit, so that rewards vary."""
        began = time.monotonic()
        for _ in completions:
            subprocess.run([job["python"], job["script"]], cwd=job["folder"], check=True, capture_output=True)
        experiments.append(time.monotonic() - began)
        lengths.extend(map(len, completion_ids))
        return [float(index % 2) for index in range(len(completions))]

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            ends.append(time.monotonic())

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            folder, per_device_train_batch_size=job["actions"], num_generations=job["actions"],
            gradient_accumulation_steps=job["groups"], max_completion_length=job["response"],
            max_steps=job["steps"] + 1, bf16=True, use_cpu=True, report_to="none", logging_strategy="no",
            save_strategy="no", temperature=1.0, beta=0.0, learning_rate=1e-6, shuffle_dataset=False,
            model_init_kwargs={"dtype": "bfloat16"},
        )  # fmt: skip
        prompts = Dataset.from_dict({"prompt": job["prompts"] * (job["steps"] + 1)})
        trainer = GRPOTrainer(
            job["model"], reward_funcs=reward, args=config, train_dataset=prompts, callbacks=[Clock()]
        )
        trainer.train()
    seconds = ends[-1] - ends[0]
    done = job["steps"] * job["groups"] * job["actions"]
    print(json.dumps({
        "per_s": done / seconds, "step_seconds": seconds / job["steps"], "tokens": sum(lengths) / len(lengths),
        "experiment_seconds": sum(experiments[1:]) / max(1, len(experiments) - 1),
    }))  # fmt: skip


main(json.loads(Path(sys.argv[1]).read_text()))
