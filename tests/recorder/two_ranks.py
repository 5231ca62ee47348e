"""Train with a recorder in the processes that torchrun started: python -m … FOLDER."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from fmce import Recorder
from tests.recorder.loops import Small, digits

folder = Path(sys.argv[1])
dist.init_process_group("gloo")
rank, images, targets = dist.get_rank(), *digits()
torch.manual_seed(0)
model = Small()
model.head[1].p = 0.0
parallel = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.Adam(parallel.parameters(), lr=3e-3)
recorder = Recorder(folder / "run", parallel, probe=images[:32], optimizer=optimizer)
start = recorder.start()
for _ in range(start, start + 3):
    parallel.train()
    # 400 and 200 samples: a mean of the ranks' means would be another one.
    own = torch.arange(400) if rank == 0 else torch.arange(400, 600)
    for index in own.chunk(4):
        loss = F.cross_entropy(parallel(images[index]), targets[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step(loss, len(index))
    status = recorder.end_epoch()
    if rank == 0:
        torch.save(model.state_dict(), folder / "weights.pt")
(folder / f"rank{rank}.txt").write_text(f"{recorder.epoch} {status}\n", encoding="utf-8")
recorder.close()
dist.destroy_process_group()
