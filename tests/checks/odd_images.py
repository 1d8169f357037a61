"""Asks `greedy predict` about every file in folders of odd and broken images: each gets classes or a clear error.

    odd_images.py GREEDY STAGE_FOLDER FOLDER…

Fails where the program crashes, hangs, takes more than half a gigabyte of memory, or an error does not name its file.
"""
import json
import resource
import subprocess
import sys
from pathlib import Path

MOST_MIB, MOST_SECONDS, FILES_AT_ONCE = 512, 120, 50


def main():
    greedy, stage, *folders = sys.argv[1:]
    files = sorted(str(path) for folder in folders for path in Path(folder).rglob("*") if path.is_file())
    read, refused = 0, 0
    for start in range(0, len(files), FILES_AT_ONCE):
        for found in predict(greedy, stage, files[start : start + FILES_AT_ONCE]):
            if "error" in found:
                refused += 1
                if Path(found["image"]).name not in found["error"]:
                    sys.exit(f"FAILED: the error does not name {found['image']}: {found['error']}")
            else:
                read += 1
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{len(files)} odd files: {read} read, {refused} refused, peak memory {peak:.0f} MiB")
    if not files or read == 0 or refused == 0 or peak > MOST_MIB:
        sys.exit("FAILED: that is not plausible")


def predict(greedy, stage, files):
    command = [greedy, "predict", "--from", stage, "--json", *files]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=MOST_SECONDS)
    if run.returncode not in (0, 1) or "fault of greedy" in run.stderr:
        sys.exit(f"FAILED: exit code {run.returncode} among {files}:\n{run.stderr}")
    found = json.loads(run.stdout)["images"]
    if [one["image"] for one in found] != files:
        sys.exit("FAILED: not every file got an answer")
    return found


if __name__ == "__main__":
    main()
