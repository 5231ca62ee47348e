"""timm's models, imported when one is asked for."""

from typing import Any

from fmce.models.options import check_options


def import_timm(what: str) -> Any:
    """Return the package timm, which `what` needs.

    Raises:
        ModuleNotFoundError: If timm is not installed.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{what} needs timm: pip install 'fmce[timm]'") from error
    return timm


def timm_encoder(name: str, *, pretrained: bool, **options: Any) -> Any:
    """Build a timm model that returns its stages' maps; `feature_info` has their strides and channels.

    Weights are loaded, and where needed downloaded, if `pretrained`. Options go to `timm.create_model`.

    Raises:
        ValueError: If the name or an option is unknown, or the model gives no such maps.
        ModuleNotFoundError: If timm is not installed.
    """
    timm = import_timm(f"the encoder {name!r}")
    if not timm.is_model(name):
        raise ValueError(f"expected the name of a timm model, got {name!r}; see timm.list_models()")
    check_options(name, timm.model_entrypoint(name), options, "output_stride", "out_indices")
    try:
        return timm.create_model(name, pretrained=pretrained, features_only=True, **options)
    except Exception as error:  # whatever a constructor makes of its options
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        raise ValueError(
            f"timm's {name!r} gives no feature maps with {given} ({error}); choose a convolutional "
            "encoder such as resnet18, resnet101 or test_resnet"
        ) from error
