"""Feature extractors: networks in files that make features of examples.

The file is a safetensors file. Its metadata has one key, ``extractor``, whose value is JSON:

    {"format": "flowfabric.features/1",
     "shape": [3, 299, 299],      examples that the network takes: [C, H, W] of an image, or [D] of a point
     "mean": [0.0], "std": [1.0], subtracted from and divided by, one value for all channels or one for each
     "layers": [{"kind": "conv2d", "in_channels": 3, ...}, ...]}

Its tensors are those of a ``torch.nn.Sequential`` of these layers, ``0.weight`` and so on, as floating point numbers.
The kinds of layers are those of :mod:`trainer.model.feature_extractor.layers`: convolutions, linear layers, batch
normalisation with its running statistics, layer normalisation, activations, pools, attention, and branches whose
results are put side by side (as in Inception) or added (as in residual networks). What the last layer returns are the
features: [F] of an example, or [F, rows, columns] of its places, which are flattened where sets of examples are
compared. Nothing in it is code. `file.write_extractor` writes such a file, and `importing.import_extractor` makes one
of a published vision transformer.
"""
