"""`train-arch` that harms itself: harmed.py FUNCTION CALL SIGNAL[,SIGNAL]|FULL [--launcher] ARGUMENTS.

At the given call, counted from 1, of a function of the training loop, it sends signals to itself, or with --launcher to
the process that started it; FULL is a disk without room for large files until the next evaluation.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import Any

from effnet_builder.cli.train import main
from effnet_builder.train import engine

if __name__ == "__main__":
    _, name, call, sent, *arguments = sys.argv
    to_launcher = arguments[:1] == ["--launcher"]
    sys.argv = ["train-arch", *arguments[to_launcher:]]
    limits, end_epoch = resource.getrlimit(resource.RLIMIT_FSIZE), engine.end_epoch
    real, calls = getattr(engine, name), [0]

    def harmed(*given: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == int(call) and sent == "FULL":
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        elif calls[0] == int(call) and os.environ.get("RANK", "0") == "0":
            for one in sent.split(","):
                os.kill(os.getppid() if to_launcher else os.getpid(), signal.Signals[one])
        return real(*given, **options)

    def with_room(*given: Any, **options: Any) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        return end_epoch(*given, **options)

    setattr(engine, name, harmed)
    if sent == "FULL":
        engine.end_epoch = with_room
    main()
