"""The pinned npm `solc`, driven through node with standard JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from keeper.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]

_DRIVER = """
const solc = require(process.argv[1]);
let text = '';
process.stdin.on('data', (chunk) => { text += chunk; });
process.stdin.on('end', () => { process.stdout.write(solc.compile(text)); });
"""


def compile_standard(request: dict[str, Any], package: str = "solc") -> dict[str, Any]:
    """Compile a standard-JSON request and return the answer; raises ConfigError with the compiler's first error."""
    node = shutil.which("node")
    if node is None:
        raise ConfigError("node is not on PATH: install Node 20 or newer, it runs the Solidity compiler")
    if not (ROOT / "node_modules" / package).is_dir():
        raise ConfigError(f"node_modules/{package} is missing under {ROOT}: run `make install` first")
    done = subprocess.run(
        [node, "-e", _DRIVER, package], cwd=ROOT, input=json.dumps(request), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ConfigError(f"the Solidity compiler failed: {done.stderr.strip()[:500]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    errors = [e["formattedMessage"] for e in answer.get("errors", ()) if e["severity"] == "error"]
    if errors:
        raise ConfigError(f"Solidity did not compile: {errors[0]}")
    return answer
