"""A trained student as a plain state dict, a `torch.export` program and ONNX, each checked against the network."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmce.config.choices import Arm
from fmce.config.trust import Trust
from fmce.digests import write_record
from fmce.distillation.experiment import open_experiment
from fmce.files import replacing
from fmce.metrics.network_cost import for_inference, measure_network
from fmce.runs.checkpoint import save_weights

# Largest difference of an exported model's logits, relative to their largest magnitude.
TOLERANCE = 1e-3


def export(
    experiment: Path,
    out: Path,
    *,
    arm: Arm = "function_matching",
    seed: int | None = None,
    onnx: bool = True,
    trust: Trust = False,
) -> dict[str, Any]:
    """Write a trained student in three forms, compare their outputs, and measure it beside its teacher.

    Args:
        experiment: Folder of `distill`.
        out: Folder to write: student.safetensors, student.pt2, student.onnx, export.json.
        arm: Which student.
        seed: Its seed; the experiment's first by default.
        onnx: Also write ONNX (needs the extra `export`).
        trust: Whether functions that the experiment's config names may run; or which.

    Returns:
        The contents of `export.json`: "relative_differences" of each form's outputs to the network's, and
        parameters, multiply-adds and latency of "student" and "teacher" on one image on the CPU.

    Raises:
        FileNotFoundError: If the experiment or the student does not exist.
        ValueError: If an exported form gives other outputs than the network.
    """
    opened = open_experiment(experiment, trust=trust)
    config, data = opened.config, opened.data
    student = opened.load_student(arm, seed)
    inference = for_inference(student)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, config.data.height, config.data.width, generator=generator)
    out.mkdir(parents=True, exist_ok=True)
    save_weights(out / "student.safetensors", student.state_dict())
    differences = {"torch.export": _export_program(inference, images, out / "student.pt2")}
    if onnx:
        differences["onnx"] = _export_onnx(inference, images, out / "student.onnx")
    for form, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ValueError(f"{form} differs from the network by {difference:.2g} > {TOLERANCE}")
    result = {
        "arm": arm,
        "class_names": list(data.class_names),
        "mean": list(data.mean),
        "std": list(data.std),
        "input": list(images.shape[1:]),
        "relative_differences": differences,
        "student": measure_network(inference, images[:1]),
        "teacher": measure_network(for_inference(opened.load_teacher()), images[:1]),
    }
    write_record(out / "export.json", result)
    return result


_ANY_BATCH = {"images": {0: torch.export.Dim("batch", min=1, max=1024)}}


def _export_program(model: nn.Module, images: Tensor, path: Path) -> float:
    program = torch.export.export(model, (images,), dynamic_shapes=_ANY_BATCH)
    with replacing(path) as beside, open(beside, "wb") as file:
        torch.export.save(program, file)
    with torch.inference_mode():
        return _relative_difference(torch.export.load(path).module()(images), model(images))


def _export_onnx(model: nn.Module, images: Tensor, path: Path) -> float:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("ONNX needs the extra: pip install 'fmce[export]'") from error
    options: dict[str, Any] = {"dynamo": True, "dynamic_shapes": _ANY_BATCH, "verbose": False}
    options |= {"input_names": ["images"], "output_names": ["logits"]}
    with replacing(path) as beside:
        torch.onnx.export(model, (images,), beside, **options)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        return _relative_difference(torch.from_numpy(logits), model(images))


def _relative_difference(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max().clamp_min(1e-12))
