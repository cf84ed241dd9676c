"""Starts the LRS Ralph on files: lrs.py FOLDER PORT. Log-in: sluice / lrs-s3cret."""

import json
import os
import pathlib
import sys

import bcrypt

folder, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
statements = folder / "fs_lrs.jsonl"
# What a database does after a crash: a line that was cut off by the kill was never acknowledged, and goes.
if statements.exists():
    data = statements.read_bytes()
    statements.write_bytes(data[: data.rfind(b"\n") + 1])
else:
    statements.touch()
(folder / "history.json").unlink(missing_ok=True)
(folder / "auth.json").write_text(
    json.dumps(
        [
            {
                "agent": {"mbox": "mailto:sluice@example.com", "name": "sluice"},
                "scopes": ["all"],
                "hash": bcrypt.hashpw(b"lrs-s3cret", bcrypt.gensalt(4)).decode(),
                "username": "sluice",
                "target": None,
            }
        ]
    )
)
os.chdir(folder)
os.environ.update(
    RALPH_APP_DIR=str(folder),
    RALPH_AUTH_FILE=str(folder / "auth.json"),
    RALPH_HISTORY_FILE=str(folder / "history.json"),
    RALPH_RUNSERVER_BACKEND="fs",
    RALPH_BACKENDS__LRS__FS__DEFAULT_DIRECTORY_PATH=str(folder),
)

# Before the import below, which makes the backend: by default it refuses every write but the first.
from ralph.backends.data.base import BaseOperationType  # noqa: E402
from ralph.backends.lrs.fs import FSLRSBackend  # noqa: E402

FSLRSBackend.default_operation_type = BaseOperationType.APPEND

import uvicorn  # noqa: E402
from ralph.api import app  # noqa: E402

uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
