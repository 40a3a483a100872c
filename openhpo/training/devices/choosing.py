"""Which device a rank takes, by what it and the other ranks of its node see."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from openhpo.errors import UserError, meant
from openhpo.training.devices import apple, cpu, cuda, gaudi, intel
from openhpo.training.devices.base import Seen, TorchDevice


class Kind(NamedTuple):
    """A kind of device.

    Attributes:
        look: What this process sees of it; None where there is none.
        device: Makes the device with that number among those, that identity, and so many ranks that train on the node.
    """

    look: Callable[[], Seen | None]
    device: Callable[[int, str, int], TorchDevice]


KINDS = {  # the best first
    "hpu": Kind(gaudi.look, gaudi.Gaudi),
    "cuda": Kind(cuda.look, cuda.Cuda),
    "xpu": Kind(intel.look, intel.Xpu),
    "mps": Kind(apple.look, apple.device),
    "cpu": Kind(cpu.look, cpu.device),
}


def look(wish: str) -> Seen:
    """What this rank sees of the kind of device it is to train on; that there is none is noted and not raised.

    Args:
        wish: "auto" for the best kind there is, or a kind.

    Raises:
        UserError: There is no such kind.
    """
    if wish != "auto" and wish not in KINDS:
        raise UserError(f"there is no device {wish!r}: choose auto, {', '.join(KINDS)}.{meant(wish, KINDS)}")
    try:
        for kind in KINDS if wish == "auto" else [wish]:
            seen = KINDS[kind].look()
            if seen is not None:
                return seen
    except UserError as error:  # of this rank alone, while others wait for what it sees
        return Seen(wish, (), error=str(error))
    except (ImportError, OSError, RuntimeError) as error:
        return Seen(
            wish, (), error=f"looking for a device to train on failed ({type(error).__name__}: {error}); try --device cpu"
        )
    return Seen(wish, (), error=f"no {wish} device was found on this node; choose another, or auto")


def take(around: Sequence[Seen | None], place: int, *, share: bool = False) -> TorchDevice:
    """A rank's device.

    Args:
        around: What each rank of the node sees, by its place there; None for those that do not train.
        place: This rank's.
        share: Whether several ranks may have one accelerator.

    Raises:
        UserError: There is none, or it would be another rank's too.
    """
    seen = around[place]
    assert seen is not None
    if seen.error:
        raise UserError(seen.error)
    dealt = deal(around)
    if not share:
        _refuse_crowds(around, dealt)
    number = dealt[place]
    found = KINDS[seen.kind].device(number, seen.identities[number], len(dealt))
    found.shared = share
    return found


def deal(around: Sequence[Seen | None]) -> dict[int, int]:
    """The number of the device that each rank takes, by its place on the node.

    Each takes the first of those that the fewest have taken before it. Who sees the fewest comes first, so that a rank which
    is bound to one device finds it free.
    """
    load: dict[tuple[str, str], int] = defaultdict(int)
    found: dict[int, int] = {}
    places = [(len(seen.identities), place) for place, seen in enumerate(around) if seen is not None and seen.identities]
    for count, place in sorted(places):
        keys = _keys(around, place)
        number = min(range(count), key=lambda number: load[keys[number]])
        load[keys[number]] += 1
        found[place] = number
    return found


def _keys(around: Sequence[Seen | None], place: int) -> list[tuple[str, str]]:
    seen = around[place]
    assert seen is not None
    return [(seen.kind, identity) for identity in seen.identities]


def _refuse_crowds(around: Sequence[Seen | None], dealt: dict[int, int]) -> None:
    """Raise where two ranks would certainly have the same accelerator."""
    owners: dict[tuple[str, str], int] = {}
    for place, number in sorted(dealt.items()):
        seen = around[place]
        assert seen is not None
        key = kind, identity = _keys(around, place)[number]
        if kind == "cpu" or not seen.certain:
            continue
        if key in owners:
            raise UserError(_crowd(around, kind, identity, (owners[key], place)))
        owners[key] = place


def warning(host: str, identity: str, ranks: tuple[int, int]) -> str:
    """What to say of two ranks that have come to the same accelerator unasked."""
    return (
        f"ranks {ranks[0]} and {ranks[1]} of {host} seem to train on the same device ({identity}). Have the launcher bind each "
        "rank to one of its own, or say --share-devices if that is meant"
    )


def _crowd(around: Sequence[Seen | None], kind: str, identity: str, places: tuple[int, int]) -> str:
    ranks = [seen for seen in around if seen is not None and seen.kind == kind]
    count = len({identity for seen in ranks for identity in seen.identities})
    return (
        f"{len(ranks)} ranks train on {socket.gethostname()}, and see {count} {kind} device{'s' if count > 1 else ''}: those "
        f"with local ranks {places[0]} and {places[1]} would both take {identity}. Start fewer ranks on the node, have the "
        "launcher bind each rank to a device of its own, let ranks share by --share-devices (share_devices=True), or choose "
        "--device cpu"
    )
