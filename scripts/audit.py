"""Look up the pinned dependencies among known vulnerabilities; exit code 1 if one is there.

python scripts/audit.py

Where the network does not allow it, that is said, and nothing is wrong.
"""

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"


def main() -> None:
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--format", "json"]
    done = subprocess.run([*command, "-r", str(CONSTRAINTS)], capture_output=True, text=True)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"audit: not possible here: {said[:200]}")
        return
    looked_up = [it for it in dependencies if "skip_reason" not in it]
    if not looked_up:
        print("audit: not possible here: the package index knows nothing of vulnerabilities")
        return
    found = [(it, weakness) for it in looked_up for weakness in it["vulns"]]
    for it, weakness in found:
        mended = ", ".join(weakness["fix_versions"]) or "no version yet"
        print(f"audit: {it['name']} {it['version']}: {weakness['id']}, mended in {mended}")
    print(f"audit: {len(looked_up)} of {len(dependencies)} pinned packages looked up, {len(found)} weaknesses known")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
