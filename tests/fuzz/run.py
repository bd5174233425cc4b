# SPDX-License-Identifier: Apache-2.0
"""Fuzzing that watches which branches are taken: `python -m tests.fuzz.run ledger --seconds 600`.

Knows atheris and the targets. Stops at the first input that is neither read nor refused, writes it
to the current directory and says its name; `--seed` makes a run again.
"""

import argparse
import os
import sys
import tempfile

import atheris


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with atheris.instrument_imports(include=["pertinax._formats", "pertinax._steps.index"]):
        from tests.fuzz.targets import TARGETS, words_of
    target = TARGETS[options.target]

    def attempt(data: bytes) -> None:
        target(data)

    corpus = tempfile.mkdtemp(prefix="fuzz-")
    for i, seed in enumerate(target.seeds):
        with open(os.path.join(corpus, f"seed-{i}"), "wb") as file:
            file.write(seed)
    words = os.path.join(corpus, "words.dict")
    with open(words, "w") as file:
        for word in words_of(options.target):
            spelled = "".join(f"\\x{byte:02x}" for byte in word)
            print(f'"{spelled}"', file=file)
    arguments = [
        sys.argv[0],
        f"-max_total_time={options.seconds}",
        f"-seed={options.seed}",
        f"-dict={words}",
        "-timeout=20",
        "-rss_limit_mb=4096",
        "-max_len=20000",
        "-print_final_stats=1",
        corpus,
    ]
    atheris.Setup(arguments, attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
