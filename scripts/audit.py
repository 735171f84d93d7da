"""Check the pinned dependencies for known vulnerabilities; exit code 1 if there are any.

python scripts/audit.py

Without access to the vulnerability database it prints a note and exits with 0.
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
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"audit: not possible here: {reason[:200]}")
        return
    checked = [package for package in dependencies if "skip_reason" not in package]
    if not checked:
        print("audit: not possible here: the package index has no data on vulnerabilities")
        return
    vulnerable = [(package, vulnerability) for package in checked for vulnerability in package["vulns"]]
    for package, vulnerability in vulnerable:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"audit: {package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(
        f"audit: checked {len(checked)} of {len(dependencies)} pinned packages, {len(vulnerable)} vulnerabilities known"
    )
    sys.exit(bool(vulnerable))


if __name__ == "__main__":
    main()
