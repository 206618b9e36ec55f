"""Steps of a trainee as CUDA graphs: launched as one, instead of thousands of kernels one by one.

A trainee that can be captured names methods in `captured`: each does work on the device alone, from tensors (in lists
too) and plain values, and returns tensors by name. It reads nothing else that differs from call to call within a phase,
and counts nothing; it never waits for the device (no `.item()`) or copies to it. A call's kind is the shapes of its
tensors and its plain values. The first `WARM_UP` calls of a kind run as ever, on the stream that captures; the next is
captured, and from then on the graph is launched, on copies of the tensors. With a new phase, or learning rate, all of
that begins anew. All calls are true steps, and random numbers are those that would have been drawn.

Where a capture fails, that is logged once, and all goes on as without.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from uadray.detectors.trainee import Trainee

log = logging.getLogger(__name__)

WARM_UP = 3
"""Calls of a kind before it is captured: cuDNN has chosen its ways by then, and the optimizer has its state."""

Results = dict[str, Tensor]
Method = Callable[..., Results]
Launch = Callable[[tuple[Any, ...]], Results]
"""Plays what was captured with other tensors."""


class Recorder(Protocol):
    """Runs methods, and captures them."""

    def run(self, method: Method, args: tuple[Any, ...]) -> Results:
        """Call the method as it is."""
        ...

    def capture(self, method: Method, args: tuple[Any, ...]) -> Launch | None:
        """Capture a call without making it; None, from then on for all, where that fails."""
        ...


def capture_steps(trainee: Trainee, device: torch.device) -> None:
    """Have the methods that a trainee names in `captured` captured; on a CPU, or where it names none, nothing changes.

    Those of its `parts` too: a detector that trains a generator has one. After the optimizers have been filled from a
    checkpoint.
    """
    parts: tuple[Trainee, ...] = (trainee, *getattr(trainee, "parts", ()))
    named = [(part, name) for part in parts for name in getattr(part, "captured", ())]
    if device.type != "cuda" or not named:
        log.info("steps are not captured: %s", "no GPU" if named else "this training has none that can be")
        return
    for optimizer in trainee.optimizers.values():
        make_capturable(optimizer)
    recorder = GraphRecorder(device)
    for part, name in named:
        setattr(part, name, CapturedMethod(getattr(part, name), recorder, partial(state_of, part)))


def make_capturable(optimizer: Optimizer) -> None:
    """Count an optimizer's steps on the device of its parameters, where they can be captured."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    for parameter, state in optimizer.state.items():
        if "step" in state:
            state["step"] = torch.as_tensor(state["step"], dtype=torch.float32).to(parameter.device)


def state_of(trainee: Trainee) -> Hashable:
    """What a graph has in it of the trainee: its phase (of those that can be captured, images say it) and its rates."""
    rates = [group["lr"] for optimizer in trainee.optimizers.values() for group in optimizer.param_groups]
    return trainee.phase(0.0), *rates


class CapturedMethod:
    """A method of which each kind of call is captured once in every state of its trainee."""

    def __init__(self, method: Method, recorder: Recorder, state: Callable[[], Hashable] = lambda: None) -> None:
        self._method, self._recorder, self._state = method, recorder, state
        self._captured_in: Hashable = None
        self._calls: Counter[Hashable] = Counter()
        self._launches: dict[Hashable, Launch | None] = {}

    def __call__(self, *args: Any) -> Results:
        """The method's results."""
        if (state := self._state()) != self._captured_in:
            self._captured_in = state
            self._calls.clear()
            self._launches.clear()
        kind = kind_of(args)
        self._calls[kind] += 1
        if self._calls[kind] > WARM_UP and kind not in self._launches:
            self._launches[kind] = self._recorder.capture(self._method, args)
        launch = self._launches.get(kind)
        return self._recorder.run(self._method, args) if launch is None else launch(args)


def kind_of(arg: Any) -> Hashable:
    """What calls must have in common to be one kind."""
    if isinstance(arg, list | tuple):
        return tuple(kind_of(each) for each in arg)
    return (arg.shape, arg.stride(), arg.dtype, arg.device) if isinstance(arg, Tensor) else arg


def tensors_of(arg: Any) -> Iterator[Tensor]:
    """The tensors in an argument, in their order."""
    if isinstance(arg, list | tuple):
        for each in arg:
            yield from tensors_of(each)
    elif isinstance(arg, Tensor):
        yield arg


def copied(arg: Any) -> Any:
    """The argument with copies of its tensors."""
    if isinstance(arg, list | tuple):
        return [copied(each) for each in arg]
    return arg.clone() if isinstance(arg, Tensor) else arg


class GraphRecorder:
    """Captures on one stream; the graphs share their memory, since they run one after the other."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._has_failed = False

    def run(self, method: Method, args: tuple[Any, ...]) -> Results:
        """Call the method, on the stream that captures."""
        torch.clear_autocast_cache()  # a graph reads weights as they are, not as they were rounded before
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This instance was constructed with capturable")
            results = method(*args)
        here.wait_stream(self._stream)
        for tensor in tensors_of(args):
            tensor.record_stream(self._stream)
        for tensor in results.values():
            tensor.record_stream(here)
        torch.clear_autocast_cache()
        return results

    def capture(self, method: Method, args: tuple[Any, ...]) -> Launch | None:
        """Capture a call."""
        if self._has_failed:
            return None
        inputs = copied(args)
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        before = generator.clone_state()
        torch.clear_autocast_cache()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                outputs = method(*inputs)
        except RuntimeError as error:
            torch.cuda.set_stream(here)
            generator.graphsafe_set_state(before)  # its own still waits for the end of the capture
            self._has_failed = True
            log.warning("steps cannot be captured, and run one kernel at a time: %s", str(error).splitlines()[0])
            return None
        finally:
            torch.clear_autocast_cache()

        def launch(args: tuple[Any, ...]) -> Results:
            for own, given in zip(tensors_of(inputs), tensors_of(args), strict=True):
                own.copy_(given)
            graph.replay()
            return {name: output.clone() for name, output in outputs.items()}

        return launch
