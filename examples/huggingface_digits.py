"""The recorder in Hugging Face's Trainer: a small vision transformer on the digits.

python examples/huggingface_digits.py [--out runs/huggingface] [--epochs 6]
"""

import tempfile

from common import arguments, digits, show
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from fmce.integrations.transformers import TrainerMaturityCallback

options = arguments("runs/huggingface", epochs=6)
images, targets = digits()


class Digits(Dataset):  # type: ignore[type-arg]
    """The digits by the names that the model takes."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> dict[str, object]:
        at = self.start + index
        return {"pixel_values": images[at], "labels": targets[at]}


config = ViTConfig(
    image_size=8,
    patch_size=2,
    num_channels=1,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=96,
    num_labels=10,
)
model = ViTForImageClassification(config)
layers = [name for name, module in model.named_modules() if type(module).__name__ == "ViTLayer"]
modules = ["vit.embeddings", *layers, "classifier"]
callback = TrainerMaturityCallback(options.out, modules, probe={"pixel_values": images[:128]})
with tempfile.TemporaryDirectory() as folder:
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=folder,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=64,
            learning_rate=2e-3,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=Digits(0, 1400),
        eval_dataset=Digits(1400, 1797),
        callbacks=[callback],
    )
    trainer.train()
print(callback.status)
show(options.out)
