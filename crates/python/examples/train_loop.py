"""Our batches in a plain PyTorch loop: python train_loop.py DATASET DATA_ROOT EPOCHS"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader

import talent_ris

name, root, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = talent_ris.Dataset(name, root)


class Network(nn.Module):  # Yours goes here.
    def __init__(self, width=32):
        super().__init__()
        self.words = nn.Embedding(49408, width)
        self.image = nn.Conv2d(3, width, 8, stride=8)
        self.mask = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(width, 1, 8, stride=8))

    def forward(self, images, words):
        sentence = self.words(words).mean(1)
        return self.mask(self.image(images) * sentence[:, :, None, None])


network = Network()
optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
for epoch in range(epochs):
    # The next batch is prepared meanwhile, by threads in Rust. DataLoader(..., batch_size=None, num_workers=2) works, too.
    for batch in DataLoader(data.batches("train", 4, 128, epoch=epoch), batch_size=None):
        logits = network(batch["images"], batch["words"])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, batch["masks"])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"epoch {epoch}: loss {loss.item():.4f}")
