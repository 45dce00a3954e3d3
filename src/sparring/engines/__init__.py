"""Other engines that sample or train: vLLM and training services."""
