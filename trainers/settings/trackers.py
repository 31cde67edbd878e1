"""Where a run's metrics go: are the packages there that training.report_to names?"""

from collections.abc import Callable
from typing import Any

from transformers.integrations import integration_utils as installed

from trainers.settings.options import refusal, require

# value of training.report_to -> whether it can be used here, what is missing if not
TRACKERS: dict[str, tuple[Callable[[], Any], str]] = {
    "azure_ml": (installed.is_azureml_available, "pip install azureml-sdk"),
    "clearml": (installed.is_clearml_available, "pip install clearml"),
    "codecarbon": (installed.is_codecarbon_available, "pip install codecarbon"),
    "comet_ml": (installed.is_comet_available, "pip install comet-ml"),
    "dagshub": (installed.is_dagshub_available, "pip install dagshub"),
    "dvclive": (installed.is_dvclive_available, "pip install dvclive"),
    "flyte": (installed.is_flytekit_available, "pip install flytekit"),
    "kubeflow": (installed.is_kubeflow_available, "a Kubeflow TrainJob, which sets KUBEFLOW_TRAINER_SERVER_URL"),
    "mlflow": (installed.is_mlflow_available, "pip install mlflow"),
    "neptune": (installed.is_neptune_available, "pip install neptune"),
    "swanlab": (installed.is_swanlab_available, "pip install swanlab"),
    "tensorboard": (installed.is_tensorboard_available, "pip install tensorboard"),
    "trackio": (installed.is_trackio_available, "pip install trackio"),
    "wandb": (installed.is_wandb_available, "pip install wandb"),
}
WORDS = ("all", "none")  # all that are installed


def check_trackers(args: Any) -> None:
    """Raise ConfigError for a tracker that is not known or not installed, before there is work to lose.

    Args:
        args: options of a trainer; transformers has made a list of report_to.
    """
    asked = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    for name in asked:
        if name in WORDS:
            continue
        require(args, "report_to", name in TRACKERS, f"some of {', '.join(TRACKERS)}, or one of {', '.join(WORDS)}")
        is_there, missing = TRACKERS[name]
        if not is_there():
            raise refusal(args, "report_to", f"{name} is not here; it needs: {missing}")
