"""Bad files given to `build-arch` as whole processes: the longest time and the largest memory until each is refused.

python benchmarks/hostile.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEAD = "name: x\nresolution: 224\nstem: {out_channels: 8}\nhead: {out_channels: 8}\n"
ROW = "{type: mbconv, expand_ratio: 6, out_channels: 8}"


def bombs() -> dict[str, bytes]:
    """Named contents of bad files."""
    aliases = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
    )
    texts = {
        "alias bomb, 9 levels": aliases,
        "merge-key bomb, 9 levels": merges,
        "[ nested 250,000 deep": "[" * 250_000,
        "- nested 100,000 deep": "- " * 100_000,
        "{a: nested 50,000 deep": "{a: " * 50_000,
        "9,900 unknown keys": "".join(f"k{i}: 1\n" for i in range(9_900)),
        "60,000 keys": "".join(f"k{i}: 1\n" for i in range(20_000)),
        "a scalar of 250,000 characters": "name: " + "x" * 250_000,
        "a number of 250,000 digits": "resolution: " + "9" * 250_000,
        "underscores": "resolution: 1" + "_" * 250_000 + "x",
        "base 60 of 100,000 parts": "resolution: 1" + ":0" * 100_000,
        "a stage table of 1,500 rows": HEAD + "stages:\n" + f"  - {ROW}\n" * 1_500,
        "200 stages of 1,000 blocks": HEAD + "stages:\n" + f"  - {ROW[:-1]}, repeats: 1000}}\n" * 200,
        "phi = 100": "extends: efficientnet-b0\nname: x\nscaling: {phi: 100}\n",
        "phi = 1e400": "extends: efficientnet-b0\nname: x\nscaling: {phi: 1e400}\n",
        "million channels": HEAD.replace("8", "1000000") + f"stages: [{ROW.replace('8', '1000000')}]\n",
        "tags": "a: !!python/object/apply:os.system [id]\n",
        "empty": "",
    }
    files = {name: text.encode() for name, text in texts.items()}
    files["binary"] = bytes(range(256)) * 1000
    files["NUL bytes"] = b"\0" * 200_000
    return files


def main() -> None:
    """Run every file and the paths that are no files."""
    with tempfile.TemporaryDirectory() as folder:
        targets = {}
        for i, (name, data) in enumerate(bombs().items()):
            path = Path(folder) / f"{i}.yaml"
            path.write_bytes(data)
            targets[name] = str(path)
        with (Path(folder) / "large.yaml").open(
            "wb"
        ) as file:  # in pieces: a child's peak memory starts at its parent's
            for _ in range(100):
                file.write(b"a: 1\n" * 200_000)
        pipe = Path(folder) / "pipe.yaml"
        os.mkfifo(pipe)
        targets |= {"100 MB of text": file.name, "a directory": folder, "/dev/zero": "/dev/zero", "a pipe": str(pipe)}
        worst = [0.0, 0.0]
        print(f"{'bad file':34}  {'s':>5}  {'MB':>5}  exit  lines  first line")
        for name, target in targets.items():
            command = [sys.executable, "-c", "from effnet_builder.cli.build import main; main()", target, "--summary"]
            start = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            assert process.stderr is not None
            lines = process.stderr.read().splitlines()
            _, status, usage = os.wait4(process.pid, 0)
            figures = time.perf_counter() - start, usage.ru_maxrss / 1e3
            worst = [max(pair) for pair in zip(worst, figures, strict=True)]
            code = os.waitstatus_to_exitcode(status)
            first = lines[0].replace(folder, "") if lines else ""
            print(f"{name:34}  {figures[0]:5.2f}  {figures[1]:5.0f}  {code:4}  {len(lines):5}  {first[:70]}")
        print(f"\nworst: {worst[0]:.2f} s, {worst[1]:.0f} MB; {len(targets)} files")


if __name__ == "__main__":
    main()
