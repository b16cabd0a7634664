"""JSON that others wrote."""

import json
from pathlib import Path
from typing import Any

from gpt_lightning.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; UserError if there is none."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"There is no {path}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object.")
    return content
