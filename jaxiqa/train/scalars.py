"""TensorBoard scalars beside metrics.jsonl, if tensorboardX is installed."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@contextmanager
def scalars(folder: Path, history: Sequence[Mapping[str, Any]]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Write the rows of finished epochs to ``folder/tensorboard``, and yield the function that writes one more.

    Every number of a row is a scalar at the row's ``step``; a None, such as the SROCC of equal scores, is left out. A
    resumed run repeats the epochs after its last checkpoint. So event files from before are emptied, and all points are
    written again from ``history``: every epoch has one point, with the numbers of metrics.jsonl. Wall times are those
    of writing.

    Without tensorboardX (the extra ``jaxiqa[tensorboard]``) nothing is written.

    Args:
        folder: of the run.
        history: rows of finished epochs, as in metrics.jsonl.

    Raises:
        OSError: the folder cannot be written.
    """
    if find_spec("tensorboardX") is None:
        yield lambda row: None
        return
    # Its SummaryWriter writes in a thread, which waits for ever after a full disk; this is what that thread calls.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import scalar

    events = folder / "tensorboard"
    events.mkdir(parents=True, exist_ok=True)
    for file in events.glob("events.out.tfevents.*"):
        file.write_bytes(b"")  # an open TensorBoard with --load_fast=false shows nothing new after a deleted file
    with closing(EventsWriter(str(events / "events"))) as writer:

        def write(*rows: Mapping[str, Any]) -> None:
            for row in rows:
                for name, value in row.items():
                    if name not in ("epoch", "step") and isinstance(value, int | float):
                        writer.write_event(Event(step=row["step"], wall_time=time.time(), summary=scalar(name, value)))
            writer.flush()

        # An open TensorBoard drops the points that it has read.
        writer.write_event(Event(step=0, wall_time=time.time(), session_log=SessionLog(status=SessionLog.START)))
        write(*history)
        yield write
