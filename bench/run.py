# SPDX-License-Identifier: Apache-2.0
"""The benchmark suite: `make bench`, or `python bench/run.py --help`.

Runs every workload in a fresh process, all contestants interleaved, and writes what was measured as
JSON and as the tables of `docs/benchmarks.md`. Results of workloads that are not run again stay.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import import_time
from machine import describe_machine, load
from table import write_document
from workloads import WORKLOADS

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
SCRIPTS = ("import", "describe")
MANAGER = "manager"


def main() -> int:
    """Run what was asked for, then write the results."""
    args = _arguments()
    results = _known(args)
    os.makedirs(args.dir, exist_ok=True)
    chosen = args.workload or [*WORKLOADS, *SCRIPTS, MANAGER]
    if chosen != [MANAGER]:  # which says itself how busy the machine was
        results["machine"] = describe_machine(args.dir)
    results["quick"] = args.quick
    failed: list[str] = []
    for name in chosen:
        began = time.monotonic()
        try:
            if name == MANAGER:
                results[MANAGER] = {**_script(name, args), "load": load()}
            elif name in SCRIPTS:
                results["scripts"][name] = _script(name, args)
            else:
                results["workloads"][name] = _workload(name, args)
            if name != MANAGER:
                results["machine"]["load after"] = load()
            _write(results, args)  # a long run that is interrupted keeps what it has
        except subprocess.CalledProcessError as error:
            failed.append(name)
            print(f"{name} FAILED: {error}\n{error.stderr or ''}", file=sys.stderr)
        print(f"{name} took {time.monotonic() - began:.0f} s", file=sys.stderr)
    lost = [
        f"{name}: {who}: {why}"
        for name, found in results["workloads"].items()
        for who, why in found["failed"].items()
    ]
    for line in [*failed, *lost]:
        print(f"FAILED {line}", file=sys.stderr)
    return 1 if failed or lost else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: does everything work?")
    parser.add_argument(
        "--workload",
        action="append",
        choices=[*WORKLOADS, *SCRIPTS, MANAGER],
        help="only this one (may be repeated)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default: 5)")
    parser.add_argument("--only", nargs="+", help="contestants, by the beginning of their names")
    parser.add_argument("--dir", default=f"{HERE}/.scratch", help="where checkpoints are written")
    parser.add_argument("--out", help="the document (default: docs/benchmarks.md; none if quick)")
    parser.add_argument("--json", help="the results (default: bench/results.json; none if quick)")
    args = parser.parse_args()
    if not args.quick:
        args.out = args.out or f"{ROOT}/docs/benchmarks.md"
        args.json = args.json or f"{HERE}/results.json"
    return args


def _known(args: argparse.Namespace) -> dict[str, Any]:
    """Results of an earlier run, if only some workloads are run now."""
    if args.workload and args.json and os.path.exists(args.json):
        with open(args.json) as file:
            return json.load(file)
    return {"workloads": {}, "scripts": {}}


def _workload(name: str, args: argparse.Namespace) -> Any:
    flag = f"--xla_force_host_platform_device_count={WORKLOADS[name].devices}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip(),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    rounds = 2 if args.quick else args.rounds
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "result.json")
        command = [sys.executable, f"{HERE}/measure.py", "--workload", name, "--out", out]
        command += ["--rounds", str(rounds), "--dir", args.dir]
        command += ["--quick"] if args.quick else []
        command += ["--only", *args.only] if args.only else []
        subprocess.run(command, check=True, env=environment)
        with open(out) as file:
            return json.load(file)


def _script(name: str, args: argparse.Namespace) -> Any:
    if name == "import":
        return import_time.measure(3 if args.quick else import_time.TIMES)
    command = [sys.executable, f"{HERE}/{name}.py", "--json", "--dir", args.dir]
    if name == MANAGER and args.quick:
        command += ["--steps", "200", "--rounds", "2"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    text = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return json.loads(text.stdout)


def _write(results: dict[str, Any], args: argparse.Namespace) -> None:
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
    if args.out:
        write_document(results, args.out)


if __name__ == "__main__":
    sys.exit(main())
