"""A script for ranks: trains, averages, and says at the end what it has.

Arguments: folder of artifacts, folder of the checkpoint, number of steps, and optionally the step
at which rank 1 kills itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys

from small_models import batches

from onnx_structdrop.training import LocalSGD

EVERY = 4


def digest(arrays):
    content = b"".join(arrays[name].tobytes() for name in sorted(arrays))
    return hashlib.sha256(content).hexdigest()


def main(artifacts, checkpoint, steps, death=None):
    with LocalSGD(
        artifacts,
        every=EVERY,
        checkpoint=checkpoint,
        native=True,
        threads=1,
        learning_rate=0.01,
        seed=3,
        timeout=30,
    ) as rank:
        masks, between = [], ""
        for step, batch in enumerate(list(batches(int(steps)))):
            if death is not None and rank.rank == 1 and step == int(death):
                os.kill(os.getpid(), signal.SIGKILL)
            loss = rank.step(*batch)
            masks.append({"mask": rank.session.last_outputs["relu1_dropped_mask"]})
            if step == EVERY:  # one step after a mean
                between = digest(rank.session.parameters)
        found = {
            "rank": rank.rank,
            "size": rank.size,
            "steps": rank.session.steps,
            "parameters": digest(rank.session.parameters),
            "between": between,
            "masks": [digest(each) for each in masks],
            "mean of ranks": rank.mean(rank.rank),
            "loss": loss,
        }
        # One write for the line and its end: the ranks share this pipe, and print makes two.
        os.write(sys.stdout.fileno(), f"{json.dumps(found)}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
