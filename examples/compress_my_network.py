"""Calibrate, attach and evaluate your own network, in ten lines. Run: python examples/compress_my_network.py"""

import torch
from torch import nn

from tensorpress import features

torch.manual_seed(0)
net = nn.Sequential(  # any nn.Module will do
    nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
    nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.SiLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
).eval()  # fmt: skip
pictures = [torch.randn(1, 3, 64, 64) for _ in range(12)]

plan = features.calibrate(net, pictures[:4], "dct_cm", max_kl=0.001)
row = features.evaluate(net, plan, pictures[4:])
print(f"{row['sites']} sites, {row['ratio']:.2f}x of 8 bits, KL {row['kl']:.5f} nats, agreement {row['agreement']:.2f}")
for layer in row["layers"]:
    print(f"  {layer['site']:10} {layer['shape']}  {layer['ratio']:.2f}x  density {layer['density']:.2f}")
