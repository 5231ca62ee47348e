"""`fmce export`: a matched student as a plain state dict, a `torch.export` program and ONNX, each checked."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fmce.config.choices import Arm
from fmce.config.distillation import DistillationConfig
from fmce.config.io import from_yaml
from fmce.console.tables import number, print_table
from fmce.distillation.data.dataset import read_distillation_data
from fmce.distillation.experiment import load_student
from fmce.distillation.teacher import load_teacher
from fmce.files import replacing, write_json
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
    quiet: bool = False,
) -> dict[str, Any]:
    """Write a trained student in three forms, compare their outputs, and measure it beside its teacher.

    Args:
        experiment: folder of `fmce distill`.
        out: folder to write: student.safetensors, student.pt2, student.onnx, export.json.
        arm: which student.
        seed: which seed; the experiment's first by default.
        onnx: also write ONNX (needs the extra `export`).
        quiet: print nothing.

    Returns:
        The contents of `export.json`: largest relative differences, and size and speed of both networks.

    Raises:
        FileNotFoundError: the experiment or the student is not there.
        ValueError: an exported form gives other outputs than the network.
    """
    if not (experiment / "distill.json").exists():
        raise FileNotFoundError(
            f"{experiment} has no distill.json; run: fmce distill --out {experiment}"
        )
    config = from_yaml(DistillationConfig, experiment / "config.yaml")
    data = read_distillation_data(experiment)
    student = load_student(config, experiment, data, arm, config.seeds[0] if seed is None else seed)
    teacher = load_teacher(config, experiment, data)
    inference = for_inference(student)
    images = torch.randn(
        2, 3, config.data.height, config.data.width, generator=torch.Generator().manual_seed(0)
    )
    out.mkdir(parents=True, exist_ok=True)
    save_weights(out / "student.safetensors", student.state_dict())
    differences = {"torch.export": _export_program(inference, images, out / "student.pt2")}
    if onnx:
        differences["onnx"] = _export_onnx(inference, images, out / "student.onnx")
    for form, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the {form} form differs from the network by {difference:.2g}, above {TOLERANCE}"
            )
    sizes = {
        "student": measure_network(inference, images[:1]),
        "teacher": measure_network(for_inference(teacher), images[:1]),
    }
    result = {
        "arm": arm,
        "class_names": list(data.class_names),
        "mean": list(data.mean),
        "std": list(data.std),
        "input": list(images.shape[1:]),
        "relative_differences": differences,
        **sizes,
    }
    write_json(out / "export.json", result)
    if not quiet:
        _print(out, result)
    return result


def _export_program(model: nn.Module, images: Tensor, path: Path) -> float:
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(model, (images,), dynamic_shapes={"images": {0: batch}})
    with replacing(path) as beside, open(beside, "wb") as file:
        torch.export.save(program, file)
    with torch.inference_mode():
        return _relative_difference(torch.export.load(path).module()(images), model(images))


def _export_onnx(model: nn.Module, images: Tensor, path: Path) -> float:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "ONNX export needs the extra: pip install 'fmce[export]'"
        ) from error
    batch = torch.export.Dim("batch", min=1, max=1024)
    with replacing(path) as beside:
        torch.onnx.export(
            model,
            (images,),
            beside,
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes={"images": {0: batch}},
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        return _relative_difference(torch.from_numpy(logits), model(images))


def _relative_difference(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max().clamp_min(1e-12))


def _print(out: Path, result: dict[str, Any]) -> None:
    rows = [
        (name, *(number(result[net][name], 4) for net in ("teacher", "student")))
        for name in ("parameters", "multiply_adds", "weights_mib", "activations_mib", "latency_ms")
    ]
    print_table("Teacher and student, one image, this machine", ("", "teacher", "student"), rows)
    for form, difference in result["relative_differences"].items():
        print(f"{form}: outputs differ by {difference:.1e} of the largest")
    print(f"written to {out}")
