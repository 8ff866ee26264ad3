"""Watching PyTorch's dispatcher without its compiler."""

import sys
import threading
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode that does not bring the compiler along.

    PyTorch wraps modes so that its compiler keeps out of them, and imports the compiler for that, which takes nearly as
    long as importing PyTorch itself. Where nobody has imported it there is nothing to keep out; and what is compiled
    later on runs uncompiled within a mode.

    One thread at a time is in a mode: PyTorch notes in one place for all threads that somebody is.
    """

    _alone = threading.RLock()

    def __enter__(self) -> Any:
        """Begin to watch, once no other thread does."""
        self._alone.acquire()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *raised: Any) -> None:
        """Watch no longer."""
        try:
            super().__exit__(*raised)  # type: ignore[no-untyped-call]
        finally:
            self._alone.release()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return "torch._dynamo" in sys.modules
