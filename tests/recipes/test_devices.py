"""Which devices a child sees, which of them it says that it used, and what is told of a machine at no cost."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from recipes.child import _environment
from recipes.engines.devices import CUDA, HIP, ROCR, kind_of
from recipes.task import Task
from recipes.worker import _kind_of_device
from registry.errors import UsageError


def seen(device: str, **environment: str) -> dict[str, str]:
    """The variables about devices that a child gets."""
    task = Task("llmcompressor", {}, Path("/"), Path("/"), (), device)
    got = _environment(task, {"HF_TOKEN": "secret", "LC_ALL": "C", **environment})
    assert "HF_TOKEN" not in got and got["LC_ALL"] == "C"
    return {key: value for key, value in got.items() if "DEVICE" in key}


@pytest.mark.parametrize(
    ("device", "ours", "child"),
    [
        ("auto", {}, {}),
        ("auto", {CUDA: "2,3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, {CUDA: "2,3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        ("auto", {HIP: "1", ROCR: "0,1"}, {HIP: "1", ROCR: "0,1"}),
        ("auto", {CUDA: ""}, {CUDA: ""}),
        ("cpu", {}, {CUDA: "", HIP: "-1"}),
        ("cpu", {CUDA: "0"}, {CUDA: "", HIP: "-1"}),
        ("cuda", {CUDA: "2,3"}, {CUDA: "2,3"}),
        ("cuda:1", {}, {CUDA: "1"}),
        ("cuda:1", {CUDA: "2, 3"}, {CUDA: "3"}),
        ("cuda:0", {CUDA: "GPU-8932f937,1"}, {CUDA: "GPU-8932f937"}),
        ("cuda:1", {HIP: "5,6"}, {HIP: "6", CUDA: "1"}),
        ("cuda:1", {ROCR: "5,6"}, {ROCR: "5,6", CUDA: "1"}),
    ],
)
def test_what_a_child_sees(device: str, ours: dict[str, str], child: dict[str, str]) -> None:
    assert seen(device, **ours) == child


@pytest.mark.parametrize(
    ("device", "ours", "expected"),
    [
        ("cuda:2", {CUDA: "4,5"}, "cuda:0 to cuda:1"),
        ("cuda:1", {CUDA: "4,-1,5"}, "cuda:0 to cuda:0"),
        ("cuda:0", {CUDA: ""}, "a GPU that can be seen"),
        ("cuda:0", {CUDA: "-1"}, "a GPU that can be seen"),
        ("cuda:1", {HIP: "0"}, "cuda:0 to cuda:0"),
    ],
)
def test_a_number_that_is_not_listed_is_no_other_device(device: str, ours: dict[str, str], expected: str) -> None:
    with pytest.raises(UsageError, match="there is no such device") as caught:
        seen(device, **ours)
    ((key, value),) = ours.items()
    assert (caught.value.expected, caught.value.found) == (expected, f"{device}, while {key} is {value!r}")


def machine(root: Path, *names: str, devices: tuple[str, ...] = ()) -> Path:
    """A root folder that says of itself what GPUs a machine has: other machines than this one have them."""
    for at, name in enumerate(names):
        folder = root / f"proc/driver/nvidia/gpus/{at}"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {name}\nIRQ:   1\n")
    (root / "dev").mkdir(parents=True)
    for device in devices:
        (root / "dev" / device).touch()
    return root


def test_what_a_machine_has(tmp_path: Path) -> None:
    one = machine(tmp_path / "one", "NVIDIA H100", "NVIDIA H100")
    assert kind_of("auto", {}, one) == kind_of("cuda:1", {}, one) == "NVIDIA H100"
    assert kind_of("cpu", {}, one) == kind_of("auto", {CUDA: ""}, one) == kind_of("auto", {CUDA: "-1"}, one) == "cpu"
    none = machine(tmp_path / "none")
    assert kind_of("auto", {}, none) == "cpu"


def test_gpus_of_several_kinds_are_told_apart(tmp_path: Path) -> None:
    two = machine(tmp_path, "NVIDIA H100", "NVIDIA L4")
    kinds = [kind_of("cuda:0", {}, two), kind_of("cuda:1", {}, two), kind_of("cuda:0", {CUDA: "1"}, two)]
    assert len({*kinds}) == 3
    assert all(kind.startswith("NVIDIA H100 and NVIDIA L4") for kind in kinds)


@pytest.mark.parametrize("device", ["kfd", "dxg"])
def test_gpus_without_the_driver_of_nvidia_are_no_cpu(device: str, tmp_path: Path) -> None:
    """AMD's, and those that Windows lends to its Linux."""
    assert kind_of("auto", {}, machine(tmp_path, devices=(device,))) != "cpu"


def torch(names: list[str], used: list[int], *, begun: bool = True) -> SimpleNamespace:
    """A double of what torch says of its GPUs: no machine of the tests has them."""
    return SimpleNamespace(
        cuda=SimpleNamespace(
            is_initialized=lambda: begun,
            device_count=lambda: len(names),
            get_device_name=names.__getitem__,
            max_memory_allocated=used.__getitem__,
        )
    )


@pytest.mark.parametrize(
    ("there", "kind"),
    [
        (torch(["NVIDIA H100"], [5]), "NVIDIA H100"),
        (torch(["NVIDIA L4", "NVIDIA H100", "NVIDIA L4"], [5, 5, 5]), "NVIDIA H100 and NVIDIA L4"),
        (torch(["NVIDIA L4", "NVIDIA H100"], [0, 5]), "NVIDIA H100"),
        (torch(["NVIDIA H100"], [0]), "cpu"),
        (torch(["NVIDIA H100"], [5], begun=False), "cpu"),
        (None, "cpu"),
    ],
)
def test_what_computed(there: object, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", there)
    assert _kind_of_device() == kind


def test_threads_of_a_child_wait_asleep() -> None:
    """Those that turn in circles keep others from working: on a busy machine a passage took ten times as long."""
    task = Task("transformers", {}, Path("/"), Path("/"), ())
    assert _environment(task, {"OMP_WAIT_POLICY": "active"})["OMP_WAIT_POLICY"] == "passive"
