"""The frame of every result: machine, commit, figures; printed as a table or as JSON.

Never here: measuring.
"""

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
APART: Final = ("what", "ratio_to", "limits", "ok")  # not among the figures of a row


def document(name: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON document of `genesis bench`; ok: every limit is kept."""
    ok = all(row.get("ok", True) for row in results)
    head = {"name": name, "machine": machine(), "commit": commit()}
    return {**head, "results": results, "ok": ok}


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def commit() -> str:
    """Return the commit of the checkout, or nothing outside one."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],  # noqa: S607  # the user's git
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def show(found: dict[str, Any], *, as_json: bool) -> None:
    """Print a result document."""
    if as_json:
        print(json.dumps(found))
        return
    print(f"{found['name']}  ({found['machine']['cores']} cores, commit {found['commit']})")
    for row in found["results"]:
        figures = {key: value for key, value in row.items() if key not in APART}
        for to, ratios in row.get("ratio_to", {}).items():
            figures |= {f"{key} / {to}": value for key, value in ratios.items()}
        print(f"  {row['what']:<20}" + "  ".join(f"{k} {v:>9}" for k, v in figures.items()))
    for row in found["results"]:
        for limit in row.get("limits", ()):
            word = "at_most" if "at_most" in limit else "at_least"
            bound = f"{word.replace('_', ' ')} {limit[word]}"
            verdict = "ok" if limit["ok"] else "MISSED"
            print(f"  {row['what']:<20}{limit['figure']} {limit['is']}, {bound}: {verdict}")
