"""States of training, lowered to a JSON header and one flat buffer. No pickle: reading somebody's state never runs code.

The header is a tree of plain JSON values. Whatever JSON does not have is an object with the key "!", its kind: tensors and
arrays name their element type, shape and place in the buffer; dictionaries list their items, as keys need not be texts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy
from numpy.typing import NDArray

from openhpo.libraries import loaded
from openhpo.training.staging import Arriving, Copier, Item

KIND = "!"
ALIGNMENT = 64  # bytes
HALF = 2  # bytes of an element in either type of 16 bits


class CannotLower(TypeError):
    """A state holds something that cannot be lowered."""

    def __init__(self, path: str, item: object) -> None:
        kind = type(item)
        named = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        super().__init__(
            f"the state of {path} is a {named}, which cannot be stored: a state is made of tensors, arrays, numbers, texts, "
            "lists and dictionaries. Leave it out of state_dict(), or turn it into these."
        )


@dataclass(frozen=True)
class Snapshot:
    """The states of all tracked objects at one step.

    Attributes:
        header: JSON, by the name each object is tracked under.
        data: The tensors' bytes, shape [bytes], uint8.
        arriving: Those that are still on their way from the device; None where all are there.
    """

    header: bytes
    data: NDArray[numpy.uint8]
    arriving: Arriving | None = field(default=None, compare=False)

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.header) + self.data.size

    def leaves(self) -> Iterator[Leaf]:
        """The tensors and arrays in it."""
        for name, tree in (json.loads(self.header) or {}).items():  # nothing, where nothing was tracked
            yield from _leaves(name, tree)


@dataclass(frozen=True)
class Leaf:
    """A tensor or array of a snapshot: its path, element type, shape, and place in the buffer."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    at: int
    size: int


def lower(
    tracked: Mapping[str, Any],
    spare: Callable[[int], NDArray[numpy.uint8] | None] | None = None,
    *,
    copier: Copier | None = None,
    dtype: str | None = None,
    wait: bool = True,
) -> Snapshot:
    """Copy the states of tracked objects to host memory.

    Args:
        tracked: Objects with `state_dict`, by name.
        spare: Gives a buffer of so many bytes that nobody needs any more, or None.
        copier: Copies from the device that the training uses; None where it has none of its own.
        dtype: The type in which tensors of fp32 are stored, such as "bfloat16"; None for their own.
        wait: Whether to wait for all bytes. Else the training may go on, and whoever uses them waits for `arriving`.

    Raises:
        CannotLower: Naming the key.
    """
    lowering = Lowering(dtype)
    header = {name: lowering.node(name, item.state_dict()) for name, item in tracked.items()}
    data = spare(lowering.size) if spare is not None else None
    if data is None:
        data = numpy.empty(lowering.size, numpy.uint8)
    arriving = _copy_all([item for item in lowering.items if item[1]], data, copier)
    if wait and arriving is not None:
        arriving.wait()
        arriving = None
    return Snapshot(json.dumps(header).encode(), data, arriving)


def _copy_all(items: list[Item], data: NDArray[numpy.uint8], copier: Copier | None) -> Arriving | None:
    there = [item for item in items if copier is not None and item[3] and copier.takes(item[2])]
    arriving = copier.download(there, data) if copier is not None and there else None
    taken = {item[0] for item in there} if arriving is not None else ()
    for at, size, item, dtype in items:
        if at not in taken:
            _copy(item, data[at : at + size], dtype)
    return arriving


class Lowering:
    """Gathers what goes into the buffer while a state is walked.

    Args:
        dtype: The type in which tensors of fp32 are stored; None for their own.
    """

    def __init__(self, dtype: str | None = None) -> None:
        self._dtype = dtype
        self.items: list[Item] = []
        self.size = 0

    def node(self, path: str, item: Any) -> Any:
        """The header's part for one value."""
        if item is None or isinstance(item, bool | str) or type(item) is int:
            return item
        if type(item) is float:
            return item if item - item == 0 else {KIND: "float", "value": repr(item)}
        if isinstance(item, Mapping):
            return self._mapping(path, item)
        if isinstance(item, list | tuple):
            return self._sequence(path, item)
        if isinstance(item, numpy.ndarray | numpy.generic):
            return self._array(path, item)
        if isinstance(item, bytes | bytearray):
            return {KIND: "bytes", **self._place(len(item), numpy.frombuffer(bytes(item), numpy.uint8))}
        if isinstance(item, complex):
            return {KIND: "complex", "value": [self.node(path, item.real), self.node(path, item.imag)]}
        torch = loaded("torch")
        if torch is not None:
            if isinstance(item, torch.Tensor):
                return self._tensor(path, item)
            if isinstance(item, torch.dtype | torch.device):
                kind = "torch.dtype" if isinstance(item, torch.dtype) else "torch.device"
                return {KIND: kind, "name": str(item).removeprefix("torch.")}
        raise CannotLower(path, item)

    def _mapping(self, path: str, item: Mapping[Any, Any]) -> Any:
        items = [[self.node(f"{path} (a key)", key), self.node(f"{path}.{key}", value)] for key, value in item.items()]
        metadata = getattr(item, "_metadata", None)  # the versions of modules' states
        found: dict[str, Any] = {KIND: "dict", "items": items}
        if isinstance(metadata, Mapping):
            found["metadata"] = self.node(f"{path} (metadata)", dict(metadata))
        return found

    def _sequence(self, path: str, item: list[Any] | tuple[Any, ...]) -> Any:
        nodes = [self.node(f"{path}.{place}", inner) for place, inner in enumerate(item)]
        if type(item) is list:
            return nodes
        if type(item) is tuple or type(item).__name__ == "Size":
            return {KIND: "tuple", "items": nodes}
        raise CannotLower(path, item)

    def _array(self, path: str, item: Any) -> Any:
        array = numpy.asarray(item)
        if array.dtype.hasobject or array.dtype.names is not None:
            raise CannotLower(f"{path} (dtype {array.dtype})", item)
        kind = "array" if isinstance(item, numpy.ndarray) else "scalar"
        return {KIND: kind, "dtype": array.dtype.str, "shape": list(array.shape), **self._place(array.nbytes, array)}

    def _tensor(self, path: str, item: Any) -> Any:
        import torch

        if item.layout is not torch.strided or item.is_quantized or item.is_meta:
            raise CannotLower(f"{path} ({item.layout}, {item.dtype}, on {item.device})", item)
        own = dtype = str(item.dtype).removeprefix("torch.")
        size = item.numel() * item.element_size()
        told: dict[str, Any] = {} if item.device.type == "cpu" else {"on": item.device.type}
        if self._dtype is not None and own == "float32" and item.ndim:  # a single number, such as a count of steps, stays exact
            dtype, size = self._dtype, item.numel() * HALF
            told["was"] = own
        return {KIND: "tensor", "dtype": dtype, "shape": list(item.shape), **told, **self._place(size, item.detach(), dtype)}

    def _place(self, size: int, item: Any, dtype: str = "") -> dict[str, int]:
        at = self.size
        self.items.append((at, size, item, dtype))
        self.size += -(-size // ALIGNMENT) * ALIGNMENT
        return {"at": at, "size": size}


def _copy(item: Any, place: NDArray[numpy.uint8], dtype: str) -> None:
    if isinstance(item, numpy.ndarray):
        place.view(item.dtype).reshape(item.shape)[...] = item
    else:
        import torch

        torch.from_numpy(place).view(getattr(torch, dtype)).reshape(item.shape).copy_(item)


def lift(snapshot: Snapshot, *, owned: bool = False) -> dict[str, Any]:
    """The states in a snapshot, by the name each object was tracked under.

    Args:
        snapshot: As `lower` made it.
        owned: Whether nobody else needs the snapshot, so that tensors may share its memory.
    """
    return {name: make() for name, make in lifts(snapshot, owned=owned).items()}


def lifts(snapshot: Snapshot, *, owned: bool = False, copier: Copier | None = None) -> dict[str, Callable[[], Any]]:
    """The same, each state made when it is asked for, so that not all of them take up the device's memory at once.

    Args:
        snapshot: As `lower` made it.
        owned: As above.
        copier: Copies to the device that the training uses what was on a device before.
    """
    if snapshot.arriving is not None:
        snapshot.arriving.wait()
    data = snapshot.data if owned else snapshot.data.copy()
    return {name: partial(_lifted, tree, data, copier) for name, tree in json.loads(snapshot.header).items()}


def _lifted(node: Any, data: NDArray[numpy.uint8], copier: Copier | None = None) -> Any:
    if isinstance(node, list):
        return [_lifted(inner, data, copier) for inner in node]
    if not isinstance(node, dict):
        return node
    kind = node[KIND]
    if kind == "dict":
        return _lifted_dict(node, data, copier)
    if kind == "tuple":
        return tuple(_lifted(inner, data, copier) for inner in node["items"])
    if kind == "float":
        return float(node["value"])
    if kind == "complex":
        return complex(*(_lifted(part, data) for part in node["value"]))
    if kind.startswith("torch."):
        import torch

        return getattr(torch, node["name"]) if kind == "torch.dtype" else torch.device(node["name"])
    part = data[node["at"] : node["at"] + node["size"]]
    if kind == "bytes":
        return part.tobytes()
    if kind == "tensor":
        return _lifted_tensor(node, part, copier)
    array = part.view(node["dtype"]).reshape(node["shape"]) if part.size else numpy.empty(node["shape"], node["dtype"])
    return array if kind == "array" else array[()]


def _lifted_dict(node: dict[str, Any], data: NDArray[numpy.uint8], copier: Copier | None) -> Any:
    found = {_lifted(key, data): _lifted(value, data, copier) for key, value in node["items"]}
    if "metadata" not in node:
        return found
    from collections import OrderedDict

    ordered: Any = OrderedDict(found)
    ordered._metadata = OrderedDict(_lifted(node["metadata"], data))
    return ordered


def _lifted_tensor(node: dict[str, Any], part: NDArray[numpy.uint8], copier: Copier | None) -> Any:
    import torch

    dtype = getattr(torch, node["dtype"])
    found: Any = None
    if not part.size:
        found = torch.empty(node["shape"], dtype=dtype)
    elif copier is not None and "on" in node:
        found = copier.upload(part, node["dtype"], node["shape"])
    if found is None:
        found = torch.from_numpy(part).view(dtype).reshape(node["shape"])
    return found.to(getattr(torch, node["was"])) if "was" in node else found


def _leaves(path: str, node: Any) -> Iterator[Leaf]:
    if isinstance(node, list):
        for place, inner in enumerate(node):
            yield from _leaves(f"{path}.{place}", inner)
    elif isinstance(node, dict) and node[KIND] == "dict":
        for key, value in node["items"]:
            yield from _leaves(f"{path}.{key}", value)
    elif isinstance(node, dict) and node[KIND] == "tuple":
        yield from _leaves(path, node["items"])
    elif isinstance(node, dict) and "at" in node:
        yield Leaf(path, node.get("dtype", "bytes"), tuple(node.get("shape", [node["size"]])), node["at"], node["size"])


# ---- what has no state_dict of its own


class Held:
    """Gives an object the two methods that `track` needs."""

    def __init__(self, item: Any) -> None:
        self.item = item

    def state_dict(self) -> dict[str, Any]:
        return {"value": self._get()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._set(state["value"])

    def _get(self) -> Any:
        return self.item

    def _set(self, value: Any) -> None:
        raise NotImplementedError


class HeldArray(Held):
    """A NumPy array, restored in place."""

    def _set(self, value: Any) -> None:
        self.item[...] = value


class HeldTensor(Held):
    """A tensor, restored in place."""

    def _set(self, value: Any) -> None:
        self.item.detach().copy_(value)


class HeldNumpyGenerator(Held):
    """A NumPy random generator."""

    def _get(self) -> Any:
        return self.item.bit_generator.state

    def _set(self, value: Any) -> None:
        self.item.bit_generator.state = value


class HeldTorchGenerator(Held):
    """A torch random generator."""

    def _get(self) -> Any:
        return self.item.get_state()

    def _set(self, value: Any) -> None:
        self.item.set_state(value)


class HeldRandom(Held):
    """A random generator of Python's own."""

    def _get(self) -> Any:
        return self.item.getstate()

    def _set(self, value: Any) -> None:
        self.item.setstate(value)


def trackable(item: Any) -> Any:
    """An object with `state_dict` and `load_state_dict` for the state of `item`; None where there is no way."""
    if hasattr(item, "state_dict") and hasattr(item, "load_state_dict"):
        return item
    if isinstance(item, numpy.ndarray):
        return HeldArray(item)
    if isinstance(item, numpy.random.Generator):
        return HeldNumpyGenerator(item)
    if isinstance(item, random.Random):
        return HeldRandom(item)
    torch = loaded("torch")
    if torch is not None and isinstance(item, torch.Tensor):
        return HeldTensor(item)
    if torch is not None and isinstance(item, torch.Generator):
        return HeldTorchGenerator(item)
    return None
