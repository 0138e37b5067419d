"""Runs the dense model beside it in eager PyTorch: "THREADS BATCH INDEX" a line, answered by the
milliseconds of one forward pass, on the wall and on processors."""

import json
import sys
import time
from pathlib import Path

import espalier_vit
import torch
from safetensors.torch import load_file

torch.set_num_threads(1)
here = Path(__file__).parent
model = espalier_vit.load(here)
x_BCHW = load_file(here / "images.safetensors")["x"]

with torch.no_grad():
    print(json.dumps(model(x_BCHW[:1], mode="open")[0].tolist()), flush=True)
    for line in sys.stdin:
        threads, batch, index = map(int, line.split())
        torch.set_num_threads(threads)
        own_BCHW = x_BCHW[index * batch : (index + 1) * batch]
        wall, processor = time.perf_counter(), time.process_time()
        model(own_BCHW, mode="open")
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(wall * 1e3, processor * 1e3, flush=True)
