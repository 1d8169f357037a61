#!/usr/bin/env python3
"""Cuts a small set of images out of a tar of many: the first of each folder.

    tests/gpu/subset.py cifar10.tar small.tar --each 1000
"""

import argparse
import collections
import posixpath
import tarfile


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("many")
    parser.add_argument("few")
    parser.add_argument("--each", type=int, default=1000, help="images of a folder")
    args = parser.parse_args()
    taken = collections.Counter()
    with tarfile.open(args.many) as many, tarfile.open(args.few, "w") as few:
        for member in many:
            folder = posixpath.dirname(member.name)
            if member.isfile() and taken[folder] < args.each:
                taken[folder] += 1
                few.addfile(member, many.extractfile(member))
    print(f"{sum(taken.values())} images in {len(taken)} folders")


if __name__ == "__main__":
    main()
