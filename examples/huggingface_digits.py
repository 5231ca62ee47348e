"""The recorder in Hugging Face's Trainer: a small BERT reads the rows of a digit as tokens.

python examples/huggingface_digits.py [--out runs/huggingface] [--epochs 6]
"""

import tempfile

from common import arguments, digits, show
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from fmce.integrations.transformers import TrainerMaturityCallback

options = arguments("runs/huggingface", epochs=6)
images, targets = digits()
# A token per pixel: its grey level 0 to 16.
tokens = (16 * images).long().flatten(1)


class Digits(Dataset):  # type: ignore[type-arg]
    """The digits as token sequences."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> dict[str, object]:
        return {"input_ids": tokens[self.start + index], "labels": targets[self.start + index]}


config = BertConfig(
    vocab_size=17,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=64,
    num_labels=10,
)
model = BertForSequenceClassification(config)
layers = ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1", "bert.pooler", "classifier"]
callback = TrainerMaturityCallback(options.out, layers, probe={"input_ids": tokens[:128]})
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
