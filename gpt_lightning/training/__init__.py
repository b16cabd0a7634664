"""Training, apart from the LightningModule: what happens between a loss and a step of the optimiser."""
