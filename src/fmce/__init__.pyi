# The public API, by method. `fmce/__init__.py` reads this file, so a name is listed here and nowhere else;
# `as` tells type checkers that it is exported.

__version__: str

# Method 1, FMCE: from a loss curve to convergence phases and FMCE-Net
from .config.run import RunConfig as RunConfig
from .convergence.cqi import cqi as cqi
from .convergence.phases import PhaseConfig as PhaseConfig
from .convergence.phases import Phases as Phases
from .convergence.phases import find_phases as find_phases
from .convergence.prediction import predict_convergence_epoch as predict_convergence_epoch
from .convergence.smoothing import smooth_losses as smooth_losses
from .convergence.verdict import Verdict as Verdict
from .convergence.verdict import judge_curve as judge_curve
from .engine.loop import fit as fit
from .feature_maps.in_memory import InMemoryMaps as InMemoryMaps
from .feature_maps.recomputed import RecomputedMaps as RecomputedMaps
from .feature_maps.splits import split_maps as split_maps
from .maturity.audit import Audit as Audit
from .maturity.audit import audit as audit
from .maturity.audit_runs import audit_runs as audit_runs
from .maturity.controls import fitted_predictor as fitted_predictor
from .maturity.controls import scorer_predictor as scorer_predictor
from .maturity.evaluate import evaluate as evaluate
from .maturity.histories import run_histories as run_histories
from .maturity.train_classifier import train_classifier as train_classifier
from .maturity.train_fmce_net import train_fmce_net as train_fmce_net
from .metrics.phases import PhaseMetrics as PhaseMetrics
from .metrics.phases import phase_metrics as phase_metrics
from .models.build import build_model as build_model
from .models.features import FeatureMaps as FeatureMaps
from .models.fmce_net import FMCENet as FMCENet
from .models.grad_cam import grad_cam as grad_cam
from .runs.run import Run as Run
from .runs.run import open_run as open_run
from .seeding import seed_epoch as seed_epoch

# Any training loop, recorded
from .recorder.alarms import Alarm as Alarm
from .recorder.alarms import find_alarms as find_alarms
from .recorder.check import check_model as check_model
from .recorder.check import compare_weights as compare_weights
from .recorder.check_checkpoint import check_checkpoint as check_checkpoint
from .recorder.clocks import ModuleClock as ModuleClock
from .recorder.clocks import ModuleTable as ModuleTable
from .recorder.clocks import module_clock as module_clock
from .recorder.clocks import module_table as module_table
from .recorder.gram import debiased_cka as debiased_cka
from .recorder.gram import effective_rank as effective_rank
from .recorder.gram import gram_matrix as gram_matrix
from .recorder.gram import gram_triangle as gram_triangle
from .recorder.meter import ModuleMeter as ModuleMeter
from .recorder.prices import ModulePrice as ModulePrice
from .recorder.prices import module_prices as module_prices
from .recorder.probe import ScoredProbe as ScoredProbe
from .recorder.recorder import Recorder as Recorder
from .recorder.status import Status as Status

# How mature a module is, on runs never seen
from .recorder.statistics import module_statistics as module_statistics
from .recorder.statistics import twin_statistics as twin_statistics
from .scoring.class_statistics import class_statistics as class_statistics
from .scoring.free_statistics import free_statistics as free_statistics
from .scoring.history import ModuleHistory as ModuleHistory
from .scoring.history import continuous_phases as continuous_phases
from .scoring.scorer import MaturityScorer as MaturityScorer
from .scoring.scorer import MaturityScores as MaturityScores

# Method 2, FMCE-Net++: training with a frozen FMCE-Net, and paired comparisons
from .config.sweep import CompareConfig as CompareConfig
from .config.sweep import SweepConfig as SweepConfig
from .fmce_net_pp.compare import compare as compare
from .fmce_net_pp.sweep.results import Comparison as Comparison
from .fmce_net_pp.sweep.results import SweepResult as SweepResult
from .fmce_net_pp.sweep.run import sweep as sweep
from .losses.auxiliary import representation_auxiliary_loss as representation_auxiliary_loss
from .metrics.statistics import PairedComparison as PairedComparison
from .metrics.statistics import holm as holm
from .metrics.statistics import paired_comparison as paired_comparison

# Method 3, function matching: a compact student imitates a teacher
from .config.distillation import DistillationConfig as DistillationConfig
from .config.distillation import distillation_preset as distillation_preset
from .distillation.distill import distill as distill
from .distillation.export import export as export
from .distillation.predict import predict as predict
from .losses.detection import DetectionLosses as DetectionLosses
from .losses.detection import detection_distillation as detection_distillation
from .losses.distillation import kl_distillation as kl_distillation
from .losses.distillation import mixup as mixup
from .models.detection import DetectionOutput as DetectionOutput
from .models.fcos import fcos as fcos
from .models.pspnet import SegmentationOutput as SegmentationOutput
from .models.pspnet import pspnet as pspnet
