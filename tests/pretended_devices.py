"""openhpo's command line on ranks that see accelerators which are not there; the training runs on the CPU.

PRETENDED names what each rank sees, such as "A,B A,B" for two ranks that see the same two devices; with a question mark, as in
"A? A?", nothing tells whether these are the same.
"""

import os

from openhpo.actors.run import launched_rank
from openhpo.cli.main import main
from openhpo.training.devices import KINDS, Seen, TorchDevice
from openhpo.training.devices.choosing import Kind


def look():
    names = os.environ["PRETENDED"].split()[launched_rank()]
    return Seen("cuda", tuple(names.rstrip("?").split(",")), certain=not names.endswith("?"))


KINDS["cuda"] = Kind(look, lambda number, identity, ranks: TorchDevice("cpu", identity))

if __name__ == "__main__":
    main()
