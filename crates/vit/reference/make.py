"""Writes what PyTorch, timm and transformers compute for small vision transformers.

Each file holds the weights (model.*, under the names of the library), a batch (input), and the logits in
evaluation mode. It is committed; run this again (scripts/reference) only to change what it holds.
"""

import huggingface
import original
import timm_models

if __name__ == "__main__":
    timm_models.main()
    huggingface.main()
    original.main()
