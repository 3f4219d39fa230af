"""`train-arch` that sends signals to itself: harmed.py FUNCTION CALL SIGNAL[,SIGNAL] [--launcher] ARGUMENTS.

At the given call, counted from 1, of a function of the training loop; to the process that started it with --launcher.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from effnet_builder.cli.train import main
from effnet_builder.train import engine

if __name__ == "__main__":
    _, name, call, sent, *arguments = sys.argv
    to_launcher = arguments[:1] == ["--launcher"]
    sys.argv = ["train-arch", *arguments[to_launcher:]]
    real, calls = getattr(engine, name), [0]

    def harmed(*given: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == int(call) and os.environ.get("RANK", "0") == "0":
            for one in sent.split(","):
                os.kill(os.getppid() if to_launcher else os.getpid(), signal.Signals[one])
        return real(*given, **options)

    setattr(engine, name, harmed)
    main()
