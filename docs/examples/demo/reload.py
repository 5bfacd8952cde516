"""Load a saved program and run it: the demo's second process.

It reads the token ids as JSON from standard input and writes the embeddings as JSON. The model's
own code is not imported; the program is all there is.
"""

from __future__ import annotations

import json
import sys

import torch

import hopyard


def main() -> None:
    """Run the program named on the command line."""
    program = hopyard.load(sys.argv[1])
    inputs = [torch.tensor(values) for values in json.load(sys.stdin)]
    with torch.no_grad():
        json.dump(program(*inputs).tolist(), sys.stdout)


if __name__ == "__main__":
    main()
