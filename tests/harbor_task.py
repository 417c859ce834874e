"""A task of Harbor's published form (task.toml of schema 1.4), as small as one can be, for tests."""

from __future__ import annotations

from pathlib import Path

TASK = """schema_version = "1.4"

[task]
name = "example/adds-up"

[agent]
timeout_sec = 20.0

[verifier]
timeout_sec = 20.0

[environment]
cpus = 1
memory_mb = 400
storage_mb = 32

[environment.env]
UNIT = "euro"
"""
DOCKERFILE = """# the files
FROM python:3.12-slim
RUN pip install --no-cache-dir pandas==2.2 && \\
    mkdir -p /app/out
WORKDIR /app
COPY bill.csv notes/ ./
COPY --chown=root tool.sh /app/bin/
ENV PLACE=here
CMD ["bash"]
"""
TEST = """#!/bin/bash
# SECRET: what is looked for
if [ "$(cat total.txt)" = "42 $UNIT" ] && [ "$PWD" = /app ] && [ -x bin/tool.sh ]; then
  echo 1 > /logs/verifier/reward.txt
else
  echo 0.25 > /logs/verifier/reward.txt
fi
cat /tests/expected.txt
"""
FILES = {
    "task.toml": TASK,
    "instruction.md": "<!-- canary 1234 -->\n\nWrite the sum of bill.csv, with its unit, to total.txt.\n",
    "environment/Dockerfile": DOCKERFILE,
    "environment/bill.csv": "price\n40\n2\n",
    "environment/notes/readme.txt": "prices\n",
    "environment/tool.sh": "#!/bin/bash\necho tool\n",
    "tests/test.sh": TEST,
    "tests/expected.txt": "SECRET 42\n",
    "solution/solve.sh": """#!/bin/bash
sum=0
for price in $(tail -n +2 bill.csv); do sum=$((sum + price)); done
echo "$sum $UNIT" > total.txt
""",
}


def make(folder: Path, **changed: str | None) -> Path:
    """The task's folder, with other contents of some files; None: without that file."""
    for name, text in {**FILES, **changed}.items():
        if text is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755 if name.endswith(".sh") else 0o644)
    return folder
