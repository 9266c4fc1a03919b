"""What arXiv 2401.10774 (Medusa) swept and simulated: its grid, models and GPUs, once."""

SOURCE = "arXiv 2401.10774"
RESULTS = "results/paper"  # its printed tables and readings, as they ship

# The appendix: 7 x 7 settings, 8 candidate counts, three models on three GPUs.
PAPER_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
PAPER_SEQ_LENS = (128, 256, 512, 1024, 2048, 4096, 8192)
PAPER_NUM_CANDIDATES = (1, 16, 32, 48, 64, 80, 96, 112)
PAPER_MODELS = ("llama-7b", "llama-13b", "llama-33b")
PAPER_GPUS = ("a100-80gb-pcie", "a40", "a6000")

PAPER_GPU = PAPER_GPUS[0]  # of its simulations and printed tables
SIMULATED_MODEL = PAPER_MODELS[0]  # of figures 21 to 23
