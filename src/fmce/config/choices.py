"""The words that options and config fields choose from. Imports nothing heavy, so `--help` stays quick."""

from typing import Literal

Schedule = Literal["cosine", "constant", "step"]
Auxiliary = Literal["none", "ral", "feature_matching", "ridge_probe"]
OracleWeights = Literal["trained", "random"]
Init = Literal["scratch", "checkpoint"]
Split = Literal["map", "image", "run", "test"]
Storage = Literal["recompute", "memory", "stored"]
Keep = Literal["all", "markers", "last"]
KeepRecorded = Literal["all", "thinned", "none"]
Precision = Literal["float32", "bfloat16"]

Control = Literal[
    "random_oracle",
    "phase_1",
    "scaled_rate",
    "feature_matching",
    "label_smoothing",
    "weight_average",
    "ridge_probe",
]
Length = Literal["convergence", "full"]

TaskName = Literal["segment", "classify", "detect"]
ImageStorage = Literal["auto", "memory", "files"]
UnannotatedImages = Literal["empty", "skip", "error"]
LabelColumns = Literal["auto", "box", "polygon"]
TeacherPrecision = Literal["auto", "float32", "bfloat16"]
Arm = Literal["supervised", "distilled", "function_matching"]
ARMS: tuple[Arm, ...] = ("supervised", "distilled", "function_matching")

# Numbers of FMCE-Net and of Grad-CAM, in the order of tables.
FMCE_NET_METRICS = ("accuracy", "precision", "recall", "f1", "mae", "spearman", "kappa")
GRAD_CAM_NUMBERS = ("gini", "area_above_half_max", "centroid_drift", "overlap")
