"""A device in Python that keeps a GPU's rules: tests on it find what a CPU forgives.

    with fake_gpu() as gpu:
        model.to(DEVICE)(inputs)
    assert gpu.waits == []

A tensor of this device wraps a CPU tensor and computes on it, so its results can be compared with the CPU's. The rules
are those of torch's CUDA tensors:

    Tensors of two devices do not mix (RuntimeError), except for copies, CPU indices into a device tensor, and a CPU
        tensor without axes where an operator takes a number.
    Python waits for the device where it needs a number, or a size that depends on numbers: item(), bool(), tolist(),
        cpu(), nonzero, masks as indices, masked_select, unique, ... Each wait is noted in `waits`.
    Copies from ordinary CPU memory to the device are noted in `uploads`. (On a GPU they are synchronous as well.)
    Random numbers need a generator of the device.

It needs a torch that lets Python register a device (ImportError in older ones, the oldest that vl3ref allows among
them).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tests.helpers import ROOT

PACKAGE = str(ROOT / "vl3ref")
ATEN = torch.ops.aten

WAITS = {
    ATEN._local_scalar_dense,  # item(), bool(), int(), float()
    ATEN.nonzero,
    ATEN.masked_select,
    ATEN.equal,
    ATEN.multinomial,
    ATEN.bincount,
    ATEN.repeat_interleave,
    ATEN._unique,
    ATEN._unique2,
    ATEN.unique_dim,
    ATEN.unique_consecutive,
}
COPIES = {ATEN._to_copy, ATEN.copy_}
INDEXES = {ATEN.index, ATEN.index_put, ATEN.index_put_}
NUMBERS = {ATEN.masked_fill, ATEN.masked_fill_, ATEN.index_fill, ATEN.index_fill_, ATEN.index_put, ATEN.index_put_}
"""Operators that take a CPU tensor without axes for a number, as the pointwise ones do."""


def register() -> torch.device:
    """Give torch's unused device type a name, and what torch asks of a device beside its operators."""
    name = "fakegpu"
    module = SimpleNamespace(
        is_available=lambda: PRESENT != [],
        is_initialized=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        device=lambda _: nullcontext(),
        _is_in_bad_fork=lambda: False,
        manual_seed_all=lambda _: None,
        get_rng_state=lambda *_: torch.get_rng_state(),
        set_rng_state=lambda state, *_: torch.set_rng_state(state),
        get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16],
    )
    _setup_privateuseone_for_python_backend(name, module)
    return torch.device(name, 0)


DEVICE = register()

PRESENT: list["FakeGPU"] = []
"""The device within `fake_gpu()`, nothing elsewhere: tests that ask torch for an accelerator find none."""


class DeviceTensor(Tensor):
    """A tensor of the device.

    Attributes:
        held: its numbers, on the CPU.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "DeviceTensor":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        wrapper = Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=DEVICE, **layout)
        wrapper.held = held
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError("a tensor of the fake device is used outside of `with fake_gpu()`")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        generator = (kwargs or {}).get("generator")
        if generator is not None and generator.device.type != DEVICE.type:
            raise RuntimeError(f"Expected a '{DEVICE.type}' device type for generator but found '{generator.device}'")
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    def tolist(self) -> Any:  # torch's own is for plain tensors alone
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.cpu().numpy()
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def __repr__(self, **_: Any) -> str:
        return f"tensor({tuple(self.shape)}, {self.dtype}, device='{DEVICE}')"


class Generator(torch.Generator):
    """`torch.Generator` while the device is there. Its numbers are the CPU's, so that the two can be compared."""

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls, "cpu")
        made.wanted = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.wanted


class FakeGPU(TorchDispatchMode):
    """Computes every operator that touches the device.

    Attributes:
        waits, uploads: where Python waited for the device, or copied to it: "operator at file:line", the innermost line
            of vl3ref.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.uploads: list[str] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        ours = [x for x in tensors if isinstance(x, DeviceTensor)]
        wanted = next((x for x in leaves if isinstance(x, torch.device)), None)
        if not ours and (wanted is None or wanted.type != DEVICE.type):
            return operator(*args, **kwargs)
        with self:  # a composite operator does what its parts do
            result = operator.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        name, to_device = operator.overloadpacket, bool(ours) if wanted is None else wanted.type == DEVICE.type
        if name not in COPIES:
            check_devices(operator, args, tensors)
        self.note(name, args, to_device)
        if wanted is not None:
            kwargs = {**kwargs, "device": wanted if not to_device else torch.device("cpu")}
        if name is ATEN.copy_ and not isinstance(args[0], DeviceTensor):
            to_device = False
        wrappers = {id(x.held): x for x in ours}
        args, kwargs = tree_map(lambda x: x.held if isinstance(x, DeviceTensor) else x, (args, kwargs))
        result = operator(*args, **kwargs)
        return tree_map(lambda x: wrap(x, wrappers) if isinstance(x, Tensor) and to_device else x, result)

    def note(self, name: Any, args: Any, to_device: bool) -> None:
        """Write down what a GPU would make Python wait for."""
        if name in COPIES:
            source, target = (args[1], args[0]) if name is ATEN.copy_ else (args[0], None)
            from_device = isinstance(source, DeviceTensor)
            to_device = isinstance(target, DeviceTensor) if target is not None else to_device
            if from_device and not to_device:
                self.waits.append(place(name))
            if to_device and not from_device:
                self.uploads.append(place(name))
        elif name in INDEXES:
            indices = [x for x in args[1] if x is not None]
            masks = [x for x in indices if x.dtype in (torch.bool, torch.uint8)]
            filled = name is not ATEN.index and not isinstance(args[2], DeviceTensor) and args[2].ndim == 0
            if any(not isinstance(x, DeviceTensor) for x in indices):
                self.uploads.append(place(name))
            if masks and not filled:
                self.waits.append(place(name))
        elif name is ATEN.isin:
            elements, among = args[:2]
            if among.numel() >= 10 * elements.numel() ** 0.145:  # torch sorts then, and asks how many are distinct
                self.waits.append(place(name))
        elif name in WAITS:
            self.waits.append(place(name))


def check_devices(operator: Any, args: Any, tensors: list[Tensor]) -> None:
    """Raise what torch raises where devices mix."""
    name = operator.overloadpacket
    elsewhere = [x for x in tensors if not isinstance(x, DeviceTensor)]
    if name in INDEXES and isinstance(args[0], DeviceTensor):
        elsewhere = [x for x in elsewhere if not any(x is index for index in args[1])]
    if name in NUMBERS or torch.Tag.pointwise in operator.tags:
        elsewhere = [x for x in elsewhere if x.ndim or (x is args[0] and operator._schema.is_mutable)]
    if elsewhere:
        raise RuntimeError(
            f"{operator}: Expected all tensors to be on the same device, but found at least two devices, {DEVICE} and "
            f"{elsewhere[0].device}!"
        )


def wrap(x: Tensor, wrappers: dict[int, DeviceTensor]) -> DeviceTensor:
    """The tensor that held x before, if an operator wrote in place."""
    wrapper = wrappers.get(id(x))
    if wrapper is None:
        return DeviceTensor(x)
    if wrapper.shape != x.shape or wrapper.stride() != x.stride():
        raise NotImplementedError("operators that change a tensor's shape in place")
    return wrapper


def place(name: Any) -> str:
    """The operator, and the innermost line of vl3ref that led to it."""
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    where = "no line of it" if frame is None else f"{Path(frame.f_code.co_filename).relative_to(ROOT)}:{frame.f_lineno}"
    return f"{name.__name__} at {where}"


@contextmanager
def fake_gpu() -> Iterator[FakeGPU]:
    """The device is there within this context."""
    generator = torch.Generator
    # A thread of autograd's own for the device could still hold Python objects when the process ends.
    with FakeGPU() as gpu, torch.autograd.set_multithreading_enabled(False):
        PRESENT.append(gpu)
        torch.Generator = Generator  # type: ignore[misc]
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=DEVICE) copies a CPU tensor, and says so
        try:
            yield gpu
        finally:
            PRESENT.remove(gpu)
            torch.Generator = generator  # type: ignore[misc]
            torch._C._set_only_lift_cpu_tensors(bool(PRESENT))
